"""DeLong's variance of AUROCs by midranks: a cross-check of the bootstrap. It takes rows as independent."""
# P positives, M negatives, S scores (models) of the same rows

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, rankdata

Array = npt.NDArray[np.float64]


class Compared(NamedTuple):
    """Two AUROCs on the same rows."""

    difference: float
    low: float
    high: float
    p: float
    """Two-sided, of no difference; 1.0 where the scores rank alike."""


def covariance(true_N: npt.NDArray[np.bool_], score_NS: npt.ArrayLike) -> tuple[Array, Array]:
    """(AUROC [S], covariance [S, S]) of S scores of the same rows; NaN unless two positives and two negatives are there.

    DeLong, DeLong and Clarke-Pearson 1988, doi:10.2307/2531595, by the midranks of Sun and Xu 2014,
    doi:10.1109/LSP.2014.2337313: sorting instead of every pair."""
    score = np.asarray(score_NS, dtype=np.float64)
    score = score[:, None] if score.ndim == 1 else score
    width = score.shape[1]
    positives, negatives = int(true_N.sum()), int((~true_N).sum())
    if min(positives, negatives) < 2:
        return np.full(width, np.nan), np.full((width, width), np.nan)
    among_all = rankdata(score, axis=0)
    # Share of the other side that each row is ranked rightly against, ties one half.
    by_positive_PS = (among_all[true_N] - rankdata(score[true_N], axis=0)) / negatives
    by_negative_MS = 1.0 - (among_all[~true_N] - rankdata(score[~true_N], axis=0)) / positives
    spread = np.atleast_2d(np.cov(by_positive_PS.T)) / positives + np.atleast_2d(np.cov(by_negative_MS.T)) / negatives
    return by_positive_PS.mean(axis=0), spread


def interval(true_N: npt.NDArray[np.bool_], score_N: npt.ArrayLike, level: float = 0.95) -> tuple[float, float] | None:
    """Normal interval of one AUROC, cut to [0, 1]; None where the variance is undefined or zero."""
    area, spread = covariance(true_N, score_N)
    if not spread[0, 0] > 0:
        return None
    half = norm.ppf((1 + level) / 2) * spread[0, 0] ** 0.5
    return max(0.0, float(area[0] - half)), min(1.0, float(area[0] + half))


def compare(true_N: npt.NDArray[np.bool_], score_N2: npt.ArrayLike) -> Compared | None:
    """The first AUROC less the second with its 95% interval and p; None where undefined."""
    area, spread = covariance(true_N, score_N2)
    variance = float(spread[0, 0] + spread[1, 1] - 2 * spread[0, 1])
    if np.isnan(variance):
        return None
    difference, deviation = float(area[0] - area[1]), max(variance, 0.0) ** 0.5
    half = float(norm.ppf(0.975)) * deviation
    p = float(2 * norm.sf(abs(difference) / deviation)) if deviation > 1e-12 else float(abs(difference) < 1e-12)
    return Compared(difference, difference - half, difference + half, p)
