"""The results of an evaluation as plain data: metrics with intervals, baselines on the same rows, operating points, what is undefined.

Reports are made from these results and the predictions alone, so they can be written again without a model.
"""
# N rows, L labels, R resamples, K labels compared

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_ray.errors import UserError
from cxr_ray.evaluation.point_intervals import intervals_at
from cxr_ray.evaluation.prediction_table import EvaluationSettings, PredictionTable, choose_points
from cxr_ray.evaluation.value_intervals import LEVEL, labels_left_out, value_row
from cxr_ray.metrics import (
    MEAN,
    OVERALL_METRICS,
    RATES,
    Value,
    compute_metrics,
    confusion,
    delong,
    operating_points,
)
from cxr_ray.metrics.intervals import Samples, bootstrap, jackknife, percentile, wilson
from cxr_ray.metrics.table import Table, decide

AT_RECALL = (0.8, 0.9, 0.95)
COMPARED = {
    "multilabel": ("auroc", "ap", "f1"),
    "binary": ("accuracy", "auroc", "ap", "f1"),
    "multiclass": ("accuracy", "auroc", "ap", "f1"),
}
"""Metrics of the differences to the baselines, by task."""


def evaluate_table(
    predictions: PredictionTable,
    settings: EvaluationSettings,
    *,
    val: PredictionTable | None = None,
    baselines: Mapping[str, npt.NDArray[np.floating[Any]]] | None = None,
) -> dict[str, Any]:
    """Evaluate predictions, and baselines given by their probabilities [N, L]; the result is plain JSON.

    A rule chooses its thresholds on `val`. Baselines are evaluated at given thresholds, but at 0.5 if a rule chose the thresholds for
    the model. Without patients images are resampled, and `interval.by` states it; where BCa is undefined, the interval is the percentile
    one. Keys:

    - `values`: rows of metric, label, value, positives, rows, and low, high, method, defined if there is an interval;
    - `rivals`: the same rows of each baseline; `differences`: model minus baseline with the paired interval, as means over the
      labels that both define;
    - `undefined`: metric, label, reason; `confusion`: truth by row, decision by column, with `classes`; `accuracy_wilson`;
    - `operating`: the rule, its points on val, and the metrics at them here with their `intervals`; `at_recall`: the same for recalls of at least
      `AT_RECALL`; `delong`: DeLong's interval of each AUROC, as a cross-check;
    - `task`, `labels`, `thresholds`, `rows`, `patients`, `interval`.

    Raises `UserError` for a missing column, duplicate rows, or probabilities outside [0, 1]."""
    if "row" in predictions.frame and predictions.frame["row"].duplicated().any():
        raise UserError("the predictions have a duplicate row; `cxr-ray evaluate` writes them again")
    labels, task, truth_NL = predictions.labels, predictions.task, predictions.truth_NL
    points = choose_points(predictions, val, settings)
    thresholds_L = operating_points.thresholds_of(points)
    by_rule = operating_points.needs_rows(settings.rule, labels)
    baseline_L = np.full(len(labels), operating_points.DEFAULT) if by_rule else thresholds_L
    scored = {"": (predictions.prob_NL, thresholds_L)}
    scored |= {name: (prob_NL, baseline_L) for name, prob_NL in (baselines or {}).items()}
    tables: dict[str, Table] = {}
    values: dict[str, list[Value]] = {}
    for name, (prob_NL, at_L) in scored.items():
        tables[name] = decide(truth_NL, prob_NL, labels=labels, task=task, thresholds_L=at_L)
        values[name] = compute_metrics(truth_NL, prob_NL, labels=labels, task=task, thresholds_L=at_L)
    unit, group_N = predictions.resampling_units(settings.interval_by)
    samples, left_out = resample(tables, group_N, settings)
    rows = {
        name: [value_row(v, tables[name], group_N, samples[name], left_out[name]) for v in values[name]]
        for name in tables
    }
    patient = predictions.frame["patient"]
    return {
        "task": task,
        "labels": list(labels),
        "thresholds": {k: float(t) for k, t in zip(labels, thresholds_L, strict=True)},
        "rows": len(predictions),
        "patients": int(patient.nunique()) if patient.notna().any() else None,
        "interval": {
            "by": unit,
            "asked": settings.interval_by,
            "groups": len(np.unique(group_N)),
            "resamples": settings.bootstrap,
            "method": settings.interval,
            "level": LEVEL,
            "left_out": labels_left_out(samples[""], labels),
        },
        "values": rows.pop(""),
        "rivals": rows,
        "differences": {name: _differences(values, samples, name, labels, task) for name in rows},
        "undefined": _undefined(tables[""], values[""]),
        **_operating(predictions, val, points, settings),
        "delong": _delong(tables[""]),
        **_confusion(predictions, float(thresholds_L[0])),
    }


def resample(
    tables: Mapping[str, Table], group_N: npt.NDArray[np.int64], settings: EvaluationSettings
) -> tuple[dict[str, Samples], dict[str, Samples]]:
    """The metrics of the tables on shared bootstrap resamples, and, if BCa intervals are wanted, on jackknife samples."""
    rng = np.random.default_rng(settings.seed)
    samples = bootstrap(tables, group_N, resamples=settings.bootstrap, rng=rng)
    if settings.bootstrap and settings.interval == "bca":
        return samples, jackknife(tables, group_N)
    return samples, {name: {} for name in tables}


