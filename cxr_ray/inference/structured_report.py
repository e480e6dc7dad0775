"""DICOM in, DICOM out: a structured report (TID 1500, Comprehensive SR) of the predictions of one image, in the image's own study.

The patient and the study of a report are those of its image, copied as the standard asks of every object of a study; they go nowhere
else. File names and UIDs of reports are hashes. highdicom makes one report, from which the others are filled in: that takes a tenth of
its time.
"""
# L labels

import datetime
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cxr_ray.errors import UserError
from cxr_ray.imaging import dicom
from cxr_ray.imaging.pixels import ImageError
from cxr_ray.storage.atomic import write_atomic

if TYPE_CHECKING:
    from pydicom import Dataset

SCHEME = "99CXRRAY"
"""Private coding scheme: what has no code here that we are sure of. A code's meaning is the label."""
FINDINGS: Mapping[str, tuple[str, str]] = {
    "atelectasis": ("46621007", "Atelectasis"),
    "cardiomegaly": ("8186001", "Cardiomegaly"),
    "consolidation": ("95436008", "Lung consolidation"),
    "covid": ("840539006", "COVID-19"),
    "covid-19": ("840539006", "COVID-19"),
    "edema": ("19242006", "Pulmonary edema"),
    "pulmonary edema": ("19242006", "Pulmonary edema"),
    "effusion": ("60046008", "Pleural effusion"),
    "pleural effusion": ("60046008", "Pleural effusion"),
    "emphysema": ("87433001", "Pulmonary emphysema"),
    "fracture": ("125605004", "Fracture of bone"),
    "pneumonia": ("233604007", "Pneumonia"),
    "pneumothorax": ("36118008", "Pneumothorax"),
}
"""SNOMED CT code and meaning by label in lower case. Those of edema, effusion and pneumothorax are in DICOM's own value sets (PS3.16). The
others were compared with public maps between terminologies (such as MedDRA's and OMOP's, and the EU's certificates for COVID-19), not with a
release of SNOMED CT, which is licensed."""
COPIED = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientIdentityRemoved",
    "DeidentificationMethod", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber",
    "ReferringPhysicianName",
)  # fmt: skip
"""Tags of the patient and the study (PS3.3 C.7.1, C.7.2), which all objects of a study share."""
ALWAYS = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
    "ReferringPhysicianName",
)  # fmt: skip
"""Of these, those that an object must have, if need be empty (type 2)."""
OWN = ("SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "InstanceNumber")
SERIES_NUMBER = 9000
RESEARCH = "Research use only, not for diagnosis"


@dataclass(frozen=True)
class ReportedModel:
    """What made the predictions."""

    name: str
    """Of the run."""
    version: str
    """sha256 of its weights."""
    software: str
    """Such as cxr_ray 0.1.0."""
    labels: tuple[str, ...]
    thresholds: Mapping[str, float]
    """By label; empty for classes."""
    rule: str
    """How it is decided, in words."""
    is_calibrated: bool
    digest: str
    """Of the settings: equal predictions of an image get reports with equal UIDs."""


def require_extra() -> None:
    """Raises `UserError` if the extra is not installed."""
    try:
        import highdicom  # noqa: F401
        import pydicom  # noqa: F401
    except ImportError:
        raise UserError("structured reports need the extra dicom: pip install 'cxr_ray[dicom]'") from None


def read_source(data: bytes) -> "Dataset | None":
    """The tags of a DICOM that its report needs, from the bytes of the file; None if it is no DICOM. Tags whose value is none of their
    kind, such as a number in words or two UIDs for one, are left out. Raises `ImageError` if the file is damaged."""
    from pydicom import dcmread

    if not dicom.is_dicom(data[: dicom.HEAD_BYTES]):
        return None
    with dicom.quiet():
        try:
            source = dcmread(io.BytesIO(data), stop_before_pixels=True, specific_tags=[*COPIED, *OWN], force=True)
            source.decode()  # names, in the character set of the file
        except Exception:  # pydicom's readers raise anything on damaged bytes
            raise ImageError("damaged") from None
        for name in (*COPIED, *OWN):
            if not _is_readable(source, name):
                delattr(source, name)
    return source


def _is_readable(source: "Dataset", name: str) -> bool:
    """Whether the value of a tag, if it is there, is of its kind."""
    if name not in source:
        return True
    try:
        element = source[name]
        if element.VR == "IS":
            int(str(element.value or 0))
    except Exception:  # pydicom converts a value when it is first asked for, and raises anything
        return False
    return element.VR != "UI" or element.VM <= 1


class ReportWriter:
    """Writes the reports of a model into `folder`, which exists."""

    def __init__(self, folder: Path, model: ReportedModel) -> None:
        require_extra()
        self.folder, self._model = folder, model
        with dicom.quiet():
            body = io.BytesIO()
            _template(model).save_as(body, enforce_file_format=True)
        self._template = body.getvalue()
        self._places = _places(self._template)

    def write(
        self,
        source: "Dataset",
        probabilities: Mapping[str, float],
        decisions: Mapping[str, bool],
        calibrated: Mapping[str, float] | None = None,
        *,
        content: str = "",
    ) -> Path:
        """Write the report of the image `source` (of `read_source`), which has a StudyInstanceUID and a SOPInstanceUID. Returns its file.

        `content`: sha256 of the image's file. Two files may share a SOPInstanceUID, against the standard; each then has its own report."""
        with dicom.quiet():
            report = self._fill(source, probabilities, decisions, calibrated or {}, content)
            body = io.BytesIO()
            report.save_as(body, enforce_file_format=True)
        path = self.folder / f"{report.SOPInstanceUID}.dcm"
        write_atomic(path, body.getvalue())
        return path

    def _fill(
        self,
        source: "Dataset",
        probabilities: Mapping[str, float],
        decisions: Mapping[str, bool],
        calibrated: Mapping[str, float],
        content: str,
    ) -> "Dataset":
        from pydicom import dcmread

        report = dcmread(io.BytesIO(self._template))
        image = str(source.SOPInstanceUID)
        report.SpecificCharacterSet = "ISO_IR 192"
        for name in COPIED:
            if name in source:
                setattr(report, name, source[name].value)
            elif name in ALWAYS:
                setattr(report, name, None)
            elif name in report:
                delattr(report, name)
        own: Any = _uid("report", image, self._model.digest, content)
        report.SOPInstanceUID = report.file_meta.MediaStorageSOPInstanceUID = own
        report.SeriesInstanceUID = _uid("series", str(source.StudyInstanceUID), self._model.digest)
        report.InstanceNumber = source.get("InstanceNumber") or 1
        now = datetime.datetime.now()
        report.ContentDate = report.InstanceCreationDate = now.strftime("%Y%m%d")
        report.ContentTime = report.InstanceCreationTime = now.strftime("%H%M%S")
        for used in report.CurrentRequestedProcedureEvidenceSequence:
            used.StudyInstanceUID = source.StudyInstanceUID
            used.ReferencedSeriesSequence[0].SeriesInstanceUID = source.get("SeriesInstanceUID") or _uid("image", image)
            _refer(used.ReferencedSeriesSequence[0].ReferencedSOPSequence[0], source)
        for label, group, places in zip(self._model.labels, _groups(report), self._places, strict=True):
            items = group.ContentSequence
            for at, value in (
                (places.probability, probabilities[label]),
                (places.calibrated, calibrated.get(label)),
            ):
                if at is not None and value is not None:
                    measured = items[at].MeasuredValueSequence[0]
                    measured.NumericValue, measured.FloatingPointValue = f"{value:.6f}", float(value)
            answer = items[places.decided].ConceptCodeSequence[0]
            answer.CodeValue, answer.CodingSchemeDesignator, answer.CodeMeaning = YES if decisions[label] else NO
            items[places.uid].UID = _uid("finding", image, self._model.digest, label, content)
            _refer(items[places.image].ReferencedSOPSequence[0], source)
        return report


PROBABILITY = ("122157", "DCM", "Probability")
CALIBRATED = ("calibrated", SCHEME, "Calibrated probability")
THRESHOLD = ("122411", "DCM", "Threshold Value")
DECIDED = ("positive", SCHEME, "At or above the operating point")
INTENDED = ("intended-use", SCHEME, "Intended use")
YES, NO = ("373066001", "SCT", "Yes"), ("373067005", "SCT", "No")
UNIT = ("1", "UCUM", "no units")
CHEST_XRAY = ("399208008", "SCT", "Plain chest X-ray")
MEASUREMENTS = "126010"
"""Code of the container of the groups of measurements (TID 1500)."""


def finding_code(label: str) -> tuple[str, str, str]:
    """Code, scheme and meaning of a label."""
    if (known := FINDINGS.get(label.lower().replace("_", " "))) is not None:
        return known[0], "SCT", known[1]
    value = (
        label
        if len(label) <= 16 and label.isascii() and "\\" not in label
        else hashlib.sha256(label.encode()).hexdigest()[:16]
    )
    return value, SCHEME, _one_value(label)[:64]


def _one_value(text: str) -> str:
    """Without backslashes, which separate the values of a tag."""
    return text.replace("\\", "/")


def _template(model: ReportedModel) -> "Dataset":
    """The report of an image without a patient; its numbers and decisions are replaced."""
    from highdicom import sr
    from pydicom import Dataset
    from pydicom.sr.coding import Code

    image = Dataset()
    for name in ALWAYS:
        setattr(image, name, "")
    image.SpecificCharacterSet = "ISO_IR 192"
    image.SOPClassUID, image.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", _uid("image")
    image.StudyInstanceUID, image.SeriesInstanceUID = _uid("study"), _uid("series")
    parameters = [model.software, f"weights sha256 {model.version}", f"decision: {model.rule}"]
    algorithm = sr.AlgorithmIdentification(
        name=_one_value(model.name)[:64], version=model.version[:16], manufacturer="cxr_ray", parameters=parameters
    )

    def number(name: tuple[str, str, str], value: float) -> sr.Measurement:
        return sr.Measurement(name=Code(*name), value=value, unit=Code(*UNIT))

    groups = []
    for label in model.labels:
        numbers = [number(PROBABILITY, 0.5)]
        numbers += [number(CALIBRATED, 0.5)] if model.is_calibrated else []
        numbers += [number(THRESHOLD, float(model.thresholds[label]))] if label in model.thresholds else []
        groups.append(
            sr.MeasurementsAndQualitativeEvaluations(
                tracking_identifier=sr.TrackingIdentifier(uid=_uid("finding", label), identifier=label),
                finding_type=Code(*finding_code(label)),
                algorithm_id=algorithm,
                measurements=numbers,
                qualitative_evaluations=[
                    sr.QualitativeEvaluation(name=Code(*DECIDED), value=Code(*NO)),
                    sr.QualitativeEvaluation(name=Code(*INTENDED), value=Code("research", SCHEME, RESEARCH)),
                ],
                source_images=[sr.SourceImageForMeasurementGroup(image.SOPClassUID, image.SOPInstanceUID)],
            )
        )
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=_uid("model", model.version), name=model.name, manufacturer_name="cxr_ray", model_name=model.software
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(
            observer_device_context=sr.ObserverContext(
                observer_type=sr.CodedConcept("121007", "DCM", "Device"), observer_identifying_attributes=device
            )
        ),
        procedure_reported=Code(*CHEST_XRAY),
        imaging_measurements=groups,
        title=Code("126000", "DCM", "Imaging Measurement Report"),
    )
    report = sr.ComprehensiveSR(
        evidence=[image],
        content=content,
        series_instance_uid=_uid("series"),
        series_number=SERIES_NUMBER,
        sop_instance_uid=_uid("report"),
        instance_number=1,
        manufacturer="cxr_ray",
        series_description=f"{_one_value(model.name)[:24]}: {RESEARCH}"[:64],
    )
    report.SoftwareVersions = model.software
    for equipment in report.get("ContributingEquipmentSequence", ()):
        if "ContributionDateTime" in equipment:  # of the template
            del equipment.ContributionDateTime
    return report


