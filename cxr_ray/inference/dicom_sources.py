"""What the DICOMs among the inputs say of themselves: hashed patients and studies, and a structured report of each in its own study.

Called once for each part of a prediction, before the part is written: a part that is there has all of its reports.
"""
# n inputs of a part, L labels

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cxr_ray.datasets.dicom_folder import ANONYMOUS
from cxr_ray.datasets.pseudonyms import pseudonym
from cxr_ray.imaging.files import Root
from cxr_ray.imaging.pixels import ImageError
from cxr_ray.inference.decisions import Decisions
from cxr_ray.inference.structured_report import ReportWriter, read_source
from cxr_ray.storage.remote import map_threaded

if TYPE_CHECKING:
    from pydicom import Dataset

TAGS = {"patient": "PatientID", "study": "StudyInstanceUID"}


@dataclass
class DicomSources:
    """The files `names` below `root`, by their places."""

    root: Root
    names: tuple[str, ...]
    secret: bytes | None = None
    """Key of the hashes of patients and studies; None: they are not asked for."""
    reports: ReportWriter | None = None
    decisions: Decisions | None = None
    """Needed for reports."""
    written: int = 0
    """Number of reports so far."""
    without: "Counter[str]" = field(default_factory=Counter)
    """Why DICOMs have no report, and how many."""

    def columns(
        self, positions: npt.NDArray[np.int64], prob_nL: npt.NDArray[np.float32], refused: list[str | None]
    ) -> Mapping[str, list[Any]]:
        """`patient` and `study` of a part's inputs [n], if they are asked for; its reports are written. Files are read again, since the
        processes that decode them never give a name away."""
        usable = [at for at, reason in enumerate(refused) if reason is None]
        sources = dict(
            zip(usable, map_threaded(self._source, [self.names[positions[at]] for at in usable]), strict=True)
        )
        if self.reports is not None:
            self._write_reports(usable, sources, prob_nL)
        if self.secret is None:
            return {}
        every = [sources.get(at) for at in range(len(positions))]
        return {kind: [self._hashed(source, kind) for source in every] for kind in TAGS}

    def _source(self, name: str) -> "Dataset | None":
        try:
            return read_source(self.root.read(name))
        except ImageError:  # it was decoded a moment ago, and is being changed
            return None

    def _hashed(self, source: "Dataset | None", kind: str) -> str | None:
        value = "" if source is None else str(source.get(TAGS[kind]) or "").strip()
        if not value or (kind == "patient" and value.lower() in ANONYMOUS):
            return None
        assert self.secret is not None
        return pseudonym(kind, value, self.secret)

    def _write_reports(
        self, usable: list[int], sources: Mapping[int, "Dataset | None"], prob_nL: npt.NDArray[np.float32]
    ) -> None:
        assert self.reports is not None and self.decisions is not None
        labels = self.decisions.labels
        found = prob_nL[usable]
        decided, calibrated = self.decisions.decide(found), self.decisions.calibrated(found)
        for number, at in enumerate(usable):
            source = sources[at]
            missing = next(
                (tag for tag in ("StudyInstanceUID", "SOPInstanceUID") if source and not source.get(tag)), ""
            )
            if source is None or missing:
                self.without[f"no {missing}" if missing else "no DICOM"] += 1
                continue
            self.reports.write(
                source,
                dict(zip(labels, found[number].tolist(), strict=True)),
                dict(zip(labels, decided[number].tolist(), strict=True)),
                None if calibrated is None else dict(zip(labels, calibrated[number].tolist(), strict=True)),
            )
            self.written += 1
