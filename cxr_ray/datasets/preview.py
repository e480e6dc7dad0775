"""What an ingest and the declared cleaning would do, told from the records alone: no image is needed, none is stored."""
# N records, K kept ones, L labels

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr_ray.data import summary as describe
from cxr_ray.data.plan import drop_by
from cxr_ray.data.store_writer import write_parquet
from cxr_ray.datasets.base import Records
from cxr_ray.imaging.decode import decode
from cxr_ray.imaging.files import read
from cxr_ray.imaging.pixels import Aspect, Depth, ImageError
from cxr_ray.labels import Filter
from cxr_ray.storage.atomic import make_folder, write_atomic
from cxr_ray.storage.remote import Place, place, present

NARROWING = "--where"
"""Name of the filter that the ingest itself applies; the declared ones wait for the plan."""
SAMPLED = 24
"""Images read and decoded for the estimate of time."""
SHOWN = 20
"""Lines of the label vector table in the text."""


@dataclass(frozen=True, eq=False)
class DryRun:
    """Counts of a dataset before anything is read. Vectors and positives are over the kept rows and the labels that the
    declared cleaning keeps, with every value but 1 (positive) taken as 0."""

    listed: int
    """Rows of the records."""
    filters: tuple[Filter, ...]
    dropped: dict[str, int]
    """Rows that each filter drops of those that the filters before it kept."""
    kept: int
    patients: int | None
    """Patients of the kept rows; None where the dataset does not say."""
    labels: pd.DataFrame
    """label, positive, percent, negative, uncertain, not_mentioned: raw counts over the kept rows."""
    vectors: pd.DataFrame
    """vector (positive labels joined with ` + `, or `none`), rows, percent; the most frequent first."""
    ingested: int
    """Images that the ingest would read: all but those that `--where` drops."""
    missing: int
    """Of those, how many files are not there."""
    first_missing: str | None
    store_bytes: int
    """Size of the pictures in the store, in bytes."""
    seconds: float | None
    """Time to expect on this machine's processors; None without an image to try."""
    cores: int
    unusable: dict[str, int]
    """Reasons why images of the sample could not be decoded, counted; the sample's size is `sampled`."""
    sampled: int
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
        lines.append(f"positives, of the kept rows ({len(self.labels)} labels):")
        width = max((len(name) for name in self.labels["label"]), default=0)
        for row in self.labels.to_dict("records"):
            beside = [f"{what.replace('_', ' ')} {row[what]:,}" for what in ("uncertain", "not_mentioned") if row[what]]
            told = f"  ({', '.join(beside)})" if beside else ""
            lines.append(f"  {row['label']:<{width}}  {row['positive']:>9,}  {row['percent']:6.2f}%{told}")
        lines.append(f"label vectors, every value but 1 as 0: {len(self.vectors):,}")
        shown = self.vectors.head(SHOWN).to_dict("records")
        lines += [f"  {row['rows']:>9,}  {row['percent']:6.2f}%  {row['vector']}" for row in shown]
        if len(self.vectors) > SHOWN:
            rest = self.vectors.iloc[SHOWN:]
            lines.append(
                f"  {int(rest['rows'].sum()):>9,}  {rest['percent'].sum():6.2f}%  in {len(rest):,} rarer vectors"
            )
        lines.append(f"images to ingest: {self.ingested:,} (the filters are applied when training, not when ingesting)")
        such = f", such as {self.first_missing}" if self.first_missing is not None else ""
        lines.append(f"missing files: {self.missing:,}{such}")
        if self.unusable:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.unusable.items())
            lines.append(f"unusable in a sample of {self.sampled}: {reasons}")
        lines.append(f"size of the store: {_bytes(self.store_bytes)}")
        if self.seconds is None:
            lines.append("time to expect: unknown, there is no image to try")
        else:
            lines.append(f"time to expect: {_time(self.seconds)} on {self.cores} cores")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

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
        """Write records.parquet (every record, with `kept` and `dropped_by`) and cleaning.json (the counts) to `folder`.

        Raises `UserError` where it cannot be written."""
        folder = Path(folder)
        make_folder(folder)
        write_parquet(folder / "records.parquet", self.table.reset_index(names="row"))
        text = json.dumps(self.summary(), indent=1, ensure_ascii=False) + "\n"
        write_atomic(folder / "cleaning.json", text)


def dry_run(
    records: Records,
    root: str | Place,
    *,
    size: tuple[int, int],
    aspect: Aspect = "squash",
    depth: Depth = 8,
    cores: int | None = None,
) -> DryRun:
    """Count what `records` would give: rows dropped by each filter, label vectors, missing files below `root`, and the
    size and time of an ingest to pictures of `size` (H, W).

    A filter named `--where` narrows the ingest itself. Raises `UserError` for a filter that cannot be applied."""
    table = records.table
    dropped_by = drop_by(table, records.filters)
    kept = table[dropped_by == ""]
    counts = dropped_by.value_counts()
    ingested = records.places[dropped_by != NARROWING].tolist()
    there = present(place(root), ingested)
    missing = [image for image, is_there in zip(ingested, there, strict=True) if not is_there]
    held = [image for image, is_there in zip(ingested, there, strict=True) if is_there]
    sample = [held[i] for i in np.unique(np.linspace(0, len(held) - 1, SAMPLED).astype(int))] if held else []
    each_s, unusable = _try(sample, root, size, aspect)
    cores = cores or len(os.sched_getaffinity(0))
    return DryRun(
        listed=len(table),
        filters=tuple(records.filters),
        dropped={rule.name: int(counts.get(rule.name, 0)) for rule in records.filters},
        kept=len(kept),
        patients=int(kept["patient"].nunique()) if kept["patient"].notna().any() else None,
        labels=_labels(kept, records.default_labels),
        vectors=_vectors(kept, records.default_labels),
        ingested=len(ingested),
        missing=len(missing),
        first_missing=missing[0] if missing else None,
        store_bytes=(len(held) or len(ingested)) * size[0] * size[1] * depth // 8,
        seconds=each_s * len(held) / cores if each_s is not None else None,
        cores=cores,
        unusable=unusable,
        sampled=len(sample),
        table=table.assign(kept=(dropped_by == "").to_numpy(), dropped_by=dropped_by.to_numpy()),
        notes=tuple(records.notes),
    )


def _labels(kept: pd.DataFrame, labels: tuple[str, ...]) -> pd.DataFrame:
    counts = describe.label_frequency(kept, labels).rename(columns={"blank": "not_mentioned"})
    return counts[["label", "positive", "percent", "negative", "uncertain", "not_mentioned"]]


def _vectors(kept: pd.DataFrame, labels: tuple[str, ...]) -> pd.DataFrame:
    vectors = describe.label_vectors(kept, labels)
    named = [" + ".join(names) or "none" for names in vectors["labels"]]
    return vectors.assign(vector=named)[["vector", "rows", "percent"]]


def _try(
    sample: list[str], root: str | Place, size: tuple[int, int], aspect: Aspect
) -> tuple[float | None, dict[str, int]]:
    """Mean seconds an image, and why some could not be used."""
    unusable: dict[str, int] = {}
    started = time.perf_counter()
    for image in sample:
        try:
            decode(read(root, image), size, aspect=aspect)
        except ImageError as error:
            unusable[error.reason] = unusable.get(error.reason, 0) + 1
    return ((time.perf_counter() - started) / len(sample) if sample else None), unusable


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
