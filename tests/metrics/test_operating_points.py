"""Operating points against a search through every threshold, and the promise of a recall against simulated splits."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom

from cxr_ray.errors import UserError
from cxr_ray.metrics import operating_points
from cxr_ray.metrics.operating_points import allowed_misses, applied, choose, limits, parse, reaches, words
from cxr_ray.metrics.table import Table, decide

Array = npt.NDArray[Any]


def table_of(truth: Array, prob: Array, labels: list[str] | None = None) -> Table:
    labels = labels or [f"l{i}" for i in range(truth.shape[1])]
    return decide(truth, prob, labels=labels, task="multilabel", thresholds_L=np.full(len(labels), 0.5))


def slow(true: Array, score: Array, rule: Any) -> float | None:
    """Try every score as the threshold; of equally good ones the lowest. None where no threshold fits."""
    best: tuple[float, float] | None = None
    for limit in sorted(set(score.tolist()), reverse=True):
        said = score >= limit
        recall = (said & true).sum() / true.sum()
        precision = (said & true).sum() / said.sum()
        specificity = (~said & ~true).sum() / (~true).sum() if (~true).any() else 1.0
        worth: float
        if rule == "youden":
            worth = recall + specificity
        elif rule == "f1":
            worth = 2 * (said & true).sum() / (said.sum() + true.sum())
        elif "recall" in rule:
            if recall < rule["recall"] - 1e-12:
                continue
            worth = precision
        else:
            if specificity < rule["specificity"] - 1e-12:
                continue
            worth = recall
        if best is None or worth >= best[0] - 1e-12:
            best = (max(worth, best[0]) if best else worth, limit)
    return best[1] if best else None


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=2, max_size=30),
    st.sampled_from(["youden", "f1", {"recall": 0.9}, {"recall": 0.5}, {"specificity": 0.8}, {"specificity": 0.95}]),
)
def test_a_rule_finds_what_a_search_finds(rows: list[tuple[bool, int]], rule: Any) -> None:
    true, score = np.array([r[0] for r in rows]), np.array([r[1] / 9 for r in rows])
    if not true.any() or true.all():
        return
    point = choose(rule, table_of(true[:, None].astype(float), score[:, None]))["l0"]
    want = slow(true, score, rule)
    if want is None:
        assert not point.met and "no threshold" in point.chosen and point.threshold == score.max()
    else:
        assert point.met and point.threshold == want
    said = score >= point.threshold
    assert point.recall == (said & true).sum() / true.sum()
    assert point.precision == (said & true).sum() / said.sum()
    assert point.alarms_per_100 == pytest.approx(100 * said.mean())


def test_unknown_cells_choose_nothing_and_the_point_is_what_the_judge_decides() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random((300, 2)) < 0.3).astype(np.float32)
    prob = np.clip(rng.normal(0.4, 0.2, truth.shape) + 0.2 * truth, 0, 1).astype(np.float32)
    blank = truth.copy()
    blank[200:, 0] = np.nan
    points = choose({"recall": 0.8}, table_of(blank, prob))
    assert points["l0"].threshold == choose({"recall": 0.8}, table_of(truth[:200], prob[:200]))["l0"].threshold
    decided = decide(truth, prob, labels=["l0", "l1"], task="multilabel", thresholds_L=limits(points))
    again = applied(decided, points)
    for i, label in enumerate(("l0", "l1")):
        hit = decided.positive_NL[:, i] & decided.true_NL[:, i]
        assert again[label].recall == hit.sum() / decided.true_NL[:, i].sum()
        assert again[label].precision == hit.sum() / decided.positive_NL[:, i].sum()


def test_given_thresholds_are_kept_and_told() -> None:
    truth, prob = np.array([[1.0, 0], [0, 1]]), np.array([[0.3, 0.6], [0.1, 0.7]])
    points = choose({"a": 0.2}, table_of(truth, prob, ["a", "b"]))
    assert limits(points).tolist() == [0.2, 0.5] and points["a"].recall == 1.0 and points["b"].precision == 0.5


def test_a_label_that_cannot_answer_keeps_a_half_and_says_so() -> None:
    truth, prob = np.array([[0.0, 1], [0, 1]]), np.array([[0.3, 0.6], [0.1, 0.7]])
    for rule in ("youden", "f1", {"recall": 0.9}):
        point = choose(rule, table_of(truth, prob, ["a", "b"]))["a"]
        assert point.threshold == 0.5 and not point.met and point.chosen == "no positives to choose by: 0.5 stands"
        assert point.recall is None and "recall" not in operating_points.plain({"a": point})["a"]
    assert "no negatives" in choose("youden", table_of(truth, prob, ["a", "b"]))["b"].chosen
    none = choose({"recall": 0.9}, table_of(np.full((2, 1), np.nan), prob[:, :1], ["a"]))["a"]
    assert none.rows == 0 and none.alarms_per_100 is None


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("yuden", "is no rule"),
        ({"recall": 1.5}, "between 0 and 1"),
        ({"Edma": 0.2}, "did you mean 'Edema'"),
        (1.2, "a threshold is a probability"),
    ],
)
def test_a_wrong_rule_is_one_line(rule: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse(rule, ["Edema"])


def test_rules_are_told_in_words() -> None:
    assert words({"recall": 0.9}) == "recall of at least 0.9 with the highest precision"
    assert words("f1") == "the largest F1" and words(0.5) == "0.5 for every label"
    assert parse({"recall": 0.9}, ["Edema"]) == ("recall", 0.9)
    assert isinstance(parse({"recall": 0.4}, ["recall"]), np.ndarray)  # a label of that name


def test_a_chance_that_equals_the_assurance_reaches_it() -> None:
    """Of 39 cases and 1 further one the chance of one miss is 38/40, exactly the assurance."""
    assert allowed_misses(39, 1, 0.5, 0.95) == (1, pytest.approx(0.95))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([0.5, 0.8, 0.9]))
def test_the_chance_is_that_of_equally_likely_orders(n: int, m: int, least: float) -> None:
    """Of n + m cases in a random order, the threshold is the case of the n with `misses` of them below: count the m below."""
    misses, chance = allowed_misses(n, m, least, 0.95)

    def chance_of(j: int) -> float:
        # k of the m stand below the j-th of the n: the first j + k - 1 hold j - 1 of the n, and the next is one of them.
        short = int(np.floor((1 - least) * m + 1e-9))
        return sum(
            float(hypergeom.pmf(j - 1, n + m, n, j + k - 1)) * (n - j + 1) / (n + m - j - k + 1)
            for k in range(short + 1)
        )

    assert chance == pytest.approx(chance_of(misses + 1), abs=1e-9)
    if reaches(chance, 0.95):
        following = misses + 2
        assert following > n or following > np.ceil((1 - least) * n) + 1 or not reaches(chance_of(following), 0.95)
    else:
        assert misses == 0


def test_the_promise_of_a_recall_is_kept_on_further_rows() -> None:
    """500 splits of 1,200 val and 1,200 test rows, a fifth positive: a recall of 0.9 fitted on val is kept on test."""
    rng = np.random.default_rng(1)
    kept, bare, cost = 0, 0, []
    for _ in range(500):
        truth = (rng.random((2400, 1)) < 0.2).astype(float)
        prob = 1 / (1 + np.exp(-(rng.normal(size=truth.shape) + 2 * truth - 2)))
        val, test = table_of(truth[:1200], prob[:1200]), table_of(truth[1200:], prob[1200:])
        point = choose({"recall": 0.9}, val, assurance=0.95)
        plain = choose({"recall": 0.9}, val)
        on_test, plainly = applied(test, point)["l0"], applied(test, plain)["l0"]
        kept += (on_test.recall or 0) >= 0.9
        bare += (plainly.recall or 0) >= 0.9
        cost.append((plainly.precision or 0) - (on_test.precision or 0))
    assert kept >= 475 and bare < 350  # without the margin about half
    assert 0.0 < np.mean(cost) < 0.15


def test_images_of_one_patient_count_as_one_for_the_margin() -> None:
    """Eight equal images a patient: a margin by image breaks its promise, by patient it keeps it."""
    rng = np.random.default_rng(2)
    kept = {"patient": 0, "image": 0}
    for _ in range(200):
        tables = []
        for _ in range(2):
            truth = np.repeat([1.0, 0.0], [60, 240])
            score = np.r_[rng.random(60), rng.random(240) ** 3]  # precision rises with the threshold
            tables.append(table_of(np.repeat(truth, 8)[:, None], np.repeat(score, 8)[:, None]))
        for by in kept:
            group = np.repeat(np.arange(300), 8) if by == "patient" else None
            point = choose({"recall": 0.8}, tables[0], group_N=group, assurance=0.95)
            kept[by] += (applied(tables[1], point)["l0"].recall or 0) >= 0.8
    assert kept["patient"] >= 187 and kept["image"] < 170


def test_too_few_positives_are_said_to_be_too_few() -> None:
    truth = np.array([[1.0]] * 5 + [[0.0]] * 20)
    prob = np.linspace(0.9, 0.1, 25)[:, None]
    point = choose({"recall": 0.9}, table_of(truth, prob), assurance=0.95)["l0"]
    assert "too few positives (5)" in point.chosen and not point.met
    assert point.threshold == prob[4, 0] and point.assurance == pytest.approx(allowed_misses(5, 5, 0.9, 0.95)[1])
