"""The evaluation of a part as plain data: every metric with its interval, the rivals on the same rows, what is undefined.

What a report says is drawn from this and the predictions alone, so it can be written again without a model.
"""
# N rows, L labels, R resamples

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray import metrics
from cxr_ray.errors import UserError
from cxr_ray.metrics import AVERAGES, MEAN, RATES, WHOLE_METRICS, Value, confusion, judge
from cxr_ray.metrics import intervals as chance
from cxr_ray.metrics.intervals import Samples, percentile, wilson
from cxr_ray.metrics.table import Table, decide
from cxr_ray.splits import groups_of

LEVEL = 0.95
# Shares of a count: at 0 or 1 every resample agrees and the bootstrap has nothing to say, but Wilson has.
SHARES = ("recall", "specificity", "precision", "accuracy", "exact_match")
COMPARED = {
    "multilabel": ("auroc", "ap", "f1"),
    "binary": ("accuracy", "auroc", "ap", "f1"),
    "multiclass": ("accuracy", "auroc", "ap", "f1"),
}


def evaluation(
    predictions: pd.DataFrame,
    labels: Sequence[str],
    task: str,
    thresholds: float | Mapping[str, float],
    *,
    rivals: Mapping[str, npt.NDArray[np.floating[Any]]],
    bootstrap: int,
    interval_by: str,
    seed: int,
) -> dict[str, Any]:
    """Judge a predictions table (`true/LABEL`, `prob/LABEL`, `patient`) and its rivals' probabilities [N, L]; JSON-able.

    `thresholds` is one number or one a label; `bootstrap` the number of resamples, 0 gives no intervals; `interval_by`
    patient or image (where no patient is known, images are resampled, and `interval.by` says so). Keys of the result:

    - `values`: rows of metric, label, value, positives, rows, and low, high, method, defined where there is an interval;
    - `rivals`: the same rows of each rival; `differences`: model minus rival with the paired interval, means over the
      labels that both define;
    - `undefined`: metric, label, reason; `confusion`: truth down, decision across, with `classes`; `accuracy_wilson`;
    - `task`, `labels`, `thresholds`, `rows`, `patients`, `interval`.

    Raises `UserError` for a missing column, duplicate rows, or probabilities outside [0, 1]."""
    truth_NL, prob_NL = _columns(predictions, labels, "true"), _columns(predictions, labels, "prob")
    if "row" in predictions and predictions["row"].duplicated().any():
        raise UserError("the predictions hold a row twice; `cxr-ray evaluate` writes them anew")
    limits_L = metrics.thresholds(thresholds, labels)
    patient = predictions["patient"]
    by = "patient" if interval_by == "patient" and patient.notna().any() else "image"
    group_N = groups_of(patient if by == "patient" else None, len(predictions))
    tables = {
        name: decide(truth_NL, prob, labels=labels, task=task, thresholds_L=limits_L)
        for name, prob in {"": prob_NL, **rivals}.items()
    }
    values = {
        name: judge(truth_NL, prob, labels=labels, task=task, thresholds_L=limits_L)
        for name, prob in {"": prob_NL, **rivals}.items()
    }
    samples: dict[str, Samples] = {name: {} for name in tables}
    if bootstrap:
        samples = chance.bootstrap(tables, group_N, resamples=bootstrap, rng=np.random.default_rng(seed))
    judged = {name: [_row(v, tables[name], group_N, samples[name]) for v in values[name]] for name in tables}
    out: dict[str, Any] = {
        "task": task,
        "labels": list(labels),
        "thresholds": {k: float(t) for k, t in zip(labels, limits_L, strict=True)},
        "rows": len(predictions),
        "patients": int(patient.nunique()) if patient.notna().any() else None,
        "interval": {
            "by": by,
            "asked": interval_by,
            "groups": len(np.unique(group_N)),
            "resamples": bootstrap,
            "level": LEVEL,
        },
        "values": judged.pop(""),
        "rivals": judged,
        "differences": {name: _differences(values, samples, name, labels, task) for name in rivals},
        "undefined": _undefined(tables[""], values[""]),
        "confusion": None,
        "classes": None,
        "accuracy_wilson": None,
    }
    if task != "multilabel":
        matrix = confusion(truth_NL, prob_NL, threshold=float(limits_L[0]))
        out["confusion"] = matrix.tolist()
        out["classes"] = list(labels) if task == "multiclass" else [f"not {labels[0]}", labels[0]]
        if matrix.sum():
            out["accuracy_wilson"] = list(wilson(int(np.trace(matrix)), int(matrix.sum()), LEVEL))
    return out


