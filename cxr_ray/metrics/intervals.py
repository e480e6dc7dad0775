"""How far chance may have moved a metric: Wilson's interval of a share, and the bootstrap that resamples patients whole."""
# N rows, L labels, G groups (patients), R resamples

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.stats import norm

from cxr_ray.metrics.per_label import cells, rates
from cxr_ray.metrics.ranking import Resampled
from cxr_ray.metrics.table import Table
from cxr_ray.metrics.values import MEAN, RATES
from cxr_ray.metrics.whole_table import row_sums

Array = npt.NDArray[np.float64]
Samples = dict[tuple[str, str], Array]

# An interval of the resamples that happen to hold a positive is not an interval of the metric: with fewer defined, none.
LEAST_DEFINED = 0.9
CHUNK_CELLS = 200_000  # rows x resamples at once: matrices that stay in the cache took half the time of 4 million


class Interval(NamedTuple):
    """A two-sided interval and what it stands on."""

    low: float
    high: float
    defined: int
    """Resamples in which the metric was defined; 0 for a formula."""


def wilson(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a share of `k` successes in `n` independent trials.

    Wilson 1927, doi:10.1080/01621459.1927.10502953. Raises `ValueError` unless 0 <= k <= n and n > 0."""
    if not 0 <= k <= n or n == 0:
        raise ValueError(f"{k} of {n} is not a share")
    z2 = float(norm.ppf((1 + level) / 2)) ** 2
    middle = (k + z2 / 2) / (n + z2)
    half = (z2 * (k * (n - k) / n + z2 / 4)) ** 0.5 / (n + z2)
    return (0.0 if k == 0 else middle - half), (1.0 if k == n else middle + half)


def draws(groups: int, resamples: int, rng: np.random.Generator, *, at_once: int) -> Iterator[Array]:
    """Resamples of `groups` groups with replacement, as chunks of times drawn [G, <= at_once].

    Every resample is drawn by itself, so that the chunk's size does not change them."""
    for start in range(0, resamples, at_once):
        chunk = [
            np.bincount(rng.integers(0, groups, groups), minlength=groups)
            for _ in range(min(at_once, resamples - start))
        ]
        yield np.stack(chunk, axis=1).astype(np.float64)


class _Judge:
    """A table folded by group, so that all its metrics under new weights are a few products of matrices."""

    def __init__(self, table: Table, group_N: npt.NDArray[np.int64], groups: int) -> None:
        self.table = table
        fold = sparse.csr_matrix(
            (np.ones(len(group_N)), (group_N, np.arange(len(group_N)))), shape=(groups, len(group_N))
        )
        self._cells = [fold @ kind.astype(np.float64) for kind in cells(table)]
        self._sums = {metric: (fold @ top, fold @ below) for metric, (top, below) in row_sums(table).items()}
        self._ranks = [
            Resampled(table.true_NL[known, i], table.prob_NL[known, i], group_N[known], groups)
            for i, known in enumerate(table.known_NL.T)
        ]

    def __call__(self, counts_GR: Array) -> Samples:
        found = rates(*[counts_GR.T @ kind for kind in self._cells])
        ranked = [rank(counts_GR) for rank in self._ranks]
        found["auroc"] = np.stack([auroc_R for auroc_R, _ in ranked], axis=1)
        found["ap"] = np.stack([ap_R for _, ap_R in ranked], axis=1)
        out: Samples = {}
        for metric in RATES:
            value_RL = found[metric]
            defined_R = (~np.isnan(value_RL)).sum(axis=1)
            total_R = np.nansum(value_RL, axis=1)
            out[metric, MEAN] = np.where(defined_R > 0, total_R / np.maximum(defined_R, 1), np.nan)
            out |= {(metric, label): value_RL[:, i] for i, label in enumerate(self.table.labels)}
        with np.errstate(invalid="ignore", divide="ignore"):
            out |= {
                (metric, ""): (top @ counts_GR) / (below @ counts_GR) for metric, (top, below) in self._sums.items()
            }
        return out


def bootstrap(
    tables: dict[str, Table], group_N: npt.NDArray[np.int64], *, resamples: int, rng: np.random.Generator
) -> dict[str, Samples]:
    """Every metric of each table in `resamples` draws of the groups with replacement: name -> (metric, label) -> [R].

    The tables share their rows (a model and its rivals) and every draw, so that the difference of two tables' samples is
    the paired one. NaN where a resample leaves a metric undefined; "mean" is over the labels defined in that resample.
    Groups are drawn whole (Field and Welsh 2007, doi:10.1111/j.1467-9868.2007.00593.x): images of one patient are not
    independent. Equal generators give equal samples."""
    groups = int(group_N.max()) + 1 if len(group_N) else 0
    if groups < 2:
        return {name: {} for name in tables}
    judges = {name: _Judge(table, group_N, groups) for name, table in tables.items()}
    held: dict[str, list[Samples]] = {name: [] for name in tables}
    for counts_GR in draws(groups, resamples, rng, at_once=max(1, min(resamples, CHUNK_CELLS // len(group_N)))):
        for name, judge in judges.items():
            held[name].append(judge(counts_GR))
    return {
        name: {key: np.concatenate([c[key] for c in chunks]) for key in chunks[0]} if chunks else {}
        for name, chunks in held.items()
    }


def percentile(sample_R: Array, level: float = 0.95) -> Interval | None:
    """The percentile interval of bootstrap samples; None where under nine tenths of them are defined.

    Efron and Tibshirani 1993, chapter 13."""
    defined_R = sample_R[~np.isnan(sample_R)]
    if not len(sample_R) or len(defined_R) < LEAST_DEFINED * len(sample_R):
        return None
    low, high = np.quantile(defined_R, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), len(defined_R))
