"""DeLong by midranks against placement values computed pair by pair, and against the bootstrap."""

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from cxr_ray.metrics.delong import compare, covariance, interval
from cxr_ray.metrics.intervals import bootstrap, percentile
from cxr_ray.metrics.table import decide

Array = npt.NDArray[np.float64]


def slow(true: npt.NDArray[np.bool_], scores: Array) -> tuple[Array, Array]:
    """Every pair of a positive and a negative: 1, one half, 0; the mean over a row's pairs is its placement value."""
    wins = np.array([[[1.0 if p > n else 0.5 if p == n else 0.0 for n in s[~true]] for p in s[true]] for s in scores.T])
    by_positive, by_negative = wins.mean(axis=2), wins.mean(axis=1)
    width = len(wins)
    out = np.zeros((width, width))
    for i in range(width):
        for j in range(width):
            for placed in (by_positive, by_negative):
                a, b = placed[i] - placed[i].mean(), placed[j] - placed[j].mean()
                out[i, j] += (a * b).sum() / (len(a) - 1) / len(a)
    return wins.mean(axis=(1, 2)), out


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 5)), min_size=4, max_size=24))
def test_midranks_match_pairs(rows: list[tuple[bool, int, int]]) -> None:
    true, scores = np.array([r[0] for r in rows]), np.array([r[1:] for r in rows], dtype=float)
    area, covariance_SS = covariance(true, scores)
    if min(true.sum(), (~true).sum()) < 2:
        assert np.isnan(area).all() and np.isnan(covariance_SS).all()
        assert interval(true, scores[:, 0]) is None and compare(true, scores) is None
        return
    expected_area, expected = slow(true, scores)
    np.testing.assert_allclose(area, expected_area, atol=1e-12)
    np.testing.assert_allclose(covariance_SS, expected, atol=1e-12)
    assert area[0] == pytest.approx(roc_auc_score(true, scores[:, 0]), abs=1e-12)


def test_no_rows_give_no_interval() -> None:
    assert interval(np.zeros(0, dtype=bool), np.zeros(0)) is None


def test_interval_is_close_to_the_bootstrap_by_row() -> None:
    rng = np.random.default_rng(0)
    true = rng.random(600) < 0.3
    prob = 1 / (1 + np.exp(-(rng.normal(size=600) + true)))
    table = decide(true[:, None].astype(float), prob[:, None], labels=["a"], task="binary", thresholds_L=[0.5])
    sample = bootstrap({"m": table}, np.arange(600), resamples=1000, rng=rng)["m"]["auroc", "a"]
    bootstrapped, found = percentile(sample), interval(true, prob)
    assert bootstrapped is not None and found is not None
    assert found == pytest.approx((bootstrapped.low, bootstrapped.high), abs=0.008)


def test_p_is_uniform_without_a_difference_and_small_with_a_large_one() -> None:
    rng = np.random.default_rng(1)
    p = []
    for _ in range(300):
        true = rng.random(150) < 0.4
        scores = rng.normal(size=(150, 2)) + true[:, None]
        found = compare(true, scores)
        assert found is not None
        p.append(found.p)
    assert 0.02 <= np.mean(np.array(p) < 0.05) <= 0.10
    far = compare(true, np.c_[scores[:, 0] + 2 * true, scores[:, 1]])
    assert far is not None and far.p < 0.001 and far.low > 0
    same = compare(true, np.c_[scores[:, 0], 2 * scores[:, 0]])
    assert same is not None and same.p == 1.0 and same.difference == 0.0


def correlated(seed: int = 2) -> tuple[npt.NDArray[np.bool_], Array]:
    """60 rows and two scores of them that are positively correlated."""
    rng = np.random.default_rng(seed)
    true, shared = rng.random(60) < 0.4, rng.normal(size=60)
    return true, np.c_[shared + true, shared + rng.normal(size=60)]


