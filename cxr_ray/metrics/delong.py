"""DeLong's variance of AUROCs, by midranks: a cross-check of the bootstrap. It assumes independent rows."""
# P positives, M negatives, S scores (models) of the same rows

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

Array = npt.NDArray[np.float64]


class Comparison(NamedTuple):
    """The difference of two AUROCs on the same rows, with its interval."""

    difference: float
    low: float
    high: float
    p: float
    """Two-sided p-value of no difference; 1.0 if both scores rank every row equally well."""


def covariance(true_N: npt.NDArray[np.bool_], score_NS: npt.ArrayLike) -> tuple[Array, Array]:
    """(AUROC [S], covariance [S, S]) of S scores of the same rows; NaN with fewer than two positives or two negatives.

    DeLong, DeLong and Clarke-Pearson 1988, doi:10.2307/2531595, with the midranks of Sun and Xu 2014,
    doi:10.1109/LSP.2014.2337313, which sort instead of visiting every pair."""
    wins = _wins(true_N, score_NS)
    if wins is None:
        width = np.asarray(score_NS)[..., None].shape[1]
        return np.full(width, np.nan), np.full((width, width), np.nan)
    by_positive_PS, by_negative_MS = wins
    pairs = len(by_positive_PS) * len(by_negative_MS)
    return by_positive_PS.sum(axis=0) / pairs, _covariance(by_positive_PS, by_negative_MS)


def interval(true_N: npt.NDArray[np.bool_], score_N: npt.ArrayLike, level: float = 0.95) -> tuple[float, float] | None:
    """Normal interval of one AUROC, clipped to [0, 1]; None if the variance is undefined or zero."""
    wins = _wins(true_N, score_N)
    if wins is None or not _varies(*wins):
        return None
    by_positive_P1, by_negative_M1 = wins
    area = float(by_positive_P1.mean()) / len(by_negative_M1)
    half = float(ndtri((1 + level) / 2)) * float(_covariance(by_positive_P1, by_negative_M1)[0, 0]) ** 0.5
    return max(0.0, area - half), min(1.0, area + half)


def compare(true_N: npt.NDArray[np.bool_], score_N2: npt.ArrayLike) -> Comparison | None:
    """First AUROC minus second, with the 95% interval and p-value.

    None if undefined: with fewer than two positives or two negatives, and for a difference whose variance is zero, such as that of a
    perfect and a reversed order of few rows, of which the test would otherwise be certain (p = 0)."""
    wins = _wins(true_N, score_N2)
    if wins is None:
        return None
    more_P1, more_M1 = (by_S[:, :1] - by_S[:, 1:] for by_S in wins)
    difference = float(more_P1.mean()) / len(more_M1)
    if not _varies(more_P1, more_M1):
        return Comparison(0.0, 0.0, 0.0, 1.0) if difference == 0.0 else None
    deviation = float(_covariance(more_P1, more_M1)[0, 0]) ** 0.5
    half = float(ndtri(0.975)) * deviation
    return Comparison(difference, difference - half, difference + half, float(2 * ndtr(-abs(difference) / deviation)))


def _wins(true_N: npt.NDArray[np.bool_], score_NS: npt.ArrayLike) -> tuple[Array, Array] | None:
    """How many rows of the other class each positive [P, S] and each negative [M, S] is ranked correctly against, ties one half.

    Multiples of one half, which floats hold exactly, as they do their differences. None with fewer than two of a class."""
    from scipy.stats import rankdata  # slow to import

    score = np.asarray(score_NS, dtype=np.float64)
    score = score[:, None] if score.ndim == 1 else score
    positives = int(true_N.sum())
    if min(positives, len(true_N) - positives) < 2:
        return None
    among_all = rankdata(score, axis=0)
    by_positive_PS = among_all[true_N] - rankdata(score[true_N], axis=0)
    by_negative_MS = positives - (among_all[~true_N] - rankdata(score[~true_N], axis=0))
    return by_positive_PS, by_negative_MS


def _varies(by_positive_P1: Array, by_negative_M1: Array) -> bool:
    """Whether the variance is above zero. Computed, it could be a rounding error of zero."""
    return bool(np.ptp(by_positive_P1) > 0 or np.ptp(by_negative_M1) > 0)


def _covariance(by_positive_PS: Array, by_negative_MS: Array) -> Array:
    """Covariance [S, S] of the areas, or of their differences, from what `_wins` counts."""
    positives, negatives = len(by_positive_PS), len(by_negative_MS)
    of_positives, of_negatives = (
        np.atleast_2d(np.cov(by_S.T)) / others**2
        for by_S, others in ((by_positive_PS, negatives), (by_negative_MS, positives))
    )
    return np.asarray(of_positives / positives + of_negatives / negatives)
