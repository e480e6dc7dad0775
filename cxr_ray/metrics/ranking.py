"""How well scores rank positives over negatives: ROC AUC and average precision, once or over many resamples."""
# N rows, G groups, R resamples, K distinct scores that some positive has

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.metrics import average_precision_score, roc_auc_score

from cxr_ray.metrics.table import Bools, Floats

Counts = npt.NDArray[np.float64]


def auroc(true_N: Bools, score_N: Floats) -> float:
    """Chance that a positive scores above a negative, ties one half; NaN unless both are there.

    Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747."""
    positives = int(np.count_nonzero(true_N))
    if positives in (0, len(true_N)):
        return float("nan")
    return float(roc_auc_score(true_N, score_N))


def average_precision(true_N: Bools, score_N: Floats) -> float:
    """Sum over thresholds of (step of recall) x precision, no interpolation; NaN without a positive.

    scikit-learn says 0.0 there, which would pull a mean down for a label that could not be judged."""
    if not true_N.any():
        return float("nan")
    return float(average_precision_score(true_N, score_N))


class Resampled:
    """AUROC and average precision of one label under many weightings of its rows, from one sort.

    Only the distinct scores that some positive has can change either number, so the rows are folded once into 2K + 1
    runs (the rows between two such scores, and the rows at each); a sparse product then gives every run's weight in
    every resample. Weights belong to groups of rows (a patient drawn twice counts twice)."""

    def __init__(self, true_N: Bools, score_N: Floats, group_N: npt.NDArray[np.int64], groups: int) -> None:
        order = np.argsort(-score_N, kind="stable")
        true, score, group = true_N[order], score_N[order], group_N[order]
        starts = np.flatnonzero(np.r_[True, score[1:] != score[:-1]]) if len(score) else np.zeros(0, np.int64)
        tie = np.cumsum(np.r_[False, score[1:] != score[:-1]]) if len(score) else np.zeros(0, np.int64)
        holds = np.zeros(len(starts), dtype=bool)
        holds[tie[true]] = True
        rank = np.cumsum(holds)  # scores with a positive so far, this one included
        run = np.where(holds, 2 * rank - 1, 2 * rank)[tie]
        self.scores = int(holds.sum())
        ones = np.ones(len(run))
        self._all = sparse.csr_matrix((ones, (run, group)), shape=(2 * self.scores + 1, groups))
        where = (run[true] // 2, group[true])
        self._positive = sparse.csr_matrix((ones[: true.sum()], where), shape=(self.scores, groups))

    def __call__(self, counts_GR: Counts) -> tuple[Counts, Counts]:
        """(auroc [R], ap [R]) where group g counts `counts_GR[g, r]` times; NaN where undefined."""
        if not self.scores:
            undefined = np.full(counts_GR.shape[1], np.nan)
            return undefined, undefined.copy()
        weight = self._all @ counts_GR
        positive_KR = self._positive @ counts_GR
        negative_KR = weight[1::2] - positive_KR
        above_KR = weight[:-1:2].copy()  # negatives scored above: between the runs, and at the scores before
        above_KR[1:] += negative_KR[:-1]
        np.cumsum(above_KR, axis=0, out=above_KR)
        taken_KR = np.cumsum(positive_KR, axis=0)
        positives_R = taken_KR[-1]
        negatives_R = above_KR[-1] + negative_KR[-1] + weight[-1]
        with np.errstate(invalid="ignore", divide="ignore"):
            lost_R = np.einsum("kr,kr->r", positive_KR, above_KR + 0.5 * negative_KR)
            auroc_R = np.where(negatives_R > 0, 1.0 - lost_R / (positives_R * negatives_R), np.nan)
            auroc_R[positives_R == 0] = np.nan
            precision_KR = taken_KR / (taken_KR + above_KR + negative_KR)
            precision_KR[positive_KR == 0] = 0.0  # 0/0 where nothing is drawn yet: such a step has no height
            ap_R = np.einsum("kr,kr->r", positive_KR, precision_KR) / positives_R
        ap_R[positives_R == 0] = np.nan
        return auroc_R, ap_R
