"""Metrics of each label and their averages: counts, rates at the threshold, ranking, calibration. Unknown cells are ignored."""
# N rows, L labels; "..." any leading shape (one table, or many resamples of it)

import numpy as np
import numpy.typing as npt

from cxr_ray.metrics.names import AT_PRECISION, MEAN, MICRO, POOLED, RATES, WEIGHTED, Value, added_metrics
from cxr_ray.metrics.ranking import ranked, recall_at
from cxr_ray.metrics.table import Bools, Floats, Table
from cxr_ray.registry import METRICS

Array = npt.NDArray[np.float64]
BINS = 15
"""Number of equal-width bins of the calibration error: Guo et al. 2017, arXiv:1706.04599."""


def cells(table: Table) -> npt.NDArray[np.bool_]:
    """[4, N, L]: masks of the true positives, false positives, false negatives and true negatives."""
    known, true, predicted = table.known_NL, table.true_NL, table.positive_NL & table.known_NL
    return np.stack([true & predicted, ~true & predicted, true & ~predicted, known & ~true & ~predicted])


def rates(tp: Array, fp: Array, fn: Array, tn: Array) -> dict[str, Array]:
    """Recall, specificity, precision, negative predictive value and F1 = 2TP / (2TP + FP + FN) from counts; 0/0 is NaN."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "recall": tp / (tp + fn),
            "specificity": tn / (tn + fp),
            "precision": tp / (tp + fp),
            "npv": tn / (tn + fn),
            "f1": 2 * tp / (2 * tp + fp + fn),
        }


def bin_of(prob_N: Floats, bins: int = BINS) -> npt.NDArray[np.int64]:
    """Index of the equal-width bin of [0, 1] for each probability; 1 is in the last bin."""
    return np.minimum((prob_N * bins).astype(np.int64), bins - 1)


def brier(true_N: Bools, prob_N: Floats) -> float:
    """Mean squared difference of probability and truth (Brier 1950); NaN without rows."""
    if not len(true_N):
        return float("nan")
    return float(np.square(prob_N.astype(np.float64) - true_N).mean())


def calibration_error(true_N: Bools, prob_N: Floats) -> float:
    """Expected calibration error: |share of positives - mean probability| of each bin, averaged over rows; NaN without rows."""
    if not len(true_N):
        return float("nan")
    gap = np.bincount(bin_of(prob_N), weights=prob_N.astype(np.float64) - true_N, minlength=BINS)
    return float(np.abs(gap).sum() / len(true_N))


def label_values(table: Table) -> list[Value]:
    """Counts and every defined metric of each label, then their averages (see `names.AVERAGES`)."""
    tp, fp, fn, tn = cells(table).sum(axis=1).astype(np.float64)
    found = rates(tp, fp, fn, tn)
    positives, rows = (tp + fn).astype(int), table.known_NL.sum(axis=0)
    added = added_metrics()
    for metric in ("auroc", "ap", "brier", "ece", *AT_PRECISION, *added):
        found[metric] = np.full(len(tp), np.nan)
    for i in range(len(table.labels)):
        known = table.known_NL[:, i]
        true, score = table.true_NL[known, i], table.prob_NL[known, i]
        found["auroc"][i], found["ap"][i] = ranked(true, score)
        found["brier"][i], found["ece"][i] = brier(true, score), calibration_error(true, score)
        for metric, value in zip(AT_PRECISION, recall_at(true, score, AT_PRECISION.values()), strict=True):
            found[metric][i] = value
        for metric in added:
            found[metric][i] = METRICS[metric].make(true, score, table.positive_NL[known, i]) if known.any() else np.nan
    out: list[Value] = []
    for i, label in enumerate(table.labels):
        counts = {"positives": tp[i] + fn[i], "predicted_positives": tp[i] + fp[i], "true_positives": tp[i]}
        out += [Value(m, label, float(v), int(positives[i]), int(rows[i])) for m, v in counts.items()]
        out += [
            Value(m, label, float(found[m][i]), int(positives[i]), int(rows[i]))
            for m in (*RATES, *AT_PRECISION, *added)
            if not np.isnan(found[m][i])
        ]
    return out + _averages(table, found, (tp, fp, fn, tn), positives)


def _averages(
    table: Table, found: dict[str, Array], counts: tuple[Array, Array, Array, Array], positives: npt.NDArray[np.int64]
) -> list[Value]:
    """`mean` of every metric; with several labels also `micro` and `weighted` of the metrics in `POOLED`."""
    rows = int(table.known_NL.any(axis=1).sum())
    out: list[Value] = []
    for metric in (*RATES, *AT_PRECISION, *added_metrics()):
        defined = ~np.isnan(found[metric])
        if defined.any():
            out.append(Value(metric, MEAN, float(found[metric][defined].mean()), int(positives[defined].sum()), rows))
    if len(table.labels) == 1:
        return out
    pooled = {metric: float(value) for metric, value in rates(*(kind.sum() for kind in counts)).items()}
    pooled["auroc"], pooled["ap"] = ranked(table.true_NL[table.known_NL], table.prob_NL[table.known_NL])
    for metric in POOLED:
        if not np.isnan(pooled[metric]):
            out.append(Value(metric, MICRO, pooled[metric], int(positives.sum()), rows))
        defined = ~np.isnan(found[metric]) & (positives > 0)
        if defined.any():
            value = float(np.average(found[metric][defined], weights=positives[defined]))
            out.append(Value(metric, WEIGHTED, value, int(positives[defined].sum()), rows))
    return out
