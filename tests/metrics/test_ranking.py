"""Ranking metrics against slow definitions, once and on resamples, and recall at a precision."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cxr_ray.metrics import compute_metrics, ranking
from cxr_ray.metrics.ranking import Resampled, at_each_score, ranked, recall_at
from tests.metrics import definitions as slow
from tests.metrics.definitions import as_dict

ROWS = st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=0, max_size=30)


@settings(max_examples=100, deadline=None)
@given(ROWS)
@example([])
def test_ranking_matches_the_definitions(rows: list[tuple[bool, int]]) -> None:
    true, score = np.array([r[0] for r in rows], dtype=bool), np.array([r[1] / 5 for r in rows], dtype=float)
    auroc, ap = ranked(true, score)
    for actual, definition in ((auroc, slow.auroc), (ap, slow.average_precision)):
        expected = definition(true.tolist(), score.tolist())
        assert actual == pytest.approx(math.nan if expected is None else expected, abs=1e-12, nan_ok=True)
    (recall,) = recall_at(true, score, [0.5])
    expected = slow.recall_at(true.tolist(), score.tolist(), "0.5")
    assert recall == pytest.approx(math.nan if expected is None else expected, abs=1e-12, nan_ok=True)
    scores, tp, fp = at_each_score(true, score)
    assert scores.tolist() == sorted(set(score.tolist()), reverse=True)
    assert tp.tolist() == [(true & (score >= s)).sum() for s in scores]
    assert fp.tolist() == [(~true & (score >= s)).sum() for s in scores]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 3)), min_size=0, max_size=30), st.data())
def test_a_resample_ranks_as_its_repeated_rows(rows: list[tuple[bool, int, int]], data: st.DataObject) -> None:
    true = np.array([r[0] for r in rows], dtype=bool)
    score = np.array([r[1] / 5 for r in rows], dtype=float)
    group = np.array([r[2] for r in rows], dtype=np.int64)
    counts = np.array(data.draw(st.lists(st.integers(0, 3), min_size=4, max_size=4)), dtype=float)[None]
    auroc, ap = Resampled(true, score, group)(counts)
    times = counts[0, group].astype(int)
    truth, prob = np.repeat(true, times).astype(float)[:, None], np.repeat(score, times)[:, None]
    expected = {
        v.metric: v.value
        for v in compute_metrics(truth, prob, labels=["a"], task="binary", thresholds_L=[0.5])
        if v.label == "a"
    }
    assert auroc[0] == pytest.approx(expected.get("auroc", math.nan), abs=1e-12, nan_ok=True)
    assert ap[0] == pytest.approx(expected.get("ap", math.nan), abs=1e-12, nan_ok=True)


def test_recall_at_a_precision_that_is_reached_exactly_or_by_no_threshold() -> None:
    """Nine of ten are exactly 0.9. If the highest score has a false positive for every positive, no threshold reaches 0.5."""
    truth = np.array([[1.0]] * 9 + [[0.0]] + [[1.0]] * 9)
    prob = np.array([[0.8]] * 10 + [[0.2]] * 9)
    prob[10:, 0], truth[10:14] = 0.1, 0.0
    exact = as_dict(compute_metrics(truth, prob, labels=["Edema"], task="binary", thresholds_L=[0.5]))
    assert exact["recall_at_precision_0.9", "Edema"] == 9 / 14 and exact["recall_at_precision_0.75", "mean"] == 9 / 14
    tied = as_dict(compute_metrics([[1], [0], [0]], [[0.7]] * 3, labels=["Edema"], task="binary", thresholds_L=[0.5]))
    assert tied["recall_at_precision_0.5", "Edema"] == 0.0 and tied["recall_at_precision_0.25", "Edema"] == 1.0


@pytest.mark.parametrize("cells", [1, 500, 10**6])
@pytest.mark.parametrize("positives", [0, 2, 60])
def test_many_resamples_rank_as_the_definitions_for_any_chunk_size(
    monkeypatch: pytest.MonkeyPatch, positives: int, cells: int
) -> None:
    """With few positives the runs of negatives between them are long, with many they are short."""
    monkeypatch.setattr(ranking, "CHUNK_CELLS", cells)
    rng = np.random.default_rng(positives)
    true, score, group = np.arange(200) < positives, rng.integers(0, 60, 200) / 60, rng.integers(0, 20, 200)
    counts = rng.integers(0, 3, (7, 20)).astype(float)
    auroc, ap = Resampled(true, score, group)(counts)
    for r, of_group in enumerate(counts):
        times = of_group[group].astype(int)
        rows = np.repeat(true, times).tolist(), np.repeat(score, times).tolist()
        for actual, definition in ((auroc, slow.auroc), (ap, slow.average_precision)):
            expected = definition(*rows)
            assert actual[r] == pytest.approx(math.nan if expected is None else expected, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("times", [2**22, 2**24 + 1, 3 * 2**24 + 1])
def test_resamples_of_many_cells_are_summed_exactly(times: int) -> None:
    """float32 has no odd numbers above 2^24, and no halves, which ties give, above 2^23."""
    true, score = np.array([False, True, True, False, False]), np.array([0.9, 0.8, 0.5, 0.5, 0.1])
    counts = np.array([[times, 1, 3, 1, times], [1, 1, 1, 1, 1]], dtype=float)
    auroc, ap = Resampled(true, score, np.arange(5))(counts)
    for r, weight in enumerate(counts):
        above, first, last, tied, below = (Fraction(int(w)) for w in weight)
        won = first * (tied + below) + last * (tied / 2 + below)
        at_first, at_last = first / (above + first), (first + last) / (above + first + last + tied)
        assert auroc[r] == pytest.approx(float(won / ((first + last) * (above + tied + below))), rel=1e-15)
        assert ap[r] == pytest.approx(float((first * at_first + last * at_last) / (first + last)), rel=1e-15)
