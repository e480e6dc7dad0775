"""Main effects of hyperparameters: means of a balanced design, tests that agree with the textbook's, and chance that is called chance."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cxr_ray.tuning import effects as module
from cxr_ray.tuning.effects import adjusted, effects, thirds, verdict


def grid(*sizes: int, repeats: int = 1) -> np.ndarray:
    """Levels [T, K] of a full grid."""
    return np.array(list(itertools.product(*map(range, sizes))) * repeats)


def test_in_a_balanced_design_the_means_are_the_plain_ones() -> None:
    level_TK, rng = grid(3, 2, 4), np.random.default_rng(0)
    value_T = rng.normal(size=len(level_TK))
    (found,) = effects(level_TK, value_T[:, None], lower=[False])
    for k, effect in enumerate(found):
        assert effect is not None
        plain = [value_T[level_TK[:, k] == level].mean() for level in range(level_TK[:, k].max() + 1)]
        assert effect.means == pytest.approx(plain)
        assert (effect.best, effect.worst) == (int(np.argmax(plain)), int(np.argmin(plain)))
        assert effect.difference == pytest.approx(max(plain) - min(plain))


def test_another_hyperparameter_does_not_pass_for_this_one() -> None:
    """The first decides the metric, and the second has other shares of its levels: its plain means differ by 0.6, its own by nothing."""
    level_TK = np.array([[a, b] for a in (0, 1) for b in (0, 1) for _ in range(8 if a == b else 2)])
    value_T = level_TK[:, 0] + np.random.default_rng(1).normal(scale=0.05, size=len(level_TK))
    ((first, second),) = effects(level_TK, value_T[:, None], lower=[False])
    assert first is not None and second is not None
    plain = value_T[level_TK[:, 1] == 1].mean() - value_T[level_TK[:, 1] == 0].mean()
    assert plain > 0.5 and abs(second.difference) < 0.1 and second.p > 0.05
    assert first.p < 0.001 and first.best == 1


def test_one_hyperparameter_of_two_levels_is_the_two_sample_test() -> None:
    rng = np.random.default_rng(2)
    level_TK, value_T = np.repeat([0, 1], 12)[:, None], rng.normal(size=24) + np.repeat([0.0, 0.8], 12)
    ((effect,),) = effects(level_TK, value_T[:, None], lower=[False])
    assert effect is not None
    known = stats.ttest_ind(value_T[:12], value_T[12:])
    assert effect.behind == (pytest.approx(known.pvalue), 1.0) and effect.p == pytest.approx(known.pvalue, abs=0.01)


def test_chance_alone_gives_every_p_equally_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PERMUTATIONS", 399)
    rng = np.random.default_rng(3)
    level_TK = rng.integers(0, 3, (21, 3))
    found = effects(level_TK, rng.normal(size=(len(level_TK), 400)), lower=[False] * 400)
    for k in range(3):
        p = np.array([row[k].p for row in found])  # type: ignore[union-attr]
        assert 0.02 < (p <= 0.05).mean() < 0.09 and 0.45 < p.mean() < 0.55


@settings(max_examples=20, deadline=None)
@given(st.floats(0.1, 10), st.floats(-5, 5), st.integers(0, 100))
def test_scale_and_direction_do_not_matter(scale: float, shift: float, seed: int) -> None:
    level_TK, value_T = grid(2, 3, repeats=2), np.random.default_rng(seed).normal(size=12)
    both = np.stack([value_T, -(scale * value_T + shift)], axis=1)
    up, down = effects(level_TK, both, lower=[False, True])
    for a, b in zip(up, down, strict=True):
        assert a is not None and b is not None
        assert (a.best, a.worst) == (b.best, b.worst) and a.p == pytest.approx(b.p, abs=1e-3)
        assert b.difference == pytest.approx(-scale * a.difference)


def test_without_enough_to_tell_there_is_no_effect() -> None:
    level_TK, value_T = grid(2, 3), np.arange(6.0)
    assert effects(level_TK, value_T[:, None], lower=[False]) == [[None, None]]  # 6 trials for 4 terms
    level_TK = grid(2, 2, repeats=3)
    constant, undefined = np.ones(12), np.where(np.arange(12) == 3, np.nan, np.arange(12.0))
    assert effects(level_TK, np.stack([constant, undefined], axis=1), lower=[False] * 2) == [[None, None]] * 2
    twice = np.repeat(level_TK[:, :1], 2, axis=1)  # the same levels twice: nothing separates them
    assert effects(twice, np.arange(12.0)[:, None], lower=[False]) == [[None, None]]
    one = np.zeros((12, 1), int)
    assert effects(one, np.arange(12.0)[:, None], lower=[False]) == [[None]]


def test_adjusted_is_holms_definition() -> None:
    p = [0.01, 0.04, 0.03, 0.005]
    assert (
        adjusted(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
        and adjusted([]) == []
        and adjusted([0.9, 0.8]) == [1.0, 1.0]
    )


def test_words_and_levels() -> None:
    assert [verdict(p) for p in (0.009, 0.01, 0.049, 0.05)] == ["sure", "likely", "likely", "not shown"]
    assert thirds([-0.1, 0.0, 0.33, 0.34, 0.66, 0.67, 1.0, 1.2]) == [0, 0, 0, 1, 1, 2, 2, 2]
    assert module.PERMUTATIONS >= 999
