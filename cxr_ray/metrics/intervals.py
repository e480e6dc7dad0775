"""Confidence intervals of metrics: Wilson's interval of a share, the cluster bootstrap by patient, and p-values from it."""
# N rows, L labels, G groups (patients), R resamples, J jackknife blocks

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.special import ndtr, ndtri

from cxr_ray.metrics.names import MEAN, MICRO, POOLED, RATES, WEIGHTED
from cxr_ray.metrics.overall import row_sums
from cxr_ray.metrics.per_label import BINS, bin_of, cells, rates
from cxr_ray.metrics.ranking import Resampled
from cxr_ray.metrics.table import Table
from cxr_ray.runtime.progress import track

Array = npt.NDArray[np.float64]
Samples = dict[tuple[str, str], Array]

# With a smaller share of defined resamples there is no interval: it would only be of the resamples that contain a positive.
MIN_DEFINED = 0.9
MAX_JACKKNIFE_BLOCKS = 200
MICRO_CELLS = 400_000_000  # cells x resamples of pooled AUROC and AP: about four seconds per table
MIN_MICRO_RESAMPLES = 200
CHUNK_CELLS = 4_000_000  # groups x resamples at once, so that the sums of a table are read once per chunk


class Interval(NamedTuple):
    """A two-sided interval, and the number of resamples behind it."""

    low: float
    high: float
    defined: int
    """Resamples in which the metric is defined; 0 for a formula."""


