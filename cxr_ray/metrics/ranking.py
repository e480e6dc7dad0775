"""Ranking metrics of one label: ROC AUC, average precision and recall at a precision, of a table or of many resamples of it."""
# N rows, G groups, R resamples, K distinct scores that some positive has

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from cxr_ray.metrics.table import Bools, Floats

Counts = npt.NDArray[np.float64]
CHUNK_CELLS = 200_000  # rows x resamples at once: matrices that stay in the cache
EXACT_FLOAT32 = 2**23  # below it float32 has every multiple of one half


def ranked(true_N: Bools, score_N: Floats) -> tuple[float, float]:
    """(AUROC, average precision) of one label from one sort; NaN if undefined.

    AUROC: the probability that a positive scores above a negative, ties one half (Hanley and McNeil 1982,
    doi:10.1148/radiology.143.1.7063747); needs both classes. Average precision: the sum over thresholds of (increase of
    recall) x precision, not interpolated; needs a positive (scikit-learn returns 0.0 instead, which would lower a mean)."""
    positives = int(np.count_nonzero(true_N))
    negatives = len(true_N) - positives
    if not positives:
        return float("nan"), float("nan")
    tp_K, fp_K = at_each_score(true_N, score_N)[1:]
    new_K, passed_K = np.diff(tp_K, prepend=0), np.diff(fp_K, prepend=0)
    ap = float((new_K * (tp_K / (tp_K + fp_K))).sum() / positives)
    if not negatives:
        return float("nan"), ap
    lost = float((new_K * (fp_K - 0.5 * passed_K)).sum())  # negatives above each positive, ties one half
    return 1.0 - lost / (positives * negatives), ap


def recall_at(true_N: Bools, score_N: Floats, minimums: Collection[float]) -> list[float]:
    """For each precision in `minimums`, the largest recall of the thresholds (score >= t) with at least that precision.

    NaN without a positive. 0 if no threshold reaches the precision: a threshold above all scores predicts nothing, so no false positive.
    Rows of equal score are always predicted together."""
    positives = int(np.count_nonzero(true_N))
    if not positives:
        return [float("nan")] * len(minimums)
    tp_K, fp_K = at_each_score(true_N, score_N)[1:]
    precision_K = tp_K / (tp_K + fp_K)
    return [float(tp_K[precision_K >= p].max(initial=0.0) / positives) for p in minimums]


def at_each_score(true_N: Bools, score_N: Floats) -> tuple[Floats, Counts, Counts]:
    """Distinct scores [K], descending, and the numbers of positives and negatives at or above each [K], as floats."""
    order = np.argsort(-score_N)  # need not be stable: rows of equal score are summed
    score, true = score_N[order], true_N[order]
    last = np.flatnonzero(np.r_[score[1:] != score[:-1], True]) if len(score) else np.zeros(0, np.int64)
    tp_K = np.cumsum(true)[last].astype(np.float64)
    return score[last], tp_K, last + 1.0 - tp_K


class Resampled:
    """AUROC and average precision of one label for many resamples of its rows, from one sort.

    A resample weights groups of rows (a patient sampled twice counts twice). Only distinct scores that a positive has can change
    either metric, so rows are summed in runs that end with such a score."""

    def __init__(self, true_N: Bools, score_N: Floats, group_N: npt.NDArray[np.int64]) -> None:
        order = np.argsort(-score_N, kind="stable")
        true, score = true_N[order], score_N[order]
        self._group = group_N[order]
        self._rows_G = np.bincount(group_N)
        changes = score[1:] != score[:-1]
        tie_N = np.cumsum(np.r_[False, changes][: len(score)])  # index of the distinct score of each row
        ends = np.flatnonzero(np.r_[changes, True][: len(score)])
        self._positive = np.flatnonzero(true)
        upto = np.searchsorted(self._positive, ends, side="right")  # positives at or above each distinct score
        has_positive = np.diff(upto, prepend=0) > 0
        self.scores = int(has_positive.sum())
        self._last = upto[has_positive] - 1
        self._starts = np.r_[0, ends[has_positive][:-1] + 1]
        self._ends = ends[has_positive]
        self._end = int(self._ends[-1]) + 1 if self.scores else 0
        self._tied = (
            np.flatnonzero(~true & has_positive[tie_N]) if len(score) else ends
        )  # negatives with the same score as a positive
        at_N = (np.cumsum(has_positive) - 1)[tie_N[self._tied]]
        self._tied_starts = np.flatnonzero(np.diff(at_N, prepend=-1))
        self._tied_at = at_N[self._tied_starts]

    def __call__(self, counts_RG: Counts) -> tuple[Counts, Counts]:
        """(auroc [R], ap [R]) if group g counts `counts_RG[r, g]` times (whole numbers); NaN if undefined."""
        auroc_R, ap_R = np.full((2, len(counts_RG)), np.nan)
        if self.scores:
            at_once = max(1, CHUNK_CELLS // len(self._group))
            for at in range(0, len(counts_RG), at_once):
                here = slice(at, at + at_once)
                auroc_R[here], ap_R[here] = self._chunk(counts_RG[here])
        return auroc_R, ap_R

    def _most(self, counts_RG: Counts) -> float:
        """The most rows, each as often as it is sampled, that a resample has."""
        width = len(self._rows_G)
        return float((counts_RG[:, :width] @ self._rows_G).max(initial=0.0))

    def _chunk(self, counts_RG: Counts) -> tuple[Counts, Counts]:
        # float32 is exact for whole numbers, and their halves, below 2^23. The time is mostly memory traffic, and this halves it.
        kind = np.float32 if self._most(counts_RG) < EXACT_FLOAT32 else np.float64
        weight_RN = np.take(counts_RG.astype(kind), self._group, axis=1, mode="clip")
        tp_RK = np.cumsum(np.take(weight_RN, self._positive, axis=1, mode="clip"), axis=1)
        if self.scores < len(self._positive):
            tp_RK = tp_RK[:, self._last]
        tied_RN = np.take(weight_RN, self._tied, axis=1, mode="clip")
        negatives_R = weight_RN.sum(axis=1, dtype=np.float64) - tp_RK[:, -1]
        # Long runs are summed first, which is twice as fast. Many short runs cost more than a cumulative sum of all rows.
        if len(self._group) > 16 * self.scores:
            all_RK = np.cumsum(np.add.reduceat(weight_RN[:, : self._end], self._starts, axis=1), axis=1)
        else:
            all_RK = np.take(np.cumsum(weight_RN, axis=1, out=weight_RN), self._ends, axis=1, mode="clip")
        positive_RK = np.diff(tp_RK, axis=1, prepend=kind(0.0))
        positives_R = tp_RK[:, -1].astype(np.float64)
        above_RK = all_RK - tp_RK  # negatives above; those of equal score count one half
        if len(self._tied):
            above_RK[:, self._tied_at] -= 0.5 * np.add.reduceat(tied_RN, self._tied_starts, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            precision_RK = np.divide(tp_RK, all_RK, dtype=np.float64)
            precision_RK[all_RK == 0] = 0.0  # 0/0 before the first sampled row: the recall does not increase there
            ap_R = (positive_RK * precision_RK).sum(axis=1) / positives_R
            lost_R = np.multiply(positive_RK, above_RK, dtype=np.float64).sum(axis=1)
            auroc_R = 1.0 - lost_R / (positives_R * negatives_R)
        auroc_R[(positives_R == 0) | (negatives_R == 0)] = np.nan
        ap_R[positives_R == 0] = np.nan
        return auroc_R, ap_R
