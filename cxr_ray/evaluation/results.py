"""The evaluation of a part as plain data: every metric with its interval, the rivals on the same rows, what is undefined.

What a report says is drawn from this and the predictions alone, so it can be written again without a model.
"""
# N rows, L labels, R resamples

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray.data.split import groups_of
from cxr_ray.errors import UserError
from cxr_ray.metrics import (
    AVERAGES,
    MEAN,
    RATES,
    WHOLE_METRICS,
    Value,
    compute_metrics,
    confusion,
    delong,
    operating_points,
)
from cxr_ray.metrics import intervals as chance
from cxr_ray.metrics.intervals import Samples, bca, percentile, wilson
from cxr_ray.metrics.table import Table, decide
from cxr_ray.runs import Run

LEVEL = 0.95
# Shares of a count: at 0 or 1 every resample agrees and the bootstrap has nothing to say, but Wilson has.
SHARES = ("recall", "specificity", "precision", "npv", "accuracy", "exact_match")
AT_RECALL = (0.8, 0.9, 0.95)
COMPARED = {
    "multilabel": ("auroc", "ap", "f1"),
    "binary": ("accuracy", "auroc", "ap", "f1"),
    "multiclass": ("accuracy", "auroc", "ap", "f1"),
}


def evaluation(
    predictions: pd.DataFrame,
    labels: Sequence[str],
    task: str,
    thresholds: operating_points.Rule,
    *,
    baselines: Mapping[str, npt.NDArray[np.floating[Any]]],
    bootstrap: int,
    interval_by: str,
    seed: int,
    val: pd.DataFrame | None = None,
    assurance: float | None = None,
    method: str = "percentile",
) -> dict[str, Any]:
    """Judge a predictions table (`true/LABEL`, `prob/LABEL`, `patient`) and its rivals' probabilities [N, L]; JSON-able.

    `thresholds` is one number, one a label, or a rule (see `metrics.operating`) that chooses them on `val`, another table of
    the same columns, with `assurance`; `bootstrap` the number of resamples, 0 gives no intervals; `interval_by` patient or
    image (where no patient is known, images are resampled, and `interval.by` says so); `method` percentile or bca, percentile
    standing in where bca is undefined. Rivals are judged at given thresholds, at 0.5 where a rule chose for the model. Keys:

    - `values`: rows of metric, label, value, positives, rows, and low, high, method, defined where there is an interval;
    - `rivals`: the same rows of each rival; `differences`: model minus rival with the paired interval, means over the
      labels that both define;
    - `undefined`: metric, label, reason; `confusion`: truth down, decision across, with `classes`; `accuracy_wilson`;
    - `operating`: the rule, what it chose each label and what that costs on val and here; `at_recall`: the same for recalls
      of at least `AT_RECALL`; `delong`: DeLong's interval of each AUROC, a cross-check;
    - `task`, `labels`, `thresholds`, `rows`, `patients`, `interval`.

    Raises `UserError` for a missing column, duplicate rows, or probabilities outside [0, 1]."""
    truth_NL, prob_NL = columns_of(predictions, labels, "true"), columns_of(predictions, labels, "prob")
    if "row" in predictions and predictions["row"].duplicated().any():
        raise UserError("the predictions hold a row twice; `cxr-ray evaluate` writes them anew")
    patient = predictions["patient"]
    by, group_N = resampled_by(patient, interval_by)
    points = choose(thresholds, labels, task, val, interval_by=interval_by, assurance=assurance, rows=len(predictions))
    limits_L = operating_points.limits(points)
    chosen = operating_points.hangs_on_rows(thresholds, labels)
    tables, values = {}, {}
    for name, prob in {"": prob_NL, **baselines}.items():
        at_L = np.full(len(labels), operating_points.FIXED) if name and chosen else limits_L
        tables[name] = decide(truth_NL, prob, labels=labels, task=task, thresholds_L=at_L)
        values[name] = compute_metrics(truth_NL, prob, labels=labels, task=task, thresholds_L=at_L)
    samples = chance.bootstrap(tables, group_N, resamples=bootstrap, rng=np.random.default_rng(seed))
    left_out = chance.jackknife(tables, group_N) if bootstrap and method == "bca" else {name: {} for name in tables}
    judged = {
        name: [_row(v, tables[name], group_N, samples[name], left_out[name]) for v in values[name]] for name in tables
    }
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
            "method": method,
            "level": LEVEL,
        },
        "values": judged.pop(""),
        "rivals": judged,
        "differences": {name: _differences(values, samples, name, labels, task) for name in baselines},
        "undefined": _undefined(tables[""], values[""]),
        "operating": {
            "rule": operating_points.words(thresholds),
            "given": thresholds if isinstance(thresholds, (str, int, float)) else dict(thresholds),
            "chosen_on_rows": chosen,
            "assurance": assurance if chosen else None,
            "points": operating_points.plain(points),
            "here": operating_points.plain(operating_points.applied(tables[""], points)),
        },
        "at_recall": _at_recall(tables[""], val, interval_by, assurance),
        "delong": _delong(tables[""]),
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


def resampled_by(patient: "pd.Series[Any]", interval_by: str) -> tuple[str, npt.NDArray[np.int64]]:
    """What is resampled, patient or image, and the number of each row's [N]."""
    by = "patient" if interval_by == "patient" and patient.notna().any() else "image"
    return by, groups_of(patient if by == "patient" else None, len(patient))


