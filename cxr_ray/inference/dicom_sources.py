"""What the DICOMs among the inputs say of themselves: hashed patients and studies, and a structured report of each in its own study.

Called once for each part of a prediction, before the part is written: a part that is there has all of its reports. Which ones is in
columns of the part, so that a prediction that went on knows those that were written before.
"""
# n inputs of a part, L labels

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cxr_ray.datasets.dicom_folder import ANONYMOUS
from cxr_ray.datasets.pseudonyms import pseudonym
from cxr_ray.errors import listed
from cxr_ray.imaging.files import Root
from cxr_ray.imaging.pixels import ImageError
from cxr_ray.inference.decisions import Decisions
from cxr_ray.inference.structured_report import ReportWriter, read_source
from cxr_ray.storage.remote import map_threaded

if TYPE_CHECKING:
    from pydicom import Dataset

TAGS = {"patient": "PatientID", "study": "StudyInstanceUID"}
REPORT, NO_REPORT, INSTANCE = "report", "no_report", "instance"
"""Columns of a part: the file of an input's report, or why it has none, and a hash of its SOPInstanceUID."""


class Source(NamedTuple):
    """A DICOM among the inputs."""

    tags: "Dataset"
    """As `read_source` gives them."""
    content: str
    """sha256 of the file."""


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
    """Number of inputs so far whose report was written now."""

    def columns(
        self, positions: npt.NDArray[np.int64], prob_nL: npt.NDArray[np.float32], refused: list[str | None]
    ) -> Mapping[str, list[Any]]:
        """`patient` and `study` of a part's inputs [n], if they are asked for; its reports are written, if they are, and named. Files are
        read again, since the processes that decode them never give a name away."""
        usable = [at for at, reason in enumerate(refused) if reason is None]
        sources = dict(
            zip(usable, map_threaded(self._source, [self.names[positions[at]] for at in usable]), strict=True)
        )
        columns: dict[str, list[Any]] = {}
        if self.reports is not None:
            columns = {name: [None] * len(positions) for name in (REPORT, NO_REPORT, INSTANCE)}
            self._write_reports(usable, sources, prob_nL, columns)
        if self.secret is not None:
            every = [sources.get(at) for at in range(len(positions))]
            columns |= {kind: [self._hashed(source, kind) for source in every] for kind in TAGS}
        return columns

    def is_whole(self, part: pa.Table) -> bool:
        """Whether the reports of a part that was finished before are in the folder."""
        if self.reports is None:
            return True
        names = part[REPORT].drop_null().to_pylist() if REPORT in part.column_names else [""]
        return all((self.reports.folder / name).is_file() for name in names)

    def summary(self, parts: Iterable[pa.Table]) -> list[str]:
        """Lines about the reports of all parts, those of earlier calls included."""
        assert self.reports is not None
        reasons: Counter[str] = Counter()
        names: Counter[str] = Counter()
        files_of: dict[str, set[str]] = {}
        for part in parts:
            reasons.update(part[NO_REPORT].drop_null().to_pylist())
            for name, instance in zip(part[REPORT].to_pylist(), part[INSTANCE].to_pylist(), strict=True):
                if name is not None:
                    names[name] += 1
                    files_of.setdefault(instance, set()).add(name)
        before = names.total() - self.written
        lines = [
            f"reports: {len(names):,} in {self.reports.folder}" + (f", {before:,} of them before" if before else "")
        ]
        if copies := names.total() - len(names):
            lines.append(f"note: inputs that are copies of others, and share their report: {copies:,}")
        if shared := sum(len(files) for files in files_of.values() if len(files) > 1):
            lines.append(
                f"note: DICOMs of different content that share a SOPInstanceUID: {shared:,}; each has a report of its own, which refers "
                "to that UID"
            )
        if reasons:
            why = listed([f"{count:,} {reason}" for reason, count in sorted(reasons.items())])
            lines.append(f"note: inputs without a report: {why}")
        return lines

    def _source(self, name: str) -> Source | str:
        """The DICOM, or why there is none."""
        try:
            data = self.root.read(name)
            tags = read_source(data)
        except ImageError as error:
            return f"{error.reason} since it was predicted"
        return "no DICOM" if tags is None else Source(tags, hashlib.sha256(data).hexdigest())

    def _hashed(self, source: Source | str | None, kind: str) -> str | None:
        value = str(source.tags.get(TAGS[kind]) or "").strip() if isinstance(source, Source) else ""
        if not value or (kind == "patient" and value.lower() in ANONYMOUS):
            return None
        assert self.secret is not None
        return pseudonym(kind, value, self.secret)

    def _write_reports(
        self,
        usable: list[int],
        sources: Mapping[int, Source | str],
        prob_nL: npt.NDArray[np.float32],
        columns: Mapping[str, list[Any]],
    ) -> None:
        """Write the reports of a part's `usable` inputs, and fill their places in `columns`."""
        assert self.reports is not None and self.decisions is not None
        labels = self.decisions.labels
        found = prob_nL[usable]
        decided, calibrated = self.decisions.decide(found), self.decisions.calibrated(found)
        for number, at in enumerate(usable):
            source = sources[at]
            if isinstance(source, str):
                columns[NO_REPORT][at] = source
                continue
            missing = [tag for tag in ("StudyInstanceUID", "SOPInstanceUID") if not source.tags.get(tag)]
            if missing:
                columns[NO_REPORT][at] = f"no {missing[0]}"
                continue
            written = self.reports.write(
                source.tags,
                dict(zip(labels, found[number].tolist(), strict=True)),
                dict(zip(labels, decided[number].tolist(), strict=True)),
                None if calibrated is None else dict(zip(labels, calibrated[number].tolist(), strict=True)),
                content=source.content,
            )
            columns[REPORT][at] = written.name
            columns[INSTANCE][at] = hashlib.sha256(str(source.tags.SOPInstanceUID).encode()).hexdigest()
            self.written += 1
