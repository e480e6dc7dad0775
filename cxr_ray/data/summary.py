"""Counts and statistics of a store, from its index only. Pure pandas; prints and plots nothing."""
# N rows, L labels

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cxr_ray.imaging.statistics import pooled_mean_std
from cxr_ray.labels import LABEL_PREFIX, NEGATIVE, PARTS, POSITIVE, UNCERTAIN, Filter, label_column, label_values

HAS_CONTENT = "variance > 0"
"""Filter that drops images of one gray."""


@dataclass(frozen=True)
class Size:
    """Numbers of images, patients and studies. None: the dataset does not name them."""

    rows: int
    patients: int | None
    studies: int | None
    most_images_of_a_patient: int | None


def size(index: pd.DataFrame) -> Size:
    """Number of rows, patients and studies. The same study name of two patients counts as two studies."""
    patients = index["patient"].dropna()
    both = index[["patient", "study"]].dropna()
    return Size(
        rows=len(index),
        patients=int(patients.nunique()) or None,
        studies=len(both.drop_duplicates()) or None,
        most_images_of_a_patient=int(patients.value_counts().iloc[0]) if len(patients) else None,
    )


def label_frequency(index: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    """One row per label: number of positive, uncertain, negative and blank rows, and the percentage of positive rows."""
    raw_NL = label_values(index, labels)
    counts = pd.DataFrame(
        {
            "positive": (raw_NL == POSITIVE).sum(),
            "uncertain": (raw_NL == UNCERTAIN).sum(),
            "negative": (raw_NL == NEGATIVE).sum(),
            "blank": raw_NL.isna().sum(),
        },
        index=list(labels),
    )
    counts["percent"] = 100.0 * counts["positive"] / max(len(index), 1)
    return counts.rename_axis("label").reset_index()


def label_vectors(index: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    """Distinct sets of positive labels, the most frequent first: labels (tuple), rows, percent.

    Uncertain and not mentioned count as not positive. Sets of equal frequency follow the order of the labels."""
    positive_NL = (label_values(index, labels) == POSITIVE).to_numpy()
    vectors, counts = (
        np.unique(positive_NL, axis=0, return_counts=True) if len(index) else (positive_NL, np.zeros(0, int))
    )
    order = sorted(range(len(counts)), key=lambda i: (-int(counts[i]), tuple(~vectors[i])))
    return pd.DataFrame(
        {
            "labels": [tuple(label for label, on in zip(labels, vectors[i], strict=True) if on) for i in order],
            "rows": [int(counts[i]) for i in order],
            "percent": [100.0 * int(counts[i]) / len(index) for i in order],
        }
    )


def label_vectors_table(vectors: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    """`label_vectors` for a file: the labels as text (`Edema|Effusion`, `none`), rows, percent, and a column `label/LABEL` of 0 or 1 per label."""
    cells = [[int(label in of) for label in labels] for of in vectors["labels"]]
    text = ["|".join(of) or "none" for of in vectors["labels"]]
    counts = vectors[["rows", "percent"]].reset_index(drop=True)
    return pd.concat(
        [pd.Series(text, name="labels"), counts, pd.DataFrame(cells, columns=[f"{LABEL_PREFIX}{k}" for k in labels])],
        axis=1,
    )


def findings_per_image(index: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    """Number of images with 0, 1, 2, ... positive labels, without a gap: findings, rows, percent."""
    found_N = (label_values(index, labels) == POSITIVE).sum(axis=1)
    counts = found_N.value_counts().reindex(range(int(found_N.max()) + 1 if len(found_N) else 1), fill_value=0)
    return pd.DataFrame(
        {
            "findings": counts.index.astype(int),
            "rows": counts.to_numpy(),
            "percent": 100.0 * counts.to_numpy() / max(len(index), 1),
        }
    )


def co_occurrence(index: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    """Number of rows where both labels are positive [L, L]; the diagonal has each label's count."""
    positive_NL = (label_values(index, labels) == POSITIVE).to_numpy().astype(np.int64)
    return pd.DataFrame(positive_NL.T @ positive_NL, index=list(labels), columns=list(labels))


def official_parts(index: pd.DataFrame, labels: Sequence[str], features: Sequence[str]) -> pd.DataFrame:
    """Comparison of the dataset's official parts: one row per quantity, one column per part; empty if there are no parts.

    Quantities: rows, patients, and the percentage of rows with each label and each feature value."""
    parts = [part for part in PARTS if (index["split"] == part).any()]
    if not parts:
        return pd.DataFrame()
    label_columns = [label_column(label, index.columns) for label in labels]
    columns: dict[str, dict[str, Any]] = {}
    for part in parts:
        rows = index[index["split"] == part]
        quantities: dict[str, Any] = {"rows": len(rows), "patients": int(rows["patient"].nunique())}
        for label, column in zip(labels, label_columns, strict=True):
            quantities[f"{label} %"] = 100.0 * float((rows[column] == POSITIVE).mean())
        for feature in features:
            if feature not in index.columns or feature in label_columns:
                continue
            for value in sorted(index[feature].dropna().astype(str).unique())[:8]:
                quantities[f"{feature} = {value} %"] = 100.0 * float((rows[feature].astype(str) == value).mean())
        columns[part] = quantities
    return pd.DataFrame(columns, dtype=object).rename_axis("quantity").reset_index()


def pixel_statistics(index: pd.DataFrame) -> dict[str, float]:
    """Gray values of the stored images on a scale from 0 to 1: `mean` and `deviation` of all pixels, `darkest` and `brightest`
    for the lowest and highest mean of an image. `normalize: dataset` uses the first two, of the train rows."""
    if not len(index):
        return {}
    mean, deviation = pooled_mean_std(index)
    darkest, brightest = float(index["mean"].min()), float(index["mean"].max())
    return {"mean": mean / 255, "deviation": deviation / 255, "darkest": darkest / 255, "brightest": brightest / 255}


def one_gray_warning(index: pd.DataFrame, filters: Sequence[Filter] = ()) -> str | None:
    """One line about images of one gray value in all pixels, with row numbers, or None. `filters` are those of the plan: the advice
    repeats them, because a setting replaces the list."""
    if "variance" not in index:  # an index that no ingest wrote
        return None
    rows = index.loc[index["variance"] == 0, "row"].to_numpy(np.int64)
    if not len(rows):
        return None
    shown = ", ".join(map(str, rows[:5].tolist()))
    more = f" and {len(rows) - 5:,} more" if len(rows) > 5 else ""
    queries = json.dumps([*(rule.query for rule in filters), HAS_CONTENT])
    noun = "image is" if len(rows) == 1 else "images are"
    return (
        f"{len(rows):,} of {len(index):,} {noun} one gray in all pixels (row{'s' * (len(rows) > 1)} {shown}{more}): nothing can be "
        f"learnt from them; drop them with data.filters: {queries}"
    )


def original_sizes(index: pd.DataFrame) -> pd.DataFrame:
    """Sizes of the original images, the most frequent first: width, height (pixels), rows, percent."""
    counts = index.groupby(["width", "height"]).size().rename("rows").reset_index()
    counts = counts.sort_values(["rows", "width", "height"], ascending=[False, True, True], ignore_index=True)
    return counts.astype(int).assign(percent=100.0 * counts["rows"] / max(len(index), 1))


def example_rows(index: pd.DataFrame, labels: Sequence[str]) -> dict[str, int]:
    """An example row for each label: positive for it and for as few other labels as possible. Labels without a positive row
    are left out.

    If there are several, the first one that is not already another label's example."""
    positive_NL = (label_values(index, labels) == POSITIVE).to_numpy()
    others_N = positive_NL.sum(axis=1)
    chosen: dict[str, int] = {}
    for column, label in enumerate(labels):
        rows = index.loc[positive_NL[:, column], "row"].to_numpy(np.int64)
        if len(rows):
            rows = rows[np.argsort(others_N[positive_NL[:, column]], kind="stable")]
            free = [row for row in rows.tolist() if row not in chosen.values()]
            chosen[label] = (free or rows.tolist())[0]
    return chosen


def sample(index: pd.DataFrame, count: int) -> list[int]:
    """`count` random row numbers, ascending and the same at every call; all rows if there are fewer. Different patients as
    far as possible."""
    order = np.random.default_rng(0).permutation(len(index))
    patient = index["patient"].iloc[order]
    repeated = patient.duplicated() & patient.notna()
    order = np.concatenate([order[~repeated.to_numpy()], order[repeated.to_numpy()]])
    return sorted(index["row"].to_numpy(np.int64)[order[:count]].tolist())