def table_of(
    predictions: pd.DataFrame, labels: Sequence[str], task: str, limits_L: npt.NDArray[np.float64] | None = None
) -> Table:
    """The checked table of a predictions table, decided at 0.5 where no thresholds [L] are given."""
    truth_NL, prob_NL = columns_of(predictions, labels, "true"), columns_of(predictions, labels, "prob")
    at_L = np.full(len(labels), operating_points.FIXED) if limits_L is None else limits_L
    return decide(truth_NL, prob_NL, labels=labels, task=task, thresholds_L=at_L)


def rule_of(run: Run, asked: operating_points.Rule | None, labels: Sequence[str]) -> operating_points.Rule:
    """The thresholds `asked` for, or the run's own: groups spread over their labels, numbers by label those of `labels`.

    Raises `UserError` for a label that the run has not."""
    info = run.info
    said = run.config.report.thresholds if asked is None else asked
    rule = operating_points.spread(said, info["labels"], info.get("groups", {}))
    if isinstance(rule, dict) and not operating_points.hangs_on_rows(rule, info["labels"]):
        return {label: at for label, at in rule.items() if label in labels}
    return rule


def choose(
    thresholds: operating_points.Rule,
    labels: Sequence[str],
    task: str,
    val: pd.DataFrame | None,
    *,
    interval_by: str,
    assurance: float | None,
    rows: int,
) -> dict[str, operating_points.Point]:
    """The operating point of each label, chosen on (or, where it is given, measured on) `val`, for `rows` further rows.

    Raises `UserError` where a rule has no rows to choose on."""
    asked = operating_points.parse(thresholds, labels, task=task)
    if val is None or not len(val):
        if not isinstance(asked, np.ndarray):
            raise UserError(
                f"thresholds by rule ({operating_points.words(thresholds)}) are chosen on val, and this run has no val rows; "
                "give numbers, such as Edema=0.2"
            )
        return {
            label: operating_points.Point(float(at), f"given: {at:g}", True, 0, 0)
            for label, at in zip(labels, asked, strict=True)
        }
    group_N = resampled_by(val["patient"], interval_by)[1]
    return operating_points.choose(
        thresholds, table_of(val, labels, task), group_N=group_N, assurance=assurance, future=rows / len(val)
    )


def _at_recall(
    table: Table, val: pd.DataFrame | None, interval_by: str, assurance: float | None
) -> list[dict[str, Any]]:
    """For each label and recall of `AT_RECALL`: the threshold that val gives for it, and what that gives here."""
    if table.task == "multiclass" or val is None or not len(val):
        return []
    out: list[dict[str, Any]] = []
    for least in AT_RECALL:
        points = choose(
            {"recall": least}, table.labels, table.task, val,
            interval_by=interval_by, assurance=assurance, rows=len(table.prob_NL),
        )  # fmt: skip
        here = operating_points.plain(operating_points.applied(table, points))
        on_val = operating_points.plain(points)
        out += [{"recall": least, "label": k, "val": on_val[k], "here": here[k]} for k in table.labels]
    return out


def _delong(table: Table) -> dict[str, list[float]]:
    found = {}
    for i, label in enumerate(table.labels):
        known = table.known_NL[:, i]
        between = delong.interval(table.true_NL[known, i], table.prob_NL[known, i], LEVEL)
        if between is not None:
            found[label] = list(between)
    return found


def columns_of(predictions: pd.DataFrame, labels: Sequence[str], kind: str) -> npt.NDArray[Any]:
    names = [f"{kind}/{label}" for label in labels]
    missing = [n for n in names if n not in predictions]
    if missing:
        raise UserError(f"the predictions have no column {missing[0]!r}; `cxr-ray evaluate` writes them anew")
    return predictions[names].to_numpy()


def _row(
    value: Value, table: Table, group_N: npt.NDArray[np.int64], samples: Samples, left_out: Samples
) -> dict[str, Any]:
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
    key = value.metric, value.label
    found = bca(sample_R, value.value, left_out[key], LEVEL) if key in left_out else None
    method = "bca" if found else "bootstrap"
    found = found or percentile(sample_R, LEVEL)
    if found is None:
        return {**row, "no_interval": "undefined in over a tenth of the resamples: too few positives or negatives"}
    if found.low == found.high:
        return {**row, "no_interval": "every resample gives the same value"}
    return {**row, **found._asdict(), "method": method}


def _groups_behind(value: Value, table: Table, group_N: npt.NDArray[np.int64]) -> int:
    """Patients (or images) that the denominator of a share holds."""
    if value.label == "":
        return len(np.unique(group_N[table.known_NL.any(axis=1)]))
    i = table.labels.index(value.label)
    known, true, said = table.known_NL[:, i], table.true_NL[:, i], table.positive_NL[:, i]
    behind = {"recall": true, "specificity": known & ~true, "precision": known & said, "npv": known & ~said}
    return len(np.unique(group_N[behind[value.metric]]))


def _differences(
    values: Mapping[str, list[Value]], samples: Mapping[str, Samples], baseline: str, labels: Sequence[str], task: str
) -> list[dict[str, Any]]:
    """Model minus rival for the metrics that sum a task up, over the labels that both define."""
    model, other = ({(v.metric, v.label): v.value for v in values[name]} for name in ("", baseline))
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
            gap_KR = np.stack([samples[""][key] - samples[baseline][key] for key in keys])
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
