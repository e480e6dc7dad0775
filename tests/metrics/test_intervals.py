"""Intervals against their definitions: Wilson's interval, and resamples as tables of repeated rows."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from scipy.stats import bootstrap as scipy_bootstrap

from cxr_ray.data.split import groups_of
from cxr_ray.metrics import AT_PRECISION, COUNTS, compute_metrics, intervals
from cxr_ray.metrics.intervals import Samples, bca, bootstrap, jackknife, p_value, percentile, resample_counts, wilson
from cxr_ray.metrics.table import Table, decide

LABELS = ["a", "b", "c"]


@settings(deadline=None)
@given(st.integers(1, 400), st.data())
def test_wilson_is_the_standard_interval(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    low, high = wilson(k, n)
    known = binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert (low, high) == pytest.approx((known.low, known.high), abs=1e-12)


def test_wilson_of_the_notebooks_accuracy() -> None:
    """58 of 60 correct, as the notebook reports: 0.9667."""
    low, high = wilson(58, 60)
    assert (round(low, 3), round(high, 3)) == (0.886, 0.991)
    with pytest.raises(ValueError, match="3 of 2"):
        wilson(3, 2)


def test_resamples_do_not_depend_on_the_chunk_size() -> None:
    complete = np.vstack(list(resample_counts(7, 10, np.random.default_rng(0), at_once=10)))
    pieces = np.vstack(list(resample_counts(7, 10, np.random.default_rng(0), at_once=3)))
    assert (complete == pieces).all() and complete.shape == (10, 7) and (complete.sum(axis=1) == 7).all()


def make(task: str, seed: int, rows: int = 60) -> tuple[Table, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    labels = ["a"] if task == "binary" else LABELS
    if task == "multiclass":
        truth = np.eye(3)[rng.integers(0, 3, rows)]
        prob = rng.dirichlet(np.ones(3), rows)
        truth[:4] = np.nan
    else:
        truth = (rng.random((rows, len(labels))) < [0.5, 0.3, 0.04][: len(labels)]).astype(float)
        prob = rng.integers(0, 10, truth.shape) / 9
        truth[rng.random(truth.shape) < 0.15] = np.nan
    return decide(truth, prob, labels=labels, task=task, thresholds_L=np.full(len(labels), 0.5)), truth, prob


@pytest.mark.parametrize("task", ["multilabel", "binary", "multiclass"])
def test_every_resample_has_the_metrics_of_its_rows(task: str) -> None:
    table, truth, prob = make(task, 0)
    group = np.random.default_rng(1).integers(0, 20, len(truth))
    samples = bootstrap({"m": table}, group, resamples=25, rng=np.random.default_rng(2))["m"]
    counts = np.vstack(list(resample_counts(int(group.max()) + 1, 25, np.random.default_rng(2), at_once=25)))
    for r in range(25):
        rows = np.repeat(np.arange(len(truth)), counts[r, group].astype(int))
        values = compute_metrics(
            truth[rows], prob[rows], labels=table.labels, task=task, thresholds_L=np.full(len(table.labels), 0.5)
        )
        expected = {(v.metric, v.label): v.value for v in values if v.metric not in (*COUNTS, *AT_PRECISION)}
        for key, sample in samples.items():
            assert sample[r] == pytest.approx(expected.pop(key, math.nan), abs=1e-12, nan_ok=True), (key, r)
        assert not expected  # every other metric has samples


def test_pooled_ranking_of_a_large_table_uses_only_the_first_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    table, truth, _ = make("multilabel", 12)
    group = groups_of(None, len(truth))

    def run(**options: bool) -> Samples:
        return bootstrap({"m": table}, group, resamples=40, rng=np.random.default_rng(0), **options)["m"]

    complete, without = run(), run(micro=False)
    monkeypatch.setattr(intervals, "MICRO_CELLS", 1)
    monkeypatch.setattr(intervals, "MIN_MICRO_RESAMPLES", 25)
    monkeypatch.setattr(intervals, "CHUNK_CELLS", 10 * len(truth))  # ten resamples per chunk
    limited = run()
    for metric in ("auroc", "ap"):
        np.testing.assert_array_equal(limited[metric, "micro"], complete[metric, "micro"][:25])
        assert len(complete[metric, "micro"]) == 40 and (metric, "micro") not in without
        np.testing.assert_array_equal(limited[metric, "a"], complete[metric, "a"])
    assert percentile(limited["auroc", "micro"]) is not None


def test_equal_generators_give_equal_samples() -> None:
    table, truth, _ = make("multilabel", 3)
    group = groups_of(None, len(truth))

    def run(seed: int) -> Samples:
        return bootstrap({"m": table}, group, resamples=30, rng=np.random.default_rng(seed))["m"]

    first, again, other = run(0), run(0), run(1)
    for key in first:
        np.testing.assert_array_equal(first[key], again[key])
    assert not np.array_equal(first["auroc", "a"], other["auroc", "a"])


def test_tables_share_their_resamples() -> None:
    """A model is paired with its baseline: the difference of a table with itself is 0 in every resample."""
    table, truth, _ = make("multilabel", 4)
    both = bootstrap({"x": table, "y": table}, groups_of(None, len(truth)), resamples=20, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(both["x"]["f1", "mean"], both["y"]["f1", "mean"])


def test_resampling_patients_widens_the_interval() -> None:
    """Eight equal images of a patient are as informative as one: the interval is about sqrt(8) times that by image."""
    rng = np.random.default_rng(5)
    truth = np.repeat((rng.random(60) < 0.4).astype(float), 8)[:, None]
    prob = np.clip(np.repeat(rng.random(60), 8)[:, None] * 0.6 + 0.3 * truth, 0, 1)
    table = decide(truth, prob, labels=["a"], task="binary", thresholds_L=[0.5])
    widths = []
    for names in (np.repeat(np.arange(60), 8), np.arange(480)):
        found = percentile(
            bootstrap({"m": table}, names, resamples=600, rng=np.random.default_rng(6))["m"]["recall", "a"]
        )
        assert found is not None
        widths.append(found.high - found.low)
    assert 2.2 < widths[0] / widths[1] < 3.6


def test_percentile_counts_the_defined_resamples_and_needs_enough_of_them() -> None:
    sample = np.arange(1000.0)
    sample[:50] = np.nan
    found = percentile(sample)
    assert found is not None and found.defined == 950
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(np.arange(50.0, 1000), [0.025, 0.975])))
    sample[:101] = np.nan
    assert percentile(sample) is None and percentile(np.zeros(0)) is None


def test_one_group_has_no_interval() -> None:
    table, truth, _ = make("multilabel", 7)
    assert bootstrap({"m": table}, np.zeros(len(truth), int), resamples=10, rng=np.random.default_rng(0)) == {"m": {}}


def test_the_interval_of_accuracy_has_its_nominal_coverage() -> None:
    """150 samples of 200 rows whose true accuracy is 0.8: a 95% interval misses about 7 of them."""
    rng, missed = np.random.default_rng(8), 0
    for _ in range(150):
        truth = (rng.random((200, 1)) < 0.5).astype(float)
        prob = np.where(rng.random((200, 1)) < 0.8, truth, 1 - truth)
        table = decide(truth, prob, labels=["a"], task="binary", thresholds_L=[0.5])
        found = percentile(bootstrap({"m": table}, np.arange(200), resamples=200, rng=rng)["m"]["accuracy", ""])
        assert found is not None
        missed += not found.low <= 0.8 <= found.high
    assert 1 <= missed <= 18  # 5% to 7% expected; outside with a probability under 1 in 1,000


def test_bca_matches_scipy() -> None:
    """With the same resamples (one generator, one row per group) and the exact jackknife."""
    rng = np.random.default_rng(11)
    truth = (rng.random((50, 1)) < 0.4).astype(float)
    prob = np.clip(rng.normal(0.35, 0.2, (50, 1)) + 0.25 * truth, 0, 1)
    table = decide(truth, prob, labels=["a"], task="binary", thresholds_L=[0.5])
    group = np.arange(50)
    samples = bootstrap({"m": table}, group, resamples=400, rng=np.random.default_rng(12))["m"]
    left_out = jackknife({"m": table}, group)["m"]
    values = {v.metric: v.value for v in compute_metrics(truth, prob, labels=["a"], task="binary", thresholds_L=[0.5])}
    for metric in ("recall", "auroc", "precision", "brier"):

        def statistic(rows: npt.NDArray[np.int64], name: str = metric) -> float:
            resampled = compute_metrics(truth[rows], prob[rows], labels=["a"], task="binary", thresholds_L=[0.5])
            return next(v.value for v in resampled if v.metric == name)

        known = scipy_bootstrap(
            (group,), statistic, n_resamples=400, vectorized=False, method="BCa", rng=np.random.default_rng(12)
        )
        np.testing.assert_allclose(samples[metric, "a"], known.bootstrap_distribution, atol=1e-12)
        found = bca(samples[metric, "a"], values[metric], left_out[metric, "a"])
        assert found is not None
        interval = known.confidence_interval
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-9)


def test_bca_is_none_where_it_is_undefined() -> None:
    steady = np.array([0.2, 0.3])
    assert bca(np.full(100, 0.5), 0.5, steady) is not None  # all equal: an interval of width 0
    assert bca(np.full(100, 0.5), 0.9, steady) is None  # all on one side
    assert bca(np.linspace(0, 1, 100), 0.5, np.array([np.nan, 0.5])) is None
    assert bca(np.full(100, np.nan), 0.5, steady) is None


@pytest.mark.parametrize("groups", [7, 450])
def test_the_jackknife_leaves_each_block_out_once(groups: int) -> None:
    table, truth, prob = make("multilabel", 9, rows=600)
    group = np.arange(600) % groups
    found = jackknife({"m": table}, group)["m"]["f1", "b"]
    blocks = min(groups, 200)
    assert len(found) == blocks
    for j in (0, blocks - 1):
        rows = group % blocks != j
        values = compute_metrics(
            truth[rows], prob[rows], labels=LABELS, task="multilabel", thresholds_L=np.full(3, 0.5)
        )
        expected = next(v.value for v in values if (v.metric, v.label) == ("f1", "b"))
        assert found[j] == pytest.approx(expected, abs=1e-12)


def test_p_is_the_level_at_which_the_interval_reaches_zero() -> None:
    sample = np.random.default_rng(13).normal(0.1, 0.06, 1999)
    p = p_value(sample)
    assert p is not None and 0.05 < p < 0.2
    touching = percentile(sample, 1 - p)
    assert touching is not None and abs(touching.low) < 0.005
    assert p_value(np.zeros(50)) == 1.0 and p_value(np.full(50, np.nan)) is None
    assert p_value(np.full(99, 0.3)) == pytest.approx(0.02)


def test_tables_with_more_groups_than_a_chunk_are_resampled_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    table, truth, _ = make("multilabel", 14)
    group = groups_of(None, len(truth))

    def run() -> tuple[Samples, Samples]:
        resampled = bootstrap({"m": table}, group, resamples=9, rng=np.random.default_rng(0))["m"]
        return resampled, jackknife({"m": table}, group)["m"]

    at_once = run()
    monkeypatch.setattr(intervals, "CHUNK_CELLS", 1)
    for expected, found in zip(at_once, run(), strict=True):
        assert expected.keys() == found.keys()
        for key, sample in expected.items():
            np.testing.assert_allclose(found[key], sample, atol=1e-12)


def test_without_rows_or_resamples_there_are_no_samples() -> None:
    table, truth, _ = make("multilabel", 7)
    empty, _, _ = make("binary", 7, rows=0)
    none, rng = np.zeros(0, np.int64), np.random.default_rng(0)
    assert bootstrap({"m": table}, groups_of(None, len(truth)), resamples=0, rng=rng) == {"m": {}}
    assert bootstrap({"m": empty}, none, resamples=5, rng=rng) == jackknife({"m": empty}, none) == {"m": {}}
    assert jackknife({"m": table}, np.zeros(len(truth), int)) == {"m": {}}


def test_two_groups_have_samples() -> None:
    table, truth, _ = make("multilabel", 7)
    group = np.arange(len(truth)) % 2
    assert len(bootstrap({"m": table}, group, resamples=1, rng=np.random.default_rng(0))["m"]["hamming", ""]) == 1
    assert len(jackknife({"m": table}, group)["m"]["hamming", ""]) == 2


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_intervals_have_the_level_that_was_asked_for(level: float) -> None:
    known = binomtest(13, 40).proportion_ci(level, method="wilson")
    assert wilson(13, 40, level) == pytest.approx((known.low, known.high), abs=1e-12)
    sample = np.random.default_rng(3).normal(size=500)
    found, symmetric = (
        percentile(sample, level),
        bca(sample, float(np.median(sample)), np.array([-1.0, 0.0, 1.0]), level),
    )
    assert found is not None and symmetric is not None
    inside = np.mean((sample >= found.low) & (sample <= found.high))
    assert inside == pytest.approx(level, abs=0.005)
    # Without a bias or a skew, it is the percentile interval.
    assert (symmetric.low, symmetric.high) == pytest.approx((found.low, found.high), abs=1e-9)
    assert found.defined == symmetric.defined == 500


@pytest.mark.parametrize(("k", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_a_count_outside_its_total_is_no_share(k: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"{k} of {n} is not a share"):
        wilson(k, n)


def test_nine_tenths_of_the_resamples_are_enough() -> None:
    sample = np.arange(20.0)
    sample[:2] = np.nan
    assert percentile(sample) is not None
    sample[2] = np.nan
    assert percentile(sample) is None


def test_bca_needs_two_different_jackknife_values() -> None:
    sample = np.linspace(0, 1, 101)
    assert bca(sample, 0.5, np.array([0.4, 0.6])) is not None
    assert bca(sample, 0.5, np.array([0.4, 0.4])) is None
    assert bca(sample, 0.5, np.array([0.4])) is None and bca(sample, 0.5, np.zeros(0)) is None


def test_p_counts_the_samples_on_the_smaller_side_of_zero() -> None:
    for sample, side in (
        (np.r_[np.full(90, 0.2), np.full(6, -0.1), np.zeros(3)], 9),  # zeros are on both sides
        (np.r_[np.full(90, -0.2), np.full(6, 0.1), np.zeros(3)], 9),
    ):
        assert p_value(sample) == pytest.approx(2 * (1 + side) / 100)
        assert p_value(np.r_[sample, np.nan]) == pytest.approx(2 * (1 + side) / 100)
