"""Dry run of an ingest: counts from the records, and an estimate of size and time from a sample of images. Writes no store."""

import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr_ray.data import summary
from cxr_ray.data.filters import WHERE, dropping_filter, selected
from cxr_ray.data.store_writer import write_parquet
from cxr_ray.datasets.base import Records
from cxr_ray.errors import printable, shortened
from cxr_ray.imaging.files import read
from cxr_ray.imaging.isolated import DecoderCrash, IsolatedDecoder
from cxr_ray.imaging.pixels import Aspect, Depth, ImageError
from cxr_ray.labels import LABEL_PREFIX, Filter
from cxr_ray.runtime import machine
from cxr_ray.storage.atomic import make_folder, write_atomic
from cxr_ray.storage.remote import AnyPath, files_exist, to_path

SAMPLE_SIZE = 24
"""Images that are read and decoded to estimate the time."""
VECTORS_SHOWN = 20
"""Label vectors in the text."""


@dataclass(frozen=True, eq=False)
class DryRun:
    """Counts of a dataset before the ingest. Label vectors and positives are of the kept rows and the default labels; every
    value other than 1 (positive) counts as 0."""

    listed: int
    """Rows of the records."""
    filters: tuple[Filter, ...]
    dropped: dict[str, int]
    """Rows that each filter drops from those that the filters before it kept."""
    kept: int
    patients: int | None
    """Patients in the kept rows; None if the dataset does not name patients."""
    labels: pd.DataFrame
    """label, positive, percent, negative, uncertain, not_mentioned: raw counts in the kept rows."""
    vectors: pd.DataFrame
    """vector (positive labels joined with ` + `, or `none`), rows, percent; the most frequent first."""
    ingested: int
    """Images that the ingest would read: all except those that `--where` drops."""
    missing: int
    """Number of those files that do not exist."""
    first_missing: str | None
    store_bytes: int
    """Size of the images in the store, in bytes."""
    seconds: float | None
    """Estimated time of the ingest on `cores`; None if there is no image to try."""
    cores: int
    unusable: dict[str, int]
    """Number of images in the sample that cannot be decoded, by reason."""
    sampled: int
    """Size of the sample."""
    table: pd.DataFrame
    """All records with `kept` and `dropped_by`."""
    notes: tuple[str, ...]

    def to_text(self) -> str:
        """The counts as plain lines."""
        lines = [f"rows listed: {self.listed:,}"]
        for rule in self.filters:
            about = f" ({rule.about})" if rule.about else ""
            lines.append(f"dropped by {rule.name}: {self.dropped[rule.name]:,}{about} [{rule.query}]")
        patients = "" if self.patients is None else f" of {self.patients:,} patients"
        lines.append(f"rows kept: {self.kept:,}{patients}")
        lines.append(f"positives in the kept rows ({len(self.labels)} labels):")
        width = max((len(shortened(name)) for name in self.labels["label"]), default=0)
        for row in self.labels.to_dict("records"):
            others = [f"{key.replace('_', ' ')} {row[key]:,}" for key in ("uncertain", "not_mentioned") if row[key]]
            suffix = f"  ({', '.join(others)})" if others else ""
            lines.append(f"  {shortened(row['label']):<{width}}  {row['positive']:>9,}  {row['percent']:6.2f}%{suffix}")
        lines.append(f"label vectors (values other than 1 count as 0): {len(self.vectors):,}")
        shown = self.vectors.head(VECTORS_SHOWN).to_dict("records")
        lines += [f"  {row['rows']:>9,}  {row['percent']:6.2f}%  {row['vector']}" for row in shown]
        if len(self.vectors) > VECTORS_SHOWN:
            rest = self.vectors.iloc[VECTORS_SHOWN:]
            lines.append(
                f"  {int(rest['rows'].sum()):>9,}  {rest['percent'].sum():6.2f}%  in {len(rest):,} rarer vectors"
            )
        lines.append(
            f"images to ingest: {self.ingested:,} (filters other than --where are applied when training, not when ingesting)"
        )
        example = f", such as {shortened(self.first_missing)}" if self.first_missing is not None else ""
        lines.append(f"missing files: {self.missing:,}{example}")
        if self.unusable:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.unusable.items())
            lines.append(f"unusable in a sample of {self.sampled}: {reasons}")
        lines.append(f"size of the store: {_bytes(self.store_bytes)}")
        if self.seconds is None:
            lines.append("estimated time: unknown, there is no image to try")
        else:
            lines.append(f"estimated time: {_time(self.seconds)} on {self.cores} cores")
        return "\n".join(map(printable, [*lines, *(f"note: {note}" for note in self.notes)]))

    def summary(self) -> dict[str, Any]:
        """The counts as plain values."""
        return {
            "listed": self.listed,
            "filters": [{**rule.model_dump(), "dropped": self.dropped[rule.name]} for rule in self.filters],
            "kept": self.kept,
            "patients": self.patients,
            "labels": self.labels.to_dict("records"),
            "vectors": self.vectors.to_dict("records"),
            "ingested": self.ingested,
            "missing": self.missing,
            "store_bytes": self.store_bytes,
            "notes": list(self.notes),
        }

    def save(self, folder: str | Path) -> None:
        """Write records.parquet (all records, with `kept` and `dropped_by`) and cleaning.json (the counts) to `folder`.

        Raises `UserError` if it cannot be written."""
        folder = Path(folder)
        make_folder(folder)
        write_parquet(folder / "records.parquet", self.table.reset_index(names="row"))
        text = json.dumps(self.summary(), indent=1, ensure_ascii=False) + "\n"
        write_atomic(folder / "cleaning.json", text)


