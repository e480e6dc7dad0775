"""What is said of a judged part beside its metrics: calibration before and after, groups with their gaps, shortcuts."""
# N rows, L labels

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray.evaluation.results import resampled_by, table_of
from cxr_ray.metrics import MEAN, calibration, subgroups
from cxr_ray.metrics.per_label import label_values
from cxr_ray.metrics.table import Table, decide

AS_TRAINED, UNSHIFTED = "as trained", "weights taken out"
GROUP_RESAMPLES = 300
"""Resamples of each feature's groups, at most: there are many features, and their intervals are read to one digit."""
TELLING = 0.65
"""ROC AUC of a feature alone from which it is spoken of."""
Array = npt.NDArray[np.float64]


def calibrated(
    predictions: pd.DataFrame,
    val: pd.DataFrame | None,
    labels: Sequence[str],
    task: str,
    shift_L: npt.ArrayLike,
    *,
    interval_by: str = "patient",
) -> dict[str, Any]:
    """Calibration of a part as the model gives it, with the weights' shift taken out, and by each method fitted on `val`.

    `methods`: name to `{"ece": {label, mean}, "brier": {label, mean}, "slope": {label: [slope, low, high]}}`; `shift`: log
    odds of each label where it is not 0; `shift_shows`: whether taking it out lowers the Brier score of val, None without val (a
    network that fits its train rows closely shows little of their weights: Byrd and Lipton 2019, arXiv:1812.03372); `fitted`: the
    calibrators; `too_few`: method to labels left as they are. Intervals
    of slopes take images of a patient together and, but for isotonic, hold the chance of the fit on val (`calibration.slope`)."""
    table, shift = table_of(predictions, labels, task), np.asarray(shift_L, dtype=np.float64)
    out: dict[str, Any] = {"shift": {}, "shift_shows": None, "methods": {}, "fitted": {}, "too_few": {}}
    if not len(table.prob_NL):
        return out
    group_N = resampled_by(predictions["patient"], interval_by)[1]
    out["methods"][AS_TRAINED] = _measured(table, table.prob_NL, group_N)
    if task != "multiclass" and np.abs(shift).max() > 1e-9:
        out["shift"] = {k: float(s) for k, s in zip(labels, shift, strict=True)}
        out["methods"][UNSHIFTED] = _measured(table, calibration.unshift(table.prob_NL, shift), group_N)
    if val is None or not len(val):
        return out
    if out["shift"]:
        before = table_of(val, labels, task)
        unshifted = calibration.unshift(before.prob_NL, shift)
        out["shift_shows"] = _squares(before, unshifted) < _squares(before, before.prob_NL)
    fitted_on, by_N = table_of(val, labels, task), resampled_by(val["patient"], interval_by)[1]
    for method in ("temperature",) if task == "multiclass" else calibration.METHODS:
        calibrator = calibration.fit(fitted_on, method, by_N)
        if calibrator["too_few"]:
            out["too_few"][method] = calibrator["too_few"]
        if calibrator["labels"]:
            out["fitted"][method] = calibrator
            mended = calibration.apply(calibrator, table.prob_NL, labels)
            out["methods"][method] = _measured(table, mended, group_N, calibrator["labels"])
    return out


def after(found: Mapping[str, Any], prob_NL: npt.ArrayLike, labels: Sequence[str]) -> tuple[str, Array] | None:
    """(name, probabilities [N, L]) of the mend that a page draws: Platt where val can fit it for every label, else the shift taken
    out, which needs no fit, where there is one that shows, else what could be fitted; None where nothing could. Not the best on
    the rows shown: that would be a choice made on test."""
    fitted, few = found["fitted"], found["too_few"]
    if found["shift"] and found["shift_shows"] is not False and ("platt" not in fitted or "platt" in few):
        return UNSHIFTED, calibration.unshift(prob_NL, [found["shift"][k] for k in labels])
    for method in ("platt", "temperature"):
        if method in fitted:
            return method, calibration.apply(fitted[method], prob_NL, labels)
    return None