def _columns(predictions: pd.DataFrame, labels: Sequence[str], kind: str) -> npt.NDArray[Any]:
    names = [f"{kind}/{label}" for label in labels]
    missing = [n for n in names if n not in predictions]
    if missing:
        raise UserError(f"the predictions have no column {missing[0]!r}; `cxr-ray evaluate` writes them anew")
    return predictions[names].to_numpy()


def _row(value: Value, table: Table, group_N: npt.NDArray[np.int64], samples: Samples) -> dict[str, Any]:
    row: dict[str, Any] = value._asdict()
    sample_R = samples.get((value.metric, value.label))
    if sample_R is None:  # a count, or no intervals asked for
        return row
    if value.metric in SHARES and value.label not in AVERAGES:
        groups = _groups_behind(value, table, group_N)
        alone = len(np.unique(group_N)) == len(group_N)
        if value.value in (0.0, 1.0) or (value.metric == "accuracy" and alone):
            low, high = wilson(round(value.value * groups), groups, LEVEL)
            return {**row, "low": low, "high": high, "method": "wilson", "defined": 0}
    found = percentile(sample_R, LEVEL)
    if found is None:
        return {**row, "no_interval": "undefined in over a tenth of the resamples: too few positives or negatives"}
    if found.low == found.high:
        return {**row, "no_interval": "every resample gives the same value"}
    return {**row, **found._asdict(), "method": "bootstrap"}


def _groups_behind(value: Value, table: Table, group_N: npt.NDArray[np.int64]) -> int:
    """Patients (or images) that the denominator of a share holds."""
    if value.label == "":
        return len(np.unique(group_N[table.known_NL.any(axis=1)]))
    i = table.labels.index(value.label)
    known, true, said = table.known_NL[:, i], table.true_NL[:, i], table.positive_NL[:, i]
    behind = {"recall": true, "specificity": known & ~true, "precision": known & said}[value.metric]
    return len(np.unique(group_N[behind]))


def _differences(
    values: Mapping[str, list[Value]], samples: Mapping[str, Samples], rival: str, labels: Sequence[str], task: str
) -> list[dict[str, Any]]:
    """Model minus rival for the metrics that sum a task up, over the labels that both define."""
    model, other = ({(v.metric, v.label): v.value for v in values[name]} for name in ("", rival))
    out: list[dict[str, Any]] = []
    for metric in COMPARED[task]:
        whole = metric in WHOLE_METRICS[task]
        keys = [(metric, "")] if whole else [(metric, label) for label in labels]
        keys = [key for key in keys if key in model and key in other]
        if not keys:
            continue
        value = float(np.mean([model[key] - other[key] for key in keys]))
        row: dict[str, Any] = {"metric": metric, "label": "" if whole else MEAN, "value": value, "labels": len(keys)}
        if samples[""]:
            gap_KR = np.stack([samples[""][key] - samples[rival][key] for key in keys])
            defined_R = (~np.isnan(gap_KR)).sum(axis=0)
            gap_R = np.where(defined_R > 0, np.nansum(gap_KR, axis=0) / np.maximum(defined_R, 1), np.nan)
            found = percentile(gap_R, LEVEL)
            if found is not None:
                row |= found._asdict()
        out.append(row)
    return out


def _undefined(table: Table, values: Sequence[Value]) -> list[dict[str, str]]:
    """What is absent from `values`, and why."""
    there = {(v.metric, v.label) for v in values}
    out: list[dict[str, str]] = []
    for i, label in enumerate(table.labels):
        known, true = table.known_NL[:, i], table.true_NL[:, i]
        for metric in RATES:
            if (metric, label) in there:
                continue
            if not known.any():
                reason = "the truth of no row is known"
            elif metric == "precision":
                reason = "nothing is called positive"
            elif metric == "npv":
                reason = "nothing is called negative"
            elif metric == "specificity" or (metric == "auroc" and true.any()):
                reason = "no negatives"
            elif metric == "f1":
                reason = "no positives and nothing is called positive"
            else:
                reason = "no positives"
            out.append({"metric": metric, "label": label, "reason": reason})
    return out