def wilson(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a share of `k` successes in `n` independent trials.

    Wilson 1927, doi:10.1080/01621459.1927.10502953. Raises `ValueError` unless 0 <= k <= n and n > 0."""
    if not 0 <= k <= n or n == 0:
        raise ValueError(f"{k} of {n} is not a share")
    z2 = float(ndtri((1 + level) / 2)) ** 2
    middle = (k + z2 / 2) / (n + z2)
    half = (z2 * (k * (n - k) / n + z2 / 4)) ** 0.5 / (n + z2)
    return (0.0 if k == 0 else middle - half), (1.0 if k == n else middle + half)


def resample_counts(groups: int, resamples: int, rng: np.random.Generator, *, at_once: int) -> Iterator[Array]:
    """How often each of `groups` groups is in each resample with replacement, in chunks [<= at_once, G].

    Each resample has its own call of `rng`, so the chunk size does not change the resamples."""
    for start in range(0, resamples, at_once):
        chunk = [
            np.bincount(rng.integers(0, groups, groups), minlength=groups)
            for _ in range(min(at_once, resamples - start))
        ]
        yield np.stack(chunk).astype(np.float64)


class _ResampledMetrics:
    """A table summed by group, so that its metrics on resamples are a few matrix products.

    AUROC and AP of all cells pooled are computed only for the first `pooled` resamples."""

    def __init__(self, table: Table, group_N: npt.NDArray[np.int64], groups: int, *, pooled: int) -> None:
        self.table = table
        rows = len(group_N)
        by_group = sparse.csr_matrix((np.ones(rows), (group_N, np.arange(rows))), shape=(groups, rows))
        self._cells = [by_group @ kind.astype(np.float64) for kind in cells(table)]
        self._sums = {
            metric: (by_group @ numerator, by_group @ denominator)
            for metric, (numerator, denominator) in row_sums(table).items()
        }
        known, prob = table.known_NL, table.prob_NL.astype(np.float64)
        gap_NL = np.where(known, prob - table.true_NL, 0.0)
        self._squares = by_group @ np.square(gap_NL)
        self._gaps = [
            sparse.csr_matrix((gap_N, (group_N, bin_of(prob_N))), shape=(groups, BINS))
            for gap_N, prob_N in zip(gap_NL.T, prob.T, strict=True)
        ]
        self._ranks = [
            Resampled(table.true_NL[known_N, i], table.prob_NL[known_N, i], group_N[known_N])
            for i, known_N in enumerate(known.T)
        ]
        self._pooled_left = pooled
        if pooled and len(table.labels) > 1:
            group_NL = np.broadcast_to(group_N[:, None], known.shape)
            self._pooled = Resampled(table.true_NL[known], table.prob_NL[known], group_NL[known])

    def __call__(self, counts_RG: Array) -> Samples:
        tp, fp, fn, tn = (counts_RG @ kind for kind in self._cells)
        found = rates(tp, fp, fn, tn)
        ranked = [rank(counts_RG) for rank in self._ranks]
        width = len(self.table.labels)
        found["auroc"] = np.stack([auroc_R for auroc_R, _ in ranked], axis=1)
        found["ap"] = np.stack([ap_R for _, ap_R in ranked], axis=1)
        rows_RL = tp + fp + fn + tn
        with np.errstate(invalid="ignore", divide="ignore"):
            found["brier"] = (counts_RG @ self._squares) / rows_RL
            found["ece"] = np.stack([np.abs(counts_RG @ gap).sum(axis=1) for gap in self._gaps], axis=1) / rows_RL
            out: Samples = {
                (metric, ""): (counts_RG @ numerator) / (counts_RG @ denominator)
                for metric, (numerator, denominator) in self._sums.items()
            }
        for metric in RATES:
            value_RL = found[metric]
            out[metric, MEAN] = _weighted(value_RL, np.ones_like(value_RL))
            out |= {(metric, label): value_RL[:, i] for i, label in enumerate(self.table.labels)}
        if width > 1:
            pooled = rates(*(kind.sum(axis=1) for kind in (tp, fp, fn, tn)))
            out |= {(metric, MICRO): value_R for metric, value_R in pooled.items()}
            for metric in POOLED:
                out[metric, WEIGHTED] = _weighted(found[metric], tp + fn)
            first = counts_RG[: self._pooled_left]
            self._pooled_left -= len(first)
            if len(first):
                out["auroc", MICRO], out["ap", MICRO] = self._pooled(first)
        return out


def _weighted(value_RL: Array, weight_RL: Array) -> Array:
    """Weighted mean over the defined labels [R]; NaN if no defined label has a weight."""
    weight_RL = np.where(np.isnan(value_RL), 0.0, weight_RL)
    total_R = weight_RL.sum(axis=1)
    sum_R = (np.nan_to_num(value_RL) * weight_RL).sum(axis=1)
    return np.where(total_R > 0, sum_R / np.where(total_R > 0, total_R, 1.0), np.nan)


def bootstrap(
    tables: Mapping[str, Table],
    group_N: npt.NDArray[np.int64],
    *,
    resamples: int,
    rng: np.random.Generator,
    micro: bool = True,
) -> dict[str, Samples]:
    """Every metric of each table, except recall at a precision, on `resamples` resamples of the groups: name -> (metric, label) -> [R].

    The tables have the same rows (of a model and its baselines) and share the resamples, so the difference of two tables' samples is
    paired. NaN if a metric is undefined in a resample; "mean" is over the labels defined in that resample. AUROC and average
    precision of all cells pooled (`micro`) take longer than all labels together. In large tables they are computed only for the first
    resamples, as many as `MICRO_CELLS` allow but at least `MIN_MICRO_RESAMPLES`; not at all if `micro` is False. Whole groups are
    sampled (Field and Welsh 2007, doi:10.1111/j.1467-9868.2007.00593.x), since images of one patient are not independent. Equal
    generators give equal samples."""
    groups = int(group_N.max()) + 1 if len(group_N) else 0
    if groups < 2 or not resamples:
        return {name: {} for name in tables}
    at_once = max(1, min(resamples, CHUNK_CELLS // groups))
    cells = max((int(table.known_NL.sum()) for table in tables.values()), default=1)
    pooled = max(MIN_MICRO_RESAMPLES, MICRO_CELLS // max(cells, 1)) if micro else 0
    counts = resample_counts(groups, resamples, rng, at_once=at_once)
    chunks = track(counts, "intervals", "resamples", total=resamples, sized=True)
    return _all_samples(tables, group_N, groups, chunks, pooled=pooled)


def jackknife(tables: Mapping[str, Table], group_N: npt.NDArray[np.int64]) -> dict[str, Samples]:
    """Every metric of each table with each group left out in turn: name -> (metric, label) -> [J], for `bca`.

    With more than `MAX_JACKKNIFE_BLOCKS` groups, that many blocks of groups are left out instead: `bca` estimates the same
    acceleration from them (Efron and Tibshirani 1993, section 14.5; blocks as in Shao and Tu 1995, 2.3)."""
    groups = int(group_N.max()) + 1 if len(group_N) else 0
    if groups < 2:
        return {name: {} for name in tables}
    blocks = min(groups, MAX_JACKKNIFE_BLOCKS)
    chunks = track(_left_out_counts(groups), "intervals", "jackknife samples", total=blocks, sized=True)
    return _all_samples(tables, group_N, groups, chunks, pooled=blocks)


def _left_out_counts(groups: int) -> Iterator[Array]:
    """1 for each group of a jackknife sample, 0 for those left out, in chunks [<= at once, G]."""
    blocks = min(groups, MAX_JACKKNIFE_BLOCKS)
    block_G = np.arange(groups) % blocks
    at_once = max(1, CHUNK_CELLS // groups)
    for at in range(0, blocks, at_once):
        yield (block_G[None] != np.arange(at, min(blocks, at + at_once))[:, None]).astype(np.float64)


def decision_samples(
    table: Table, group_N: npt.NDArray[np.int64], *, resamples: int, rng: np.random.Generator | None
) -> Samples:
    """Recall, specificity, precision and `alarms` (the share predicted positive) of each label on the resamples of `bootstrap`;
    without a generator on those of `jackknife`. (metric, label) -> [R]; empty with fewer than two groups."""
    rows, groups = len(group_N), int(group_N.max()) + 1 if len(group_N) else 0
    if groups < 2 or not resamples:
        return {}
    by_group = sparse.csr_matrix((np.ones(rows), (group_N, np.arange(rows))), shape=(groups, rows))
    of_group = [by_group @ kind.astype(np.float64) for kind in cells(table)]
    at_once = max(1, min(resamples, CHUNK_CELLS // groups))
    chunks = _left_out_counts(groups) if rng is None else resample_counts(groups, resamples, rng, at_once=at_once)
    found: dict[str, list[Array]] = {}
    for counts_RG in chunks:
        tp, fp, fn, tn = (counts_RG @ kind for kind in of_group)
        with np.errstate(invalid="ignore", divide="ignore"):
            alarms_RL = (tp + fp) / (tp + fp + fn + tn)
        kinds = rates(tp, fp, fn, tn)
        for metric in ("recall", "specificity", "precision"):
            found.setdefault(metric, []).append(kinds[metric])
        found.setdefault("alarms", []).append(alarms_RL)
    joined = {metric: np.concatenate(parts) for metric, parts in found.items()}
    return {(metric, k): value[:, i] for metric, value in joined.items() for i, k in enumerate(table.labels)}


def _all_samples(
    tables: Mapping[str, Table], group_N: npt.NDArray[np.int64], groups: int, chunks: Iterable[Array], *, pooled: int
) -> dict[str, Samples]:
    metrics = {name: _ResampledMetrics(table, group_N, groups, pooled=pooled) for name, table in tables.items()}
    samples: dict[str, list[Samples]] = {name: [] for name in tables}
    for counts_RG in chunks:
        for name, compute in metrics.items():
            samples[name].append(compute(counts_RG))
    return {
        name: {key: np.concatenate([chunk[key] for chunk in parts if key in chunk]) for key in parts[0]}
        for name, parts in samples.items()
    }


def percentile(sample_R: Array, level: float = 0.95) -> Interval | None:
    """The percentile interval of bootstrap samples; None if less than nine tenths of them are defined.

    Efron and Tibshirani 1993, chapter 13."""
    defined_R = sample_R[~np.isnan(sample_R)]
    if not len(sample_R) or len(defined_R) < MIN_DEFINED * len(sample_R):
        return None
    low, high = np.quantile(defined_R, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), len(defined_R))


def bca(sample_R: Array, value: float, left_out_J: Array, level: float = 0.95) -> Interval | None:
    """The bias-corrected and accelerated interval from bootstrap samples, the value itself, and its jackknife values.

    Efron 1987, doi:10.1080/01621459.1987.10478410. None if `percentile` gives None, if all samples lie on one side of the value,
    if a jackknife value is undefined, or if all of them are equal."""
    defined_R = sample_R[~np.isnan(sample_R)]
    if percentile(sample_R, level) is None or np.isnan(left_out_J).any() or len(left_out_J) < 2:
        return None
    below = (np.mean(defined_R < value) + np.mean(defined_R <= value)) / 2
    if not 0.0 < below < 1.0:
        return None
    bias = ndtri(below)
    influence_J = left_out_J.mean() - left_out_J
    sum_of_squares = float((influence_J**2).sum())
    if sum_of_squares == 0.0:
        return None
    acceleration = float((influence_J**3).sum()) / (6 * sum_of_squares**1.5)
    z_2 = bias + ndtri([(1 - level) / 2, (1 + level) / 2])
    low, high = np.quantile(defined_R, ndtr(bias + z_2 / (1 - acceleration * z_2)))
    return Interval(float(low), float(high), len(defined_R))


def p_value(difference_R: Array) -> float | None:
    """Two-sided p-value of no difference from paired bootstrap differences: the level at which the percentile interval reaches 0,
    2 (1 + samples on the smaller side of 0) / (R + 1) (Davison and Hinkley 1997, section 4.4.1), so never below 2 / (R + 1), whatever
    the difference: R resamples show no more. None if `percentile` gives None."""
    defined_R = difference_R[~np.isnan(difference_R)]
    if percentile(difference_R) is None:
        return None
    side = min(int((defined_R <= 0).sum()), int((defined_R >= 0).sum()))
    return min(1.0, (1 + side) * smallest_p(len(defined_R)))


def smallest_p(resamples: int) -> float:
    """The smallest `p_value` of so many resamples."""
    return 2 / (resamples + 1)
