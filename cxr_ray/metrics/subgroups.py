"""Every metric in each group of a feature (sex, age band, view, source, a label not trained on), and the largest gaps.

And what such a feature alone tells of a label: the shortcut that a model may have taken.
"""
# N rows, L labels, C categories of a feature

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray.labels import NEGATIVE, POSITIVE
from cxr_ray.metrics.intervals import Samples, bootstrap, p_value, percentile
from cxr_ray.metrics.names import MAIN_METRICS
from cxr_ray.metrics.overall import table_values
from cxr_ray.metrics.per_label import label_values
from cxr_ray.metrics.ranking import ranked
from cxr_ray.metrics.table import Table

Categories = npt.NDArray[np.object_]

FEATURES = ("sex", "view", "source")
AGE_EDGES = (18, 40, 60, 80)
FEW = 10
"""Positives (and for AUROC negatives) of a group below which its figure is shown but enters no gap."""
MOST = 8
"""Categories of a feature; the rarer ones are put together as "other"."""


def features(records: pd.DataFrame, *, unused: Sequence[str] = ()) -> dict[str, Categories]:
    """Feature to the category [N] of each record (None: not known): those of `FEATURES`, `age`, and every label of
    `unused` as with / without it (uncertain is not known, not mentioned counts as without). Features that show fewer than
    two categories are left out."""
    found: dict[str, Categories] = {}
    for name in FEATURES:
        if name in records:
            values = records[name]
            common = values.value_counts().index[:MOST]
            kept_N = values.where(values.isin(common), "other").to_numpy(object)
            found[name] = np.where(values.notna(), kept_N, np.array(None))
    if "age" in records:
        found["age"] = age_bands(pd.to_numeric(records["age"], errors="coerce").to_numpy(float))
    for label in unused:
        raw = records[label].fillna(NEGATIVE).to_numpy()
        found[label] = np.full(len(raw), None, dtype=object)
        found[label][raw == POSITIVE], found[label][raw == NEGATIVE] = f"with {label}", f"without {label}"
    return {name: held for name, held in found.items() if len(pd.unique(held[held != np.array(None)])) > 1}


def age_bands(age_N: npt.NDArray[np.float64]) -> Categories:
    """`0 to 17`, `18 to 39`, ..., `80 and over`, so named that they sort; None where the age is unknown or not above 0 (CheXpert writes 0 for it)."""
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
    """Metrics of each category, one set of patient resamples for all, ready for JSON:

    - `groups`: category, rows, and `values`: metric, label, value, positives, rows, and low, high where there is one;
    - `gaps`: for each of `WORTH` and each label the largest difference of two categories, with its interval and p. The
      pair is the one that differs most, so that p is too small the more categories there are."""
    names = sorted(pd.unique(category_N[category_N != np.array(None)]).tolist())
    tables = {name: _only(table, category_N == name) for name in names}
    samples = bootstrap(tables, group_N, resamples=resamples, rng=rng, micro=False)
    groups, points = [], {}
    for name, part in tables.items():
        values = [*label_values(part), *table_values(part)]
        points[name] = {(v.metric, v.label): v for v in values}
        rows = []
        for value in values:
            row: dict[str, Any] = value._asdict()
            found = percentile(samples[name].get((value.metric, value.label), np.zeros(0)))
            rows.append(row | ({"low": found.low, "high": found.high} if found and found.low < found.high else {}))
        groups.append({"category": name, "rows": int((category_N == name).sum()), "values": rows})
    return {"groups": groups, "gaps": _gaps(tables, points, samples)}


def _only(table: Table, here_N: npt.NDArray[np.bool_]) -> Table:
    """The table with every other row's truth unknown, so that categories share their rows and draws."""
    return replace(table, known_NL=table.known_NL & here_N[:, None], true_NL=table.true_NL & here_N[:, None])


def _gaps(
    tables: Mapping[str, Table], points: Mapping[str, Mapping[tuple[str, str], Any]], samples: Mapping[str, Samples]
) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    labels = next(iter(tables.values())).labels if tables else ()
    for metric in MAIN_METRICS:
        for i, label in enumerate(labels):
            enough = [
                name
                for name, part in tables.items()
                if (metric, label) in points[name]
                and part.true_NL[:, i].sum() >= FEW
                and (metric != "auroc" or (part.known_NL[:, i] & ~part.true_NL[:, i]).sum() >= FEW)
            ]
            if len(enough) < 2:
                continue
            value = {name: points[name][metric, label].value for name in enough}
            high, low = max(enough, key=value.__getitem__), min(enough, key=value.__getitem__)
            row: dict[str, Any] = {
                "metric": metric,
                "label": label,
                "value": value[high] - value[low],
                "high": high,
                "low": low,
            }
            if samples[high] and (metric, label) in samples[high]:
                gap_R = samples[high][metric, label] - samples[low][metric, label]
                found, p = percentile(gap_R), p_value(gap_R)
                row["between"] = [found.low, found.high] if found else None
                row["p"] = p
            out.append(row)
    return out


def shortcut(
    train_truth_NL: npt.NDArray[np.floating[Any]],
    train_category_N: Categories,
    table: Table,
    category_N: Categories,
) -> dict[str, Any]:
    """What a feature alone tells: each row gets the share of its category in train, and is judged like a model.

    `auroc`: label to AUROC on the table's rows (a category that train lacks gets the overall share); for classes also
    `accuracy` of calling each category's most frequent class, and `majority`, that of the most frequent class alone."""
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
