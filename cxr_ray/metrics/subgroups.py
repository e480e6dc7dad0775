"""Metrics by subgroup (sex, age band, view, source, a label not trained on), the largest gaps, and shortcuts.

A shortcut is how well such a feature predicts a label without the image.
"""
# N rows, L labels, C categories of a feature

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray.labels import NEGATIVE, POSITIVE, label_column
from cxr_ray.metrics.intervals import Samples, bootstrap, p_value, percentile
from cxr_ray.metrics.names import MAIN_METRICS
from cxr_ray.metrics.overall import overall_values
from cxr_ray.metrics.per_label import label_values
from cxr_ray.metrics.ranking import ranked
from cxr_ray.metrics.table import Table

Categories = npt.NDArray[np.object_]

FEATURES = ("sex", "view", "source")
AGE_EDGES = (18, 40, 60, 80)
MIN_CASES = 10
"""A category with fewer positives (for AUROC also negatives) is shown, but not compared in gaps."""
MAX_CATEGORIES = 8
"""Categories of a feature; rarer ones are merged into "other"."""


def features(records: pd.DataFrame, *, unused: Sequence[str] = ()) -> dict[str, Categories]:
    """The category [N] of each record (None: unknown) by feature: `FEATURES`, `age`, and each label of `unused` as with / without it
    (uncertain is unknown, not mentioned counts as without). Features with fewer than two categories are left out."""
    out: dict[str, Categories] = {}
    for name in FEATURES:
        if name in records:
            values = records[name]
            common = values.value_counts().index[:MAX_CATEGORIES]
            merged_N = values.where(values.isin(common), "other").to_numpy(object)
            out[name] = np.where(values.notna(), merged_N, np.array(None))
    if "age" in records:
        out["age"] = age_bands(pd.to_numeric(records["age"], errors="coerce").to_numpy(float))
    for label in unused:
        column = label_column(label, records.columns)
        raw = records[column].fillna(NEGATIVE).to_numpy()
        out[column] = np.full(len(raw), None, dtype=object)
        out[column][raw == POSITIVE], out[column][raw == NEGATIVE] = f"with {label}", f"without {label}"
    return {name: category_N for name, category_N in out.items() if len(_names_of(category_N)) > 1}


def _names_of(category_N: Categories) -> list[str]:
    return sorted(pd.unique(category_N[category_N != np.array(None)]).tolist())


def age_bands(age_N: npt.NDArray[np.float64]) -> Categories:
    """`0 to 17`, `18 to 39`, ..., `80 and over`; the names sort by age. None if the age is unknown or not above 0 (CheXpert's unknown)."""
    names = [f"{a} to {b - 1}" for a, b in pairwise((0, *AGE_EDGES))]
    names.append(f"{AGE_EDGES[-1]} and over")
    known = age_N > 0
    out = np.full(len(age_N), None, dtype=object)
    out[known] = np.array(names, dtype=object)[np.searchsorted(AGE_EDGES, age_N[known], side="right")]
    return out


def by_group(
    table: Table,
    category_N: Categories,
    group_N: npt.NDArray[np.int64],
    *,
    resamples: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Metrics of each category, as JSON; all categories share the resamples of patients:

    - `groups`: category, rows, and `values`: metric, label, value, positives, rows, and low, high if there is an interval;
    - `gaps`: for each of `MAIN_METRICS` and each label, the largest difference of two categories, with its interval and p-value.
      The pair is chosen as the most different one, so with many categories the p-value is too small."""
    tables = {name: _restricted(table, category_N == name) for name in _names_of(category_N)}
    samples = bootstrap(tables, group_N, resamples=resamples, rng=rng, micro=False)
    groups, points = [], {}
    for name, part in tables.items():
        values = [*label_values(part), *overall_values(part)]
        points[name] = {(v.metric, v.label): v for v in values}
        rows = []
        for value in values:
            row: dict[str, Any] = value._asdict()
            interval = percentile(samples[name].get((value.metric, value.label), np.zeros(0)))
            if interval is not None and interval.low < interval.high:
                row |= {"low": interval.low, "high": interval.high}
            rows.append(row)
        groups.append({"category": name, "rows": int((category_N == name).sum()), "values": rows})
    return {"groups": groups, "gaps": _gaps(tables, points, samples)}


def _restricted(table: Table, inside_N: npt.NDArray[np.bool_]) -> Table:
    """The table with the truth of all other rows unknown, so that the categories share rows and resamples."""
    return replace(table, known_NL=table.known_NL & inside_N[:, None], true_NL=table.true_NL & inside_N[:, None])


def _gaps(
    tables: Mapping[str, Table], points: Mapping[str, Mapping[tuple[str, str], Any]], samples: Mapping[str, Samples]
) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    labels = next(iter(tables.values())).labels if tables else ()
    for metric in MAIN_METRICS:
        for i, label in enumerate(labels):
            value = {
                name: points[name][metric, label].value
                for name, part in tables.items()
                if (metric, label) in points[name] and _has_enough_cases(part, i, metric)
            }
            if len(value) < 2:
                continue
            high, low = max(value, key=value.__getitem__), min(value, key=value.__getitem__)
            row: dict[str, Any] = {
                "metric": metric,
                "label": label,
                "value": value[high] - value[low],
                "high": high,
                "low": low,
            }
            if (metric, label) in samples[high]:
                gap_R = samples[high][metric, label] - samples[low][metric, label]
                interval = percentile(gap_R)
                row["between"] = [interval.low, interval.high] if interval else None
                row["p"] = p_value(gap_R)
            out.append(row)
    return out


def _has_enough_cases(table: Table, i: int, metric: str) -> bool:
    """Whether a category has enough positives, and for AUROC enough negatives, of label i."""
    positives = int(table.true_NL[:, i].sum())
    negatives = int(table.known_NL[:, i].sum()) - positives
    return positives >= MIN_CASES and (metric != "auroc" or negatives >= MIN_CASES)


def shortcut(
    train_truth_NL: npt.NDArray[np.floating[Any]],
    train_category_N: Categories,
    table: Table,
    category_N: Categories,
) -> dict[str, Any]:
    """How well a feature alone predicts the labels: the score of a row is the share of positives of its category in train.

    `auroc`: AUROC by label on the table's rows (a category that is not in train gets the overall share). For classes also
    `accuracy` of predicting each category's most frequent class, and `majority`, that of always predicting the most frequent class."""
    share = pd.DataFrame(train_truth_NL).groupby(pd.Series(train_category_N).astype(str)).mean()
    score = share.reindex(pd.Series(category_N).astype(str)).to_numpy()
    overall = np.nanmean(train_truth_NL, axis=0, where=~np.isnan(train_truth_NL))
    score = np.where(np.isnan(score), overall[None, :], score)
    out: dict[str, Any] = {"auroc": {}}
    for i, label in enumerate(table.labels):
        known = table.known_NL[:, i]
        value = ranked(table.true_NL[known, i], score[known, i])[0]
        if not np.isnan(value):
            out["auroc"][label] = value
    if table.task == "multiclass" and table.known_NL[:, 0].any():
        known = table.known_NL[:, 0]
        true = table.true_NL[known].argmax(axis=1)
        out["accuracy"] = float((score[known].argmax(axis=1) == true).mean())
        out["majority"] = float((overall.argmax() == true).mean())
    return out
