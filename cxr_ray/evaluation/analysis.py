"""Further results of a part: calibration before and after recalibration, subgroups with their gaps, shortcuts."""
# N rows, L labels

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray.evaluation.prediction_table import EvaluationSettings, PredictionTable
from cxr_ray.metrics import MEAN, calibration, subgroups
from cxr_ray.metrics.per_label import label_values
from cxr_ray.metrics.table import Table, decide
from cxr_ray.runtime.progress import track

AS_TRAINED, UNSHIFTED = "as trained", "weights taken out"
GROUP_RESAMPLES = 300
"""Maximum number of resamples for subgroups: there are many features, and their intervals need only one digit."""
SHORTCUT_AUROC = 0.65
"""Features whose ROC AUC alone is lower are not reported as shortcuts."""
Array = npt.NDArray[np.float64]


def calibration_results(
    predictions: PredictionTable,
    val: PredictionTable | None,
    shift_L: npt.ArrayLike,
    *,
    interval_by: str = "patient",
) -> dict[str, Any]:
    """Calibration of a part as predicted, with the shift of training weights subtracted, and by each method fitted on `val`.

    `methods`: name to `{"ece": {label, mean}, "brier": {label, mean}, "slope": {label: [slope, low, high]}}`; `shift`: log odds of
    each label if any is not 0; `shift_shows`: whether subtracting it lowers the Brier score on val, None without val (a network that
    fits its train rows closely shows little effect of their weights: Byrd and Lipton 2019, arXiv:1812.03372); `fitted`: the calibrators;
    `too_few`: the labels that each method could not be fitted for. Intervals of slopes are clustered by patient and, except for
    isotonic, include the uncertainty of the fit on val (`calibration.slope`)."""
    labels, task = predictions.labels, predictions.task
    table, shift = predictions.decide(), np.asarray(shift_L, dtype=np.float64)
    out: dict[str, Any] = {"shift": {}, "shift_shows": None, "methods": {}, "fitted": {}, "too_few": {}}
    if not len(table.prob_NL):
        return out
    group_N = predictions.resampling_units(interval_by)[1]
    out["methods"][AS_TRAINED] = _calibration_metrics(table, table.prob_NL, group_N)
    if task != "multiclass" and np.abs(shift).max() > 1e-9:
        out["shift"] = {k: float(s) for k, s in zip(labels, shift, strict=True)}
        out["methods"][UNSHIFTED] = _calibration_metrics(table, calibration.unshift(table.prob_NL, shift), group_N)
    if val is None or not len(val):
        return out
    fitted_on, by_N = val.decide(), val.resampling_units(interval_by)[1]
    if out["shift"]:
        unshifted = calibration.unshift(fitted_on.prob_NL, shift)
        out["shift_shows"] = _squared_error(fitted_on, unshifted) < _squared_error(fitted_on, fitted_on.prob_NL)
    for method in ("temperature",) if task == "multiclass" else calibration.METHODS:
        calibrator = calibration.fit(fitted_on, method, by_N)
        if calibrator["too_few"]:
            out["too_few"][method] = calibrator["too_few"]
        if calibrator["labels"]:
            out["fitted"][method] = calibrator
            calibrated = calibration.apply(calibrator, table.prob_NL, labels)
            out["methods"][method] = _calibration_metrics(table, calibrated, group_N, calibrator["labels"])
    return out


def recalibrated(results: Mapping[str, Any], prob_NL: npt.ArrayLike, labels: Sequence[str]) -> tuple[str, Array] | None:
    """(method, probabilities [N, L]) of the recalibration that a page shows, from `calibration_results`.

    Platt if it is fitted for every label; else the subtracted shift, which needs no fit, unless it makes val worse; else any method
    that is fitted; None if there is none. Not the best method on the rows shown: that would be a choice made on test."""
    fitted, few = results["fitted"], results["too_few"]
    if results["shift"] and results["shift_shows"] is not False and ("platt" not in fitted or "platt" in few):
        return UNSHIFTED, calibration.unshift(prob_NL, [results["shift"][k] for k in labels])
    for method in ("platt", "temperature"):
        if method in fitted:
            return method, calibration.apply(fitted[method], prob_NL, labels)
    return None


def _squared_error(table: Table, prob_NL: npt.ArrayLike) -> float:
    """Mean squared difference of probability and truth over all known cells."""
    return float(np.square(np.asarray(prob_NL) - table.true_NL)[table.known_NL].mean())


