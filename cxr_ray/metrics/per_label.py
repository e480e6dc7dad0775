"""Metrics of one label at a time: counts, rates at the operating point, ranking. Unknown cells are left out."""
# N rows, L labels; "..." any leading shape (one table, or many resamples of it)

import numpy as np
import numpy.typing as npt

from cxr_ray.metrics.ranking import auroc, average_precision
from cxr_ray.metrics.table import Table
from cxr_ray.metrics.values import MEAN, RATES, Value

Array = npt.NDArray[np.float64]


def cells(table: Table) -> npt.NDArray[np.bool_]:
    """[4, N, L]: which cells are true positives, false positives, false negatives, true negatives."""
    known, true, said = table.known_NL, table.true_NL, table.positive_NL & table.known_NL
    return np.stack([true & said, ~true & said, true & ~said, known & ~true & ~said])


def rates(tp: Array, fp: Array, fn: Array, tn: Array) -> dict[str, Array]:
    """Recall, specificity, precision and F1 = 2TP / (2TP + FP + FN) of counts [..., L]; NaN where 0/0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "recall": tp / (tp + fn),
            "specificity": tn / (tn + fp),
            "precision": tp / (tp + fp),
            "f1": 2 * tp / (2 * tp + fp + fn),
        }


def label_values(table: Table) -> list[Value]:
    """Counts and every defined rate of each label; then the mean of each rate over the labels that define it."""
    tp, fp, fn, tn = cells(table).sum(axis=1).astype(np.float64)
    found = rates(tp, fp, fn, tn)
    positives, rows = (tp + fn).astype(int), table.known_NL.sum(axis=0)
    found["auroc"], found["ap"] = np.full(len(tp), np.nan), np.full(len(tp), np.nan)
    for i in range(len(table.labels)):
        known = table.known_NL[:, i]
        true, score = table.true_NL[known, i], table.prob_NL[known, i]
        found["auroc"][i], found["ap"][i] = auroc(true, score), average_precision(true, score)
    out: list[Value] = []
    for i, label in enumerate(table.labels):
        counts = {"positives": tp[i] + fn[i], "predicted_positives": tp[i] + fp[i], "true_positives": tp[i]}
        out += [Value(m, label, float(v), int(positives[i]), int(rows[i])) for m, v in counts.items()]
        out += [
            Value(m, label, float(found[m][i]), int(positives[i]), int(rows[i]))
            for m in RATES
            if not np.isnan(found[m][i])
        ]
    some = int(table.known_NL.any(axis=1).sum())
    for metric in RATES:
        defined = ~np.isnan(found[metric])
        if defined.any():
            out.append(Value(metric, MEAN, float(found[metric][defined].mean()), int(positives[defined].sum()), some))
    return out
