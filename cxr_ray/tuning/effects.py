"""What each hyperparameter of a sweep did to a metric, and whether chance explains it: main effects over its trials. It draws nothing.

The values of a hyperparameter are put into levels: each choice, or thirds of its range. A linear model with a term for each level of
each hyperparameter gives the mean at a level with the others balanced. Freedman and Lane's permutation test (1983,
doi:10.2307/1391660) says how often shuffled trials would differ between the levels as much, given the other hyperparameters."""
# T trials, M metrics, K hyperparameters, P terms of the model, R permutations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr

PERMUTATIONS = 4999
FREE = 5
"""Trials that the model needs beyond its terms."""
SURE, LIKELY = 0.01, 0.05
"""Adjusted p-values below which a difference is called sure, or likely."""

Array = npt.NDArray[np.float64]


class Effect(NamedTuple):
    """The levels of one hyperparameter for one metric."""

    means: tuple[float, ...]
    """Mean at each level, with the levels of the other hyperparameters as in all trials."""
    best: int
    worst: int
    p: float
    """Of no difference between the levels; see `adjusted` for several tests."""
    behind: tuple[float, ...]
    """p of no difference to the best level, by the t-test of the model's contrast with Holm's adjustment over the levels; 1 for the best."""

    @property
    def difference(self) -> float:
        """Mean at the best level minus that at the worst."""
        return self.means[self.best] - self.means[self.worst]


def effects(
    level_TK: npt.NDArray[np.int64], value_TM: npt.ArrayLike, *, lower: Sequence[bool], seed: int = 0
) -> list[list[Effect | None]]:
    """The effects [M][K] of K hyperparameters, given by the level of each trial (0 up), on M metrics; `lower`: whether lower is better.

    None for a hyperparameter of one level, for a metric that a trial does not have or that does not vary, and with fewer than
    `FREE` trials beyond the terms of the model."""
    values = np.asarray(value_TM, float)
    trials, metrics = values.shape
    dummies = [_dummies(level_T) for level_T in level_TK.T]
    rng = np.random.default_rng(seed)
    orders_RT = np.argsort(rng.random((PERMUTATIONS, trials)), axis=1)
    out: list[list[Effect | None]] = [[None] * len(dummies) for _ in range(metrics)]
    terms = 1 + sum(d.shape[1] for d in dummies)
    if trials < terms + FREE:
        return out
    whole, first = _design(trials, dummies), 1
    for k, own in enumerate(dummies):
        own_P = slice(first, first := first + own.shape[1])
        if not own.shape[1]:
            continue
        reduced = _design(trials, [d for j, d in enumerate(dummies) if j != k])
        if np.linalg.matrix_rank(whole) - np.linalg.matrix_rank(reduced) < own.shape[1]:
            continue  # another hyperparameter has the same levels
        for m in range(metrics):
            value_T = values[:, m]
            if np.isfinite(value_T).all() and np.ptp(value_T) > 0:
                out[m][k] = _effect(value_T, whole, reduced, own_P, orders_RT, lower=lower[m])
    return out


def _effect(
    value_T: Array, whole_TP: Array, reduced_TP: Array, own_P: slice, orders_RT: npt.NDArray[np.int64], *, lower: bool
) -> Effect:
    weight_P: Array = np.linalg.lstsq(whole_TP, value_T, rcond=None)[0].astype(float)
    step, share = np.append(0.0, weight_P[own_P]), whole_TP[:, own_P].mean(axis=0)
    share = np.append(1 - share.sum(), share)
    means = value_T.mean() + step - share @ step
    fitted_T = reduced_TP @ np.linalg.lstsq(reduced_TP, value_T, rcond=None)[0]
    shuffled_RT = fitted_T + (value_T - fitted_T)[orders_RT]
    gain = _gain(value_T[None], whole_TP, reduced_TP)[0]
    more = (_gain(shuffled_RT, whole_TP, reduced_TP) >= gain - 1e-12).sum()
    best, worst = (
        (int(np.argmin(means)), int(np.argmax(means))) if lower else (int(np.argmax(means)), int(np.argmin(means)))
    )
    p = float((1 + more) / (1 + len(shuffled_RT)))
    return Effect(tuple(means.tolist()), best, worst, p, _behind(value_T, whole_TP, own_P, weight_P, best))


def _behind(value_T: Array, whole_TP: Array, own_P: slice, weight_P: Array, best: int) -> tuple[float, ...]:
    degrees = len(value_T) - whole_TP.shape[1]
    variance = float(np.square(value_T - whole_TP @ weight_P).sum()) / degrees
    covariance_PP = variance * np.linalg.pinv(whole_TP.T @ whole_TP)
    levels = own_P.stop - own_P.start + 1
    others, p = [level for level in range(levels) if level != best], []
    for level in others:
        contrast_P = np.zeros(whole_TP.shape[1])
        for sign, one in ((1.0, best), (-1.0, level)):
            if one:
                contrast_P[own_P.start + one - 1] += sign
        error = math.sqrt(max(float(contrast_P @ covariance_PP @ contrast_P), 1e-30))
        p.append(2 * float(stdtr(degrees, -abs(float(contrast_P @ weight_P)) / error)))
    found = dict(zip(others, adjusted(p), strict=True))
    return tuple(found.get(level, 1.0) for level in range(levels))


def _gain(value_RT: Array, whole_TP: Array, reduced_TP: Array) -> Array:
    """F up to a constant: the variance that the own terms explain, as a share of what stays unexplained."""
    left, left_reduced = (np.square(value_RT - value_RT @ _hat(x)).sum(axis=1) for x in (whole_TP, reduced_TP))
    return (left_reduced - left) / np.maximum(left, 1e-15)


def _hat(design_TP: Array) -> Array:
    """The projection [T, T] on the columns of a design."""
    return design_TP @ np.linalg.pinv(design_TP)


def _dummies(level_T: npt.NDArray[np.int64]) -> Array:
    """A column [T, P] for each level after the first."""
    return (level_T[:, None] == np.arange(1, int(level_T.max(initial=0)) + 1)).astype(float)


def _design(trials: int, dummies: Sequence[Array]) -> Array:
    return np.hstack([np.ones((trials, 1)), *dummies])


def adjusted(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (1979), which hold for all tests of a table together."""
    order = sorted(range(len(p)), key=p.__getitem__)
    out, highest = [0.0] * len(p), 0.0
    for rank, at in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - rank) * p[at]))
        out[at] = highest
    return out


def verdict(p: float) -> str:
    """How sure an adjusted p-value makes a difference, in words."""
    return "sure" if p < SURE else "likely" if p < LIKELY else "not shown"


def thirds(share_T: Sequence[float]) -> list[int]:
    """The third (0, 1, 2) of a range in which each share of it lies; shares outside 0 to 1 belong to the nearest."""
    return [min(2, max(0, math.floor(3 * share))) for share in share_T]