def _calibration_metrics(
    table: Table, prob_NL: npt.ArrayLike, group_N: npt.NDArray[np.int64], fitted: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """ECE, Brier score and slope of other probabilities [N, L] for a table; `fitted` are the parameters of their calibrator by label."""
    prob = np.asarray(prob_NL, dtype=np.float64)
    half_L = np.full(len(table.labels), 0.5)
    truth = np.where(table.known_NL, table.true_NL, np.nan)
    calibrated = decide(truth, prob, labels=table.labels, task=table.task, thresholds_L=half_L)
    out: dict[str, Any] = {"ece": {}, "brier": {}, "slope": {}}
    for value in label_values(calibrated):
        if value.metric in ("ece", "brier"):
            out[value.metric][value.label] = value.value
    for i, label in enumerate(table.labels):
        known = table.known_NL[:, i]
        error = (fitted or {}).get(label, {}).get("slope_error", 0.0)
        slope = calibration.slope(table.true_NL[known, i], prob[known, i], group_N[known], fit_error=error)
        if slope is not None:
            out["slope"][label] = list(slope)
    return out


def subgroup_results(
    predictions: PredictionTable,
    records: pd.DataFrame,
    train_truth_NL: npt.NDArray[np.floating[Any]],
    train_records: pd.DataFrame,
    settings: EvaluationSettings,
    *,
    thresholds_L: npt.NDArray[np.float64],
    unused: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Metrics by subgroup for each feature of `records` (in the order of the predictions), and the feature as a shortcut.

    One entry per feature: `feature`, `groups`, `gaps` (see `subgroups.by_group`), `shortcut` (see `subgroups.shortcut`; None if
    train does not have the feature). `unused` are labels that the model does not predict and that are features instead."""
    table = predictions.decide(thresholds_L)
    group_N = predictions.resampling_units(settings.interval_by)[1]
    resamples = min(settings.bootstrap, GROUP_RESAMPLES)
    features, train_features = (subgroups.features(r, unused=unused) for r in (records, train_records))
    out = []
    for feature, category_N in track(features.items(), "subgroups", "features", total=len(features)):
        rng = np.random.default_rng([settings.seed, 3])
        entry = subgroups.by_group(table, category_N, group_N, resamples=resamples, rng=rng)
        # A label such as "No Finding" excludes all findings, so one group has no positives to compare.
        if feature in unused and not all(_positives(group) for group in entry["groups"]):
            continue
        shortcut = None
        if feature in train_features:
            shortcut = subgroups.shortcut(train_truth_NL, train_features[feature], table, category_N)
        out.append({"feature": feature, **entry, "shortcut": shortcut})
    return out


def _positives(group: Mapping[str, Any]) -> float:
    return sum(v["value"] for v in group["values"] if v["metric"] == "positives")


def shortcut_messages(
    results: Sequence[Mapping[str, Any]], model: Mapping[tuple[str, str], Mapping[str, Any]]
) -> list[str]:
    """One sentence for each label that a feature alone predicts well, and for each feature that inflates the accuracy. Nothing is
    stated of a label with fewer than `subgroups.MIN_CASES` positives or negatives.

    `results` are `subgroup_results`; `model` are the model's own values by (metric, label)."""
    lines = []
    for entry in results:
        shortcut = entry["shortcut"]
        if not shortcut:
            continue
        name = (
            entry["feature"]
            if entry["feature"] in (*subgroups.FEATURES, "age")
            else f"{entry['feature']!r} (not trained on)"
        )
        strong = [(k, a) for k, a in shortcut["auroc"].items() if a >= SHORTCUT_AUROC and has_enough_cases(model, k)]
        for label, auroc in sorted(strong, key=lambda s: -s[1])[:3]:
            own = model.get(("auroc", label))
            suffix = f"; the model has {own['value']:.2f}" if own else ""
            lines.append(f"{name} alone, without the image, predicts {label} with a ROC AUC of {auroc:.2f}{suffix}.")
        own = model.get(("accuracy", ""))
        others = 0 if own is None else (1.0 - shortcut.get("majority", 1.0)) * own["rows"]
        enough = others >= subgroups.MIN_CASES - 1e-6
        if "accuracy" in shortcut and enough and shortcut["accuracy"] > shortcut["majority"] + 0.05:
            suffix = f"; the model has {own['value']:.0%}" if own else ""
            lines.append(
                f"{name} alone, without the image, predicts the class with an accuracy of {shortcut['accuracy']:.0%} (the most "
                f"frequent class: {shortcut['majority']:.0%}){suffix}: accuracy on these data is inflated."
            )
    return lines


def has_enough_cases(model: Mapping[tuple[str, str], Mapping[str, Any]], label: str) -> bool:
    """Whether a label has enough positives and negatives (`subgroups.MIN_CASES`) to conclude anything; `model` are its values."""
    row = model.get(("positives", label))
    return row is not None and min(row["positives"], row["rows"] - row["positives"]) >= subgroups.MIN_CASES


def largest_gap(entry: Mapping[str, Any], metric: str) -> dict[str, Any] | None:
    """The largest gap of a metric over the labels of a feature."""
    gaps = [g for g in entry["gaps"] if g["metric"] == metric and g["label"] != MEAN]
    return max(gaps, key=lambda g: g["value"], default=None)