def _groups(report: "Dataset") -> list["Dataset"]:
    """The groups of measurements, one per label."""
    (container,) = (
        item
        for item in report.ContentSequence
        if "ConceptNameCodeSequence" in item and item.ConceptNameCodeSequence[0].CodeValue == MEASUREMENTS
    )
    return list(container.ContentSequence)


class Places(NamedTuple):
    """Where the items of a group of measurements are that differ between images."""

    probability: int
    calibrated: int | None
    decided: int
    uid: int
    image: int


def _places(template: bytes) -> list[Places]:
    """Those of each group. Found once: reading the names of all items takes most of the time of a report."""
    from pydicom import dcmread

    found = []
    for group in _groups(dcmread(io.BytesIO(template))):
        at: dict[str, int] = {}
        for number, item in enumerate(group.ContentSequence):
            named = item.ConceptNameCodeSequence[0].CodeValue if "ConceptNameCodeSequence" in item else ""
            at[f"{item.ValueType} {named}"] = at[item.ValueType] = number
        found.append(
            Places(
                at[f"NUM {PROBABILITY[0]}"],
                at.get(f"NUM {CALIBRATED[0]}"),
                at[f"CODE {DECIDED[0]}"],
                at["UIDREF"],
                at["IMAGE"],
            )
        )
    return found


def _refer(reference: Any, source: "Dataset") -> None:
    reference.ReferencedSOPClassUID = source.get("SOPClassUID") or "1.2.840.10008.5.1.4.1.1.1.1"
    reference.ReferencedSOPInstanceUID = source.SOPInstanceUID


def _uid(*words: str) -> str:
    """A UID that is the same for the same words, from their hash (2.25 and a number of 128 bits, PS3.5 B.2)."""
    return f"2.25.{int.from_bytes(hashlib.sha256(chr(0).join(words).encode()).digest()[:16], 'big')}"