def _squares(table: Table, prob_NL: npt.ArrayLike) -> float:
    """Mean squared distance of probability and truth over all known cells."""
    return float(np.square(np.asarray(prob_NL) - table.true_NL)[table.known_NL].mean())


def _measured(
    table: Table, prob_NL: npt.ArrayLike, group_N: npt.NDArray[np.int64], fitted: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    prob = np.asarray(prob_NL, dtype=np.float64)
    half_L = np.full(len(table.labels), 0.5)
    truth = np.where(table.known_NL, table.true_NL, np.nan)
    again = decide(truth, prob, labels=table.labels, task=table.task, thresholds_L=half_L)
    out: dict[str, Any] = {"ece": {}, "brier": {}, "slope": {}}
    for value in label_values(again):
        if value.metric in ("ece", "brier"):
            out[value.metric][value.label] = value.value
    for i, label in enumerate(table.labels):
        known = table.known_NL[:, i]
        error = (fitted or {}).get(label, {}).get("slope_error", 0.0)
        found = calibration.slope(table.true_NL[known, i], prob[known, i], group_N[known], fit_error=error)
        if found is not None:
            out["slope"][label] = list(found)
    return out


def grouped(
    predictions: pd.DataFrame,
    records: pd.DataFrame,
    train_truth_NL: npt.NDArray[np.floating[Any]],
    train_records: pd.DataFrame,
    labels: Sequence[str],
    task: str,
    *,
    unused: Sequence[str],
    limits_L: npt.NDArray[np.float64],
    interval_by: str,
    bootstrap: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Each feature of the part's `records` (rows as the predictions'): its groups, gaps and what it alone tells.

    One entry a feature: `feature`, `groups`, `gaps` (see `metrics.groups.by_group`), `shortcut` (see `shortcut`)."""
    table = table_of(predictions, labels, task, limits_L)
    group_N = resampled_by(predictions["patient"], interval_by)[1]
    here, there = (subgroups.features(r, unused=unused) for r in (records, train_records))
    out = []
    for feature, category_N in here.items():
        found = subgroups.by_group(
            table, category_N, group_N, resamples=min(bootstrap, GROUP_RESAMPLES), rng=np.random.default_rng([seed, 3])
        )
        told = subgroups.shortcut(train_truth_NL, there[feature], table, category_N) if feature in there else None
        if feature in unused and not all(_positives(group) for group in found["groups"]):
            continue  # "No Finding" and the like: one side holds no finding at all, so there is nothing to compare
        out.append({"feature": feature, **found, "shortcut": told})
    return out


def _positives(group: Mapping[str, Any]) -> float:
    return sum(v["value"] for v in group["values"] if v["metric"] == "positives")


def shortcut_words(found: Sequence[Mapping[str, Any]], model: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[str]:
    """What features alone tell, in words: a line a label that one tells well, and one where accuracy would flatter."""
    lines = []
    for entry in found:
        told = entry["shortcut"]
        if not told:
            continue
        name = (
            entry["feature"]
            if entry["feature"] in (*subgroups.FEATURES, "age")
            else f"{entry['feature']!r} (not trained on)"
        )
        strong = [(k, a) for k, a in told["auroc"].items() if a >= TELLING]
        for label, area in sorted(strong, key=lambda s: -s[1])[:3]:
            own = model.get(("auroc", label))
            beside = f", the model with {own['value']:.2f}" if own else ""
            lines.append(f"{name} alone, without the picture, ranks {label} with a ROC AUC of {area:.2f}{beside}.")
        if "accuracy" in told and told["accuracy"] > told["majority"] + 0.05:
            own = model.get(("accuracy", ""))
            beside = f"; the model reaches {own['value']:.0%}" if own else ""
            lines.append(
                f"Calling each image by its {name} alone is right for {told['accuracy']:.0%} (the most frequent class: "
                f"{told['majority']:.0%}){beside}: an accuracy on these data flatters."
            )
    return lines


def widest(entry: Mapping[str, Any], metric: str) -> dict[str, Any] | None:
    """The largest gap of a metric among a feature's labels."""
    held = [g for g in entry["gaps"] if g["metric"] == metric and g["label"] != MEAN]
    return max(held, key=lambda g: g["value"], default=None)