def _confusion(predictions: PredictionTable, threshold: float) -> dict[str, Any]:
    """`confusion`, `classes` and `accuracy_wilson` of binary tables and of classes; None for several labels."""
    out: dict[str, Any] = {"confusion": None, "classes": None, "accuracy_wilson": None}
    if predictions.task == "multilabel":
        return out
    labels = predictions.labels
    matrix = confusion(predictions.truth_NL, predictions.prob_NL, threshold=threshold)
    out["confusion"] = matrix.tolist()
    out["classes"] = list(labels) if predictions.task == "multiclass" else [f"not {labels[0]}", labels[0]]
    if matrix.sum():
        out["accuracy_wilson"] = list(wilson(int(np.trace(matrix)), int(matrix.sum()), LEVEL))
    return out


def _operating(
    predictions: PredictionTable,
    val: PredictionTable | None,
    points: Mapping[str, operating_points.Point],
    settings: EvaluationSettings,
) -> dict[str, Any]:
    """`operating` and `at_recall`: the chosen points, and for each recall of `AT_RECALL` those chosen on val; all measured here."""
    table = predictions.decide()
    at_recall: list[Mapping[str, operating_points.Point]] = []
    if val is not None and len(val):
        at_recall = [choose_points(predictions, val, replace(settings, rule={"recall": r})) for r in AT_RECALL]
    here = [operating_points.apply(table, chosen) for chosen in (points, *at_recall)]
    intervals = intervals_at(table, predictions.resampling_units(settings.interval_by)[1], here, settings)
    measured = [
        {label: {**point, "intervals": by_label[label]} if by_label[label] else point for label, point in found.items()}
        for found, by_label in zip(map(operating_points.to_json, here), intervals, strict=True)
    ]
    by_rule = operating_points.needs_rows(settings.rule, predictions.labels)
    return {
        "operating": {
            "rule": operating_points.describe(settings.rule),
            "given": settings.rule if isinstance(settings.rule, (str, int, float)) else dict(settings.rule),
            "chosen_on_rows": by_rule,
            "assurance": settings.assurance if by_rule else None,
            "points": operating_points.to_json(points),
            "here": measured[0],
        },
        "at_recall": [
            {"recall": minimum, "label": k, "val": operating_points.to_json(chosen)[k], "here": found[k]}
            for minimum, chosen, found in zip(AT_RECALL, at_recall, measured[1:], strict=False)
            for k in table.labels
        ],
    }


def _delong(table: Table) -> dict[str, list[float]]:
    out = {}
    for i, label in enumerate(table.labels):
        known = table.known_NL[:, i]
        interval = delong.interval(table.true_NL[known, i], table.prob_NL[known, i], LEVEL)
        if interval is not None:
            out[label] = list(interval)
    return out


def _differences(
    values: Mapping[str, list[Value]], samples: Mapping[str, Samples], baseline: str, labels: Sequence[str], task: str
) -> list[dict[str, Any]]:
    """Model minus baseline for the metrics of `COMPARED`, as means over the labels that both define."""
    model, other = ({(v.metric, v.label): v.value for v in values[name]} for name in ("", baseline))
    out: list[dict[str, Any]] = []
    for metric in COMPARED[task]:
        overall = metric in OVERALL_METRICS[task]
        keys = [(metric, "")] if overall else [(metric, label) for label in labels]
        keys = [key for key in keys if key in model and key in other]
        if not keys:
            continue
        value = float(np.mean([model[key] - other[key] for key in keys]))
        row: dict[str, Any] = {"metric": metric, "label": "" if overall else MEAN, "value": value, "labels": len(keys)}
        if samples[""]:
            gap_KR = np.stack([samples[""][key] - samples[baseline][key] for key in keys])
            defined_R = (~np.isnan(gap_KR)).sum(axis=0)
            gap_R = np.where(defined_R > 0, np.nansum(gap_KR, axis=0) / np.maximum(defined_R, 1), np.nan)
            interval = percentile(gap_R, LEVEL)
            if interval is not None:
                row |= interval._asdict()
        out.append(row)
    return out


def _undefined(table: Table, values: Sequence[Value]) -> list[dict[str, str]]:
    """The metrics that are missing in `values`, with the reason."""
    defined = {(v.metric, v.label) for v in values}
    out: list[dict[str, str]] = []
    for i, label in enumerate(table.labels):
        known, true = table.known_NL[:, i], table.true_NL[:, i]
        for metric in RATES:
            if (metric, label) in defined:
                continue
            if not known.any():
                reason = "no row has a known label"
            elif metric == "precision":
                reason = "no predicted positives"
            elif metric == "npv":
                reason = "no predicted negatives"
            elif metric == "specificity" or (metric == "auroc" and true.any()):
                reason = "no negatives"
            elif metric == "f1":
                reason = "no positives and no predicted positives"
            else:
                reason = "no positives"
            out.append({"metric": metric, "label": label, "reason": reason})
    return out