def dry_run(
    records: Records,
    root: str | AnyPath,
    *,
    size: tuple[int, int],
    aspect: Aspect = "squash",
    depth: Depth = 8,
    exact_jpeg: bool = False,
    cores: int | None = None,
) -> DryRun:
    """Count the rows that each filter drops, label vectors and missing files below `root`, and estimate the size and time of an
    ingest to images of `size` (H, W) on `cores` (None: all of this machine).

    A filter named `--where` is applied by the ingest itself. Raises `UserError` for a filter that cannot be applied."""
    table = records.table
    for rule in records.info.filters:
        if rule.name == WHERE:
            selected(table, rule.query)  # refuses what the ingest refuses
    dropped_by = dropping_filter(table, records.info.filters)
    kept = table[dropped_by == ""]
    counts = dropped_by.value_counts()
    ingested = records.paths[dropped_by != WHERE].tolist()
    exists = files_exist(to_path(root), ingested)
    missing = [image for image, found in zip(ingested, exists, strict=True) if not found]
    present = [image for image, found in zip(ingested, exists, strict=True) if found]
    sample = (
        [present[i] for i in np.unique(np.linspace(0, len(present) - 1, SAMPLE_SIZE).astype(int))] if present else []
    )
    seconds_per_image, unusable = _decode_sample(sample, root, size, aspect, exact_jpeg)
    cores = cores or machine.cores()
    labels = records.info.default_labels or records.info.labels  # as a store takes them
    return DryRun(
        listed=len(table),
        filters=records.info.filters,
        dropped={rule.name: int(counts.get(rule.name, 0)) for rule in records.info.filters},
        kept=len(kept),
        patients=int(kept["patient"].nunique()) if kept["patient"].notna().any() else None,
        labels=_labels(kept, labels),
        vectors=_vectors(kept, labels),
        ingested=len(ingested),
        missing=len(missing),
        first_missing=missing[0] if missing else None,
        store_bytes=(len(present) or len(ingested)) * size[0] * size[1] * depth // 8,
        seconds=None if seconds_per_image is None else seconds_per_image * len(present) / cores,
        cores=cores,
        unusable=unusable,
        sampled=len(sample),
        table=table.rename(columns={name: LABEL_PREFIX + name for name in ("kept", "dropped_by")}).assign(
            kept=(dropped_by == "").to_numpy(), dropped_by=dropped_by.to_numpy()
        ),
        notes=records.info.notes,
    )


def _labels(kept: pd.DataFrame, labels: tuple[str, ...]) -> pd.DataFrame:
    counts = summary.label_frequency(kept, labels).rename(columns={"blank": "not_mentioned"})
    return counts[["label", "positive", "percent", "negative", "uncertain", "not_mentioned"]]


def _vectors(kept: pd.DataFrame, labels: tuple[str, ...]) -> pd.DataFrame:
    vectors = summary.label_vectors(kept, labels)
    names = [" + ".join(positive) or "none" for positive in vectors["labels"]]
    return vectors.assign(vector=names)[["vector", "rows", "percent"]]


def _decode_sample(
    sample: list[str], root: str | AnyPath, size: tuple[int, int], aspect: Aspect, exact_jpeg: bool
) -> tuple[float | None, dict[str, int]]:
    """Mean seconds per image, and the number of images that cannot be decoded, by reason."""
    if not sample:
        return None, {}
    unusable: Counter[str] = Counter()
    with IsolatedDecoder() as decoder:  # a crash must not end the dry run
        decoder.start()
        started = time.perf_counter()
        for image in sample:
            try:
                decoder.decode(read(root, image), size, aspect=aspect, exact_jpeg=exact_jpeg)
            except ImageError as error:
                unusable[error.reason] += 1
            except DecoderCrash as crash:
                unusable[str(crash)] += 1
        return (time.perf_counter() - started) / len(sample), dict(unusable)


def _bytes(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}"
        count /= 1024
    return f"{count:,.1f} GiB"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"about {max(seconds, 1):.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"
