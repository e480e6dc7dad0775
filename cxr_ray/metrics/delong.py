"""DeLong's variance of AUROCs, by midranks: a cross-check of the bootstrap. It assumes independent rows."""
# P positives, M negatives, S scores (models) of the same rows

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, rankdata

Array = npt.NDArray[np.float64]


class Comparison(NamedTuple):
    """The difference of two AUROCs on the same rows, with its interval."""

    difference: float
    low: float
    high: float
    p: float
    """Two-sided p-value of no difference; 1.0 if both scores rank the rows equally."""


def covariance(true_N: npt.NDArray[np.bool_], score_NS: npt.ArrayLike) -> tuple[Array, Array]:
    """(AUROC [S], covariance [S, S]) of S scores of the same rows; NaN with fewer than two positives or two negatives.

    DeLong, DeLong and Clarke-Pearson 1988, doi:10.2307/2531595, with the midranks of Sun and Xu 2014,
    doi:10.1109/LSP.2014.2337313, which sort instead of visiting every pair."""
    score = np.asarray(score_NS, dtype=np.float64)
    score = score[:, None] if score.ndim == 1 else score
    width = score.shape[1]
    positives, negatives = int(true_N.sum()), int((~true_N).sum())
    if min(positives, negatives) < 2:
        return np.full(width, np.nan), np.full((width, width), np.nan)
    among_all = rankdata(score, axis=0)
    # Share of the other class that each row is ranked correctly against; ties count one half.
    by_positive_PS = (among_all[true_N] - rankdata(score[true_N], axis=0)) / negatives
    by_negative_MS = 1.0 - (among_all[~true_N] - rankdata(score[~true_N], axis=0)) / positives
    covariance_SS = (
        np.atleast_2d(np.cov(by_positive_PS.T)) / positives + np.atleast_2d(np.cov(by_negative_MS.T)) / negatives
    )
    return by_positive_PS.mean(axis=0), covariance_SS


def interval(true_N: npt.NDArray[np.bool_], score_N: npt.ArrayLike, level: float = 0.95) -> tuple[float, float] | None:
    """Normal interval of one AUROC, clipped to [0, 1]; None if the variance is undefined or zero."""
    area, covariance_SS = covariance(true_N, score_N)
    if not covariance_SS[0, 0] > 0:
        return None
    half = norm.ppf((1 + level) / 2) * covariance_SS[0, 0] ** 0.5
    return max(0.0, float(area[0] - half)), min(1.0, float(area[0] + half))


def compare(true_N: npt.NDArray[np.bool_], score_N2: npt.ArrayLike) -> Comparison | None:
    """First AUROC minus second, with the 95% interval and p-value; None if undefined."""
    area, covariance_SS = covariance(true_N, score_N2)
    variance = float(covariance_SS[0, 0] + covariance_SS[1, 1] - 2 * covariance_SS[0, 1])
    if np.isnan(variance):
        return None
    difference, deviation = float(area[0] - area[1]), max(variance, 0.0) ** 0.5
    half = float(norm.ppf(0.975)) * deviation
    p = float(2 * norm.sf(abs(difference) / deviation)) if deviation > 1e-12 else float(abs(difference) < 1e-12)
    return Comparison(difference, difference - half, difference + half, p)
