"""SSIM and rank correlation against loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ray.explanation.similarity import rank_correlation, ssim


def slow_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004, window by window."""
    a, b = ((x - x.min()) / (x.max() - x.min()) if x.max() > x.min() else np.zeros_like(x) for x in (a, b))
    weight = np.array([[np.exp(-((i - 5) ** 2 + (j - 5) ** 2) / (2 * 1.5**2)) for j in range(11)] for i in range(11)])
    weight /= weight.sum()
    values = []
    for top in range(a.shape[0] - 10):
        for left in range(a.shape[1] - 10):
            x, y = (one[top : top + 11, left : left + 11] for one in (a, b))
            mean_x, mean_y = (weight * x).sum(), (weight * y).sum()
            var_x, var_y = (weight * (x - mean_x) ** 2).sum(), (weight * (y - mean_y) ** 2).sum()
            both = (weight * (x - mean_x) * (y - mean_y)).sum()
            values.append(
                (2 * mean_x * mean_y + 0.01**2) * (2 * both + 0.03**2)
                / ((mean_x**2 + mean_y**2 + 0.01**2) * (var_x + var_y + 0.03**2))
            )  # fmt: skip
    return float(np.mean(values))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(11, 15), st.integers(11, 15), st.integers(1, 6))
def test_both_equal_their_definition(seed: int, h: int, w: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, levels, (2, 2, h, w)).astype(float)
    found, ranks = ssim(a, b), rank_correlation(a, b)
    for at in range(2):
        assert found[at] == pytest.approx(slow_ssim(a[at], b[at]), abs=1e-9)
        x, y = a[at].ravel(), b[at].ravel()
        rank_x, rank_y = ([((v < one).sum() + (v <= one).sum()) / 2 for one in v] for v in (x, y))
        expected = 0.0 if len(set(x)) == 1 or len(set(y)) == 1 else np.corrcoef(rank_x, rank_y)[0, 1]
        assert ranks[at] == pytest.approx(expected, abs=1e-9)


def test_equal_maps_are_alike_at_any_scale_and_inverse_ones_are_not() -> None:
    one = np.random.default_rng(0).random((1, 20, 20))
    assert ssim(one, one * 3 + 2)[0] == pytest.approx(1.0)
    assert ssim(one, -one)[0] < 0 and rank_correlation(one, -one)[0] == pytest.approx(-1.0)


def test_maps_of_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 11"):
        ssim(np.zeros((1, 10, 20)), np.zeros((1, 10, 20)))
    with pytest.raises(ValueError, match="equal sizes"):
        rank_correlation(np.zeros((1, 10, 20)), np.zeros((1, 10, 21)))