def test_a_difference_has_the_variance_of_correlated_areas() -> None:
    true, scores = correlated()
    area, covariance_SS = slow(true, scores)
    assert covariance_SS[0, 1] > 0.1 * covariance_SS[0, 0]
    difference = area[0] - area[1]
    deviation = math.sqrt(covariance_SS[0, 0] + covariance_SS[1, 1] - 2 * covariance_SS[0, 1])
    half, p = norm.ppf(0.975) * deviation, math.erfc(abs(difference) / deviation / math.sqrt(2))
    assert compare(true, scores) == pytest.approx((difference, difference - half, difference + half, p), abs=1e-12)
    assert compare(true, scores[:, ::-1]) == pytest.approx(
        (-difference, -difference - half, -difference + half, p), abs=1e-12
    )


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_an_interval_is_normal_with_the_variance_of_the_area(level: float) -> None:
    true, scores = correlated()
    area, covariance_SS = slow(true, scores)
    half = norm.ppf((1 + level) / 2) * math.sqrt(covariance_SS[0, 0])
    expected = (area[0] - half, area[0] + half)
    assert 0.0 < expected[0] < expected[1] < 1.0
    assert interval(true, scores[:, 0], level) == pytest.approx(expected, abs=1e-12)
    if level == 0.95:
        assert interval(true, scores[:, 0]) == pytest.approx(expected, abs=1e-12)


def test_an_interval_is_clipped_to_shares_and_none_without_a_variance() -> None:
    true, score = np.array([True, True, False, False]), np.array([0.9, 0.4, 0.5, 0.1])
    low, high = interval(true, score) or (None, None)
    assert high == 1.0 and low is not None and 0.0 < low < 0.75
    assert interval(~true, score) == pytest.approx((0.0, 1.0 - low))
    assert interval(true, true) is None and interval(true, ~true) is None


def exact(true: npt.NDArray[np.bool_], scores: Array) -> tuple[Fraction, Fraction]:
    """The difference of two areas and its variance, pair by pair, without rounding."""
    half = Fraction(1, 2)
    more = [
        [
            sum(sign * (p[s] > n[s]) + sign * half * (p[s] == n[s]) for s, sign in ((0, 1), (1, -1)))
            for n in scores[~true]
        ]
        for p in scores[true]
    ]
    by_positive = [sum(row, Fraction(0)) / len(row) for row in more]
    by_negative = [sum(column, Fraction(0)) / len(column) for column in zip(*more, strict=True)]
    mean = sum(by_positive, Fraction(0)) / len(by_positive)
    variance = sum(
        sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values) for values in (by_positive, by_negative)
    )
    return Fraction(mean), Fraction(variance)


FEW_SCORES = st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 3)), min_size=4, max_size=12)
CONSTANT = [(False, 0, 0), (True, 1, -1), (False, 2, 2), (True, 3, 1), (False, 4, 4), (True, 5, 3)]
"""By the first score each positive wins against one more of the three negatives: in every row 1/3, which floats round."""


@settings(max_examples=200, deadline=None)
@given(FEW_SCORES)
@example([(True, 3, 0), (True, 2, 1), (False, 1, 2), (False, 0, 3)])
@example(CONSTANT)
def test_a_difference_without_a_variance_is_undefined(rows: list[tuple[bool, int, int]]) -> None:
    """A test would be certain of it, from four rows. Without any difference there is no evidence of one."""
    true, scores = np.array([r[0] for r in rows]), np.array([r[1:] for r in rows], dtype=float)
    found = compare(true, scores)
    if min(true.sum(), (~true).sum()) < 2:
        assert found is None
        return
    difference, variance = exact(true, scores)
    if variance == 0:
        assert found == (None if difference else (0.0, 0.0, 0.0, 1.0))
        return
    assert found is not None and 0.0 < found.p <= 1.0 and found.low < found.high
    assert found.difference == pytest.approx(float(difference), abs=1e-12)
    assert found.p == pytest.approx(math.erfc(abs(float(difference)) / math.sqrt(2 * variance)), abs=1e-12)
