"""Structured reports: read back by pydicom and highdicom, in the image's study, with the patient of the image and no more of him."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from highdicom import sr
from pydicom.sr.codedict import codes

import cxr_ray
from cxr_ray.errors import UserError
from cxr_ray.inference import dicom_sources, prediction_file, prediction_parts
from cxr_ray.inference.structured_report import FINDINGS, ReportedModel, ReportWriter, finding_code, read_source
from tests.fakes import archive, dicom
from tests.fakes.explained import quiet, trained
from tests.fakes.images import encoded

LABELS = ("Edema", "Lung Opacity", "a label of more than sixteen letters")
PROB = dict(zip(LABELS, (0.25, 0.5, 0.987654), strict=True))
DECIDED = {label: value >= 0.5 for label, value in PROB.items()}


def model(**changes: object) -> ReportedModel:
    fields = {
        "name": "run-1", "version": "ab" * 32, "software": "cxr_ray 9.9", "labels": LABELS, "thresholds": dict.fromkeys(LABELS, 0.5),
        "rule": "0.5 for every label", "is_calibrated": True, "digest": "d",
    }  # fmt: skip
    return ReportedModel(**{**fields, **changes})  # type: ignore[arg-type]


def image(**tags: Any) -> bytes:
    return dicom.dicom(np.arange(100, dtype=np.uint16).reshape(10, 10), **tags)


def measurements(report: Any) -> list[Any]:
    """The groups of measurements of a report that highdicom read, whose content is a `MeasurementReport`."""
    found: list[Any] = report.content.get_image_measurement_groups()
    return found


def test_highdicom_reads_what_was_predicted(tmp_path: Path) -> None:
    source = read_source(image(SeriesInstanceUID="1.2.3.4"))
    assert source is not None
    calibrated = {label: value / 2 for label, value in PROB.items()}
    path = ReportWriter(tmp_path, model()).write(source, PROB, DECIDED, calibrated)
    report = sr.srread(path)
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    groups = measurements(report)
    assert len(groups) == len(LABELS)
    for label, group in zip(LABELS, groups, strict=True):
        code = group.finding_type
        assert (code.value, code.scheme_designator, code.meaning) == finding_code(label)
        numbers = {m.name.meaning: m.value for m in group.get_measurements()}
        assert numbers == pytest.approx(
            {"Probability": PROB[label], "Calibrated probability": PROB[label] / 2, "Threshold Value": 0.5}, abs=1e-6
        )
        answers = {e.name.meaning: e.value.meaning for e in group.get_qualitative_evaluations()}
        assert answers["At or above the operating point"] == ("Yes" if DECIDED[label] else "No")
        assert answers["Intended use"] == "Research use only, not for diagnosis"
        assert group.source_images[0].referenced_sop_instance_uid == source.SOPInstanceUID
    text = path.read_bytes().decode("utf-8", "ignore")
    for shown in ("run-1", "cxr_ray 9.9", "ab" * 8, "0.5 for every label"):
        assert shown in text


def test_the_report_is_in_the_study_of_the_image(tmp_path: Path) -> None:
    data = image(PatientSex="F", PatientAge="070Y", SeriesInstanceUID="1.2.3.4", StudyID="S7")
    source = read_source(data)
    assert source is not None
    path = ReportWriter(tmp_path, model(is_calibrated=False)).write(source, PROB, DECIDED)
    report, original = pydicom.dcmread(path), pydicom.dcmread(io.BytesIO(data))
    for name in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "StudyInstanceUID", "StudyDate",
                 "StudyID", "AccessionNumber", "StudyDescription", "ReferringPhysicianName"):  # fmt: skip
        assert report[name].value == original[name].value, name
    assert report.StudyTime in ("", None)  # required, and unknown
    for name in ("PatientAddress", "InstitutionName", "StationName"):
        assert name not in report
    assert report.Modality == "SR" and report.SeriesInstanceUID != original.SeriesInstanceUID
    assert path.name == f"{report.SOPInstanceUID}.dcm" == f"{report.file_meta.MediaStorageSOPInstanceUID}.dcm"
    (evidence,) = report.CurrentRequestedProcedureEvidenceSequence
    (series,) = evidence.ReferencedSeriesSequence
    assert evidence.StudyInstanceUID == original.StudyInstanceUID and series.SeriesInstanceUID == "1.2.3.4"
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == original.SOPInstanceUID
    assert report.VerificationFlag == "UNVERIFIED" and "Research use only" in report.SeriesDescription


def test_names_of_any_character_set(tmp_path: Path) -> None:
    for name, charset in (("Müller^Jürgen", "ISO_IR 100"), ("Иванов^Иван", "ISO_IR 144"), ("山田^太郎", "ISO_IR 192")):
        source = read_source(image(PatientName=name, SpecificCharacterSet=charset))
        assert source is not None
        report = pydicom.dcmread(ReportWriter(tmp_path, model()).write(source, PROB, DECIDED, PROB))
        assert str(report.PatientName) == name and report.SpecificCharacterSet == "ISO_IR 192"
    labels = ("Stauung ö",)
    source = read_source(image(SpecificCharacterSet="ISO_IR 6"))
    assert source is not None
    path = ReportWriter(tmp_path, model(labels=labels, thresholds={})).write(
        source, {labels[0]: 0.5}, {labels[0]: True}, {labels[0]: 0.5}
    )
    assert measurements(sr.srread(path))[0].finding_type.meaning == labels[0]


def test_uids_follow_from_the_image_and_the_settings(tmp_path: Path) -> None:
    source, other = read_source(image(StudyInstanceUID="1.2")), read_source(image(StudyInstanceUID="1.2"))
    assert source is not None and other is not None
    writer = ReportWriter(tmp_path, model())
    paths = [writer.write(each, PROB, DECIDED, PROB) for each in (source, source, other)]
    assert paths[0] == paths[1] != paths[2]
    read = [pydicom.dcmread(path) for path in paths]
    assert read[0].SeriesInstanceUID == read[2].SeriesInstanceUID  # one series per study and model
    new = ReportWriter(tmp_path, model(digest="e")).write(source, PROB, DECIDED, PROB)
    assert new != paths[0] and pydicom.dcmread(new).SeriesInstanceUID != read[0].SeriesInstanceUID
    assert all(
        pydicom.uid.UID(uid).is_valid for report in read for uid in (report.SOPInstanceUID, report.SeriesInstanceUID)
    )


def test_a_damaged_tag_costs_itself_and_no_report(tmp_path: Path) -> None:
    body = image(InstanceNumber=12345, SeriesInstanceUID="1.2\\3.4", PatientBirthDate="19530417")
    source = read_source(body.replace(b"12345 ", b"abcde ").replace(b"19530417", b"4/17/53 "))
    assert source is not None and "SeriesInstanceUID" not in source
    report = sr.srread(ReportWriter(tmp_path, model()).write(source, PROB, DECIDED, PROB))
    assert report.InstanceNumber == 1 and report.PatientID == source.PatientID


def test_names_with_a_backslash(tmp_path: Path) -> None:
    labels = ("a/b\\c", "left\\" + "x" * 70)
    named = model(labels=labels, thresholds={}, name="a\\b")
    source, same = read_source(image()), dict.fromkeys(labels, 0.5)
    assert source is not None
    report = sr.srread(ReportWriter(tmp_path, named).write(source, same, dict.fromkeys(labels, True), same))
    found = [group.finding_type.meaning for group in measurements(report)]
    assert found == ["a/b/c", "left/" + "x" * 59]


def test_an_image_of_two_studies_is_of_none() -> None:
    source = read_source(image(StudyInstanceUID="1.2\\3.4"))
    assert source is not None and "StudyInstanceUID" not in source


def test_what_is_no_dicom() -> None:
    assert read_source(b"") is None and read_source(b"\x89PNG" + b"\0" * 200) is None


# ---- from a prediction


def test_predict_writes_a_report_of_each_dicom(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made = archive.dicoms(tmp_path / "in", 4)
    dicom.write(tmp_path / "in" / "broken.dcm", None)
    dicom.write(tmp_path / "in" / "orphan.dcm", np.arange(784, dtype=np.uint16).reshape(28, 28), StudyInstanceUID=None)
    (tmp_path / "in" / "picture.png").write_bytes(encoded(np.arange(784, dtype=np.uint8).reshape(28, 28)))
    lines: list[str] = []
    found = cxr_ray.predict(
        trained(),
        tmp_path / "in",
        tmp_path / "out.parquet",
        sr=tmp_path / "sr",
        thresholds=0.4,
        gpu=False,
        log=lines.append,
    )
    reports = {}
    for path in (tmp_path / "sr").iterdir():
        report = sr.srread(path)
        evidence = (
            report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
        )
        reports[evidence.ReferencedSOPInstanceUID] = report
    table = found.table.set_index("image")
    assert len(reports) == len(made)
    for path in made:
        source = pydicom.dcmread(path)
        report = reports[source.SOPInstanceUID]
        assert report.StudyInstanceUID == source.StudyInstanceUID and report.PatientID == source.PatientID
        groups = measurements(report)
        for label, group in zip(trained().info["labels"], groups, strict=True):
            numbers = {m.name.meaning: m.value for m in group.get_measurements()}
            assert numbers["Probability"] == pytest.approx(table.loc[path.name, f"prob/{label}"], abs=1e-6)
            assert numbers["Threshold Value"] == 0.4
            answer = group.get_qualitative_evaluations()[0].value.meaning
            assert answer == ("Yes" if table.loc[path.name, f"decision/{label}"] else "No")
    assert (
        f"reports: 4 in {tmp_path / 'sr'}" in lines
        and "note: inputs without a report: 1 no DICOM, 1 no StudyInstanceUID" in lines
    )
    # Patient data are in the reports alone: in no log, no file name, no table.
    out = capfd.readouterr()
    names = " ".join(path.name for path in tmp_path.rglob("*"))
    body = (tmp_path / "out.parquet").read_bytes().decode("latin-1")
    for secret in [*dicom.SECRETS.values(), "1.2.3.1"]:
        assert all(secret not in text for text in (*lines, out.out, out.err, names, body))


def test_a_report_of_the_same_prediction_is_not_a_second_one(tmp_path: Path) -> None:
    archive.dicoms(tmp_path / "in", 2)
    for name in ("a.parquet", "b.parquet"):
        cxr_ray.predict(trained(), tmp_path / "in", tmp_path / name, sr=tmp_path / "sr", gpu=False, log=quiet)
    assert len(list((tmp_path / "sr").iterdir())) == 2


def test_reports_and_key_next_to_a_table_or_one_film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where these lie is no input as a folder is: it may be the home folder, which has the default key too."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / ".config"))
    first, second = archive.dicoms(tmp_path / "in", 2)
    (tmp_path / "films.csv").write_text(f"image\nin/{first.name}\nin/{second.name}\n")
    (tmp_path / "film.dcm").write_bytes(first.read_bytes())
    for name, count in {"films.csv": 2, "film.dcm": 1}.items():
        found = cxr_ray.predict(
            trained(), tmp_path / name, tmp_path / f"{name}.parquet", sr=tmp_path / "sr" / name, ids=True, gpu=False, log=quiet
        )  # fmt: skip
        assert len(list((tmp_path / "sr" / name).iterdir())) == count and found.table["study"].notna().all()


def test_files_that_share_an_instance_have_a_report_each_and_copies_share_one(tmp_path: Path) -> None:
    first, second = archive.dicoms(tmp_path / "in", 2)
    (tmp_path / "in" / "copy.dcm").write_bytes(first.read_bytes())
    other = pydicom.dcmread(second)
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = pydicom.dcmread(first).SOPInstanceUID
    other.save_as(second)
    lines: list[str] = []
    where: dict[str, Any] = {"sr": tmp_path / "sr", "gpu": False, "log": lines.append}
    found = cxr_ray.predict(trained(), tmp_path / "in", tmp_path / "a.parquet", **where)
    wanted = {round(value, 5) for value in found.table[f"prob/{trained().info['labels'][0]}"]}
    reports = [sr.srread(path) for path in (tmp_path / "sr").iterdir()]
    groups = [measurements(report)[0] for report in reports]
    assert {round(group.get_measurements()[0].value, 5) for group in groups} == wanted and len(wanted) == 2
    assert lines[-3:] == [
        f"reports: 2 in {tmp_path / 'sr'}",
        "note: inputs that are copies of others, and share their report: 1",
        "note: DICOMs of different content that share a SOPInstanceUID: 2; each has a report of its own, which refers to that UID",
    ]
    assert cxr_ray.predict(trained(), tmp_path / "in", tmp_path / "a.parquet", **where).already
    assert lines[-1] == f"reports: 2 files in {tmp_path / 'sr'}, none written now"
    where["sr"] = tmp_path / "elsewhere"
    cxr_ray.predict(trained(), tmp_path / "in", tmp_path / "a.parquet", **where)
    assert lines[-1].startswith(f"note: {tmp_path / 'elsewhere'} has no reports")


def test_a_prediction_that_goes_on_names_earlier_reports_and_writes_missing_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction_parts, "PART_INPUTS", 2)
    archive.dicoms(tmp_path / "in", 6)
    lines: list[str] = []
    where: dict[str, Any] = {"sr": tmp_path / "sr", "gpu": False, "log": lines.append, "batch_size": 2}

    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(prediction_file, "write", stop)  # all parts are there
        cxr_ray.predict(trained(), tmp_path / "in", tmp_path / "a.parquet", **where)
    reports = sorted((tmp_path / "sr").iterdir())
    assert len(reports) == 6
    reports[0].unlink()
    cxr_ray.predict(trained(), tmp_path / "in", tmp_path / "a.parquet", **where)
    assert f"reports: 6 in {tmp_path / 'sr'}, 4 of them before" in lines
    assert sorted((tmp_path / "sr").iterdir()) == reports


def test_a_dicom_that_is_gone_before_its_report_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = archive.dicoms(tmp_path / "in", 2)
    columns = dicom_sources.DicomSources.columns

    def late(self: dicom_sources.DicomSources, *args: object) -> object:
        first.unlink()
        return columns(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(dicom_sources.DicomSources, "columns", late)
    lines: list[str] = []
    found = cxr_ray.predict(
        trained(), tmp_path / "in", tmp_path / "a.parquet", sr=tmp_path / "sr", gpu=False, log=lines.append
    )
    assert found.rows == 2 and found.refused == 0  # it was decoded before
    assert lines[-2:] == [
        f"reports: 1 in {tmp_path / 'sr'}",
        "note: inputs without a report: 1 file missing since it was predicted",
    ]


def test_the_folder_of_reports_may_not_be_a_file(tmp_path: Path) -> None:
    archive.dicoms(tmp_path / "in", 1)
    (tmp_path / "sr").write_text("x")
    with pytest.raises(UserError, match="cannot make"):
        cxr_ray.predict(trained(), tmp_path / "in", tmp_path / "a.parquet", sr=tmp_path / "sr", gpu=False, log=quiet)


def verhoeff(digits: str) -> int:
    """Verhoeff 1969: digits are permuted by their place and multiplied in the dihedral group of a pentagon, whose element r + 5 s is a
    rotation by r after s reflections. 0 if the last digit checks the others."""

    def product(a: int, b: int) -> int:
        rotation = (a % 5 + b % 5) % 5 if a < 5 else (a % 5 - b % 5) % 5
        return rotation + 5 * ((a // 5 + b // 5) % 2)

    moved, total = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4), 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit)
        for _ in range(place % 8):
            value = moved[value]
        total = product(total, value)
    return total


@pytest.mark.parametrize("code,meaning", sorted(set(FINDINGS.values())))
def test_codes_of_findings_are_valid_and_mean_what_dicom_says(code: str, meaning: str) -> None:
    assert verhoeff("236") == 0 and verhoeff("263") != 0  # the example of the check digit in textbooks
    assert verhoeff(code) == 0 and code[-3:-1] == "00"  # an identifier of a concept of the international edition
    by_code = {c.value: c for c in (getattr(codes.SCT, name) for name in codes.SCT.dir())}
    if code in by_code:
        assert by_code[code].meaning == meaning
    assert len(meaning) <= 64 and any(finding_code(label) == (code, "SCT", meaning) for label in FINDINGS)


def test_dicom_knows_codes_of_findings() -> None:
    """Else the comparison with its dictionary compares nothing."""
    known = {getattr(codes.SCT, name).value for name in codes.SCT.dir()}
    assert {code for code, _ in FINDINGS.values()} & known == {"19242006", "60046008", "36118008"}
