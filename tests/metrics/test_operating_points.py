"""Operating points against a search through every threshold, and the margin of a recall against simulated splits."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom

from cxr_ray.errors import UserError
from cxr_ray.metrics import operating_points
from cxr_ray.metrics.operating_points import (
    allowed_misses,
    apply,
    choose,
    describe,
    expand_groups,
    needs_rows,
    parse,
    reaches,
    thresholds_of,
)
from cxr_ray.metrics.table import Table, decide

Array = npt.NDArray[Any]


def table_of(truth: Array, prob: Array, labels: list[str] | None = None) -> Table:
    labels = labels or [f"l{i}" for i in range(truth.shape[1])]
    return decide(truth, prob, labels=labels, task="multilabel", thresholds_L=np.full(len(labels), 0.5))


def slow(true: Array, score: Array, rule: Any) -> float | None:
    """Try every score as the threshold; of equally good ones the lowest. None if no threshold is allowed."""
    best: tuple[float, float] | None = None
    for limit in sorted(set(score.tolist()), reverse=True):
        alarms = score >= limit
        recall = (alarms & true).sum() / true.sum()
        precision = (alarms & true).sum() / alarms.sum()
        specificity = (~alarms & ~true).sum() / (~true).sum() if (~true).any() else 1.0
        objective: float
        if rule == "youden":
            objective = recall + specificity
        elif rule == "f1":
            objective = 2 * (alarms & true).sum() / (alarms.sum() + true.sum())
        elif "recall" in rule:
            if recall < rule["recall"] - 1e-12:
                continue
            objective = precision
        else:
            if specificity < rule["specificity"] - 1e-12:
                continue
            objective = recall
        if best is None or objective >= best[0] - 1e-12:
            best = (max(objective, best[0]) if best else objective, limit)
    return best[1] if best else None


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=2, max_size=30),
    st.sampled_from(["youden", "f1", {"recall": 0.9}, {"recall": 0.5}, {"specificity": 0.8}, {"specificity": 0.95}]),
)
def test_a_rule_finds_the_threshold_of_a_search(rows: list[tuple[bool, int]], rule: Any) -> None:
    true, score = np.array([r[0] for r in rows]), np.array([r[1] / 9 for r in rows])
    if not true.any() or true.all():
        return
    point = choose(rule, table_of(true[:, None].astype(float), score[:, None]))["l0"]
    expected = slow(true, score, rule)
    if expected is None:
        assert not point.met and "no threshold" in point.chosen and point.threshold == score.max()
    else:
        assert point.met and point.threshold == expected
    alarms = score >= point.threshold
    assert point.recall == (alarms & true).sum() / true.sum()
    assert point.precision == (alarms & true).sum() / alarms.sum()
    assert point.specificity == pytest.approx((~alarms & ~true).sum() / (~true).sum())
    assert point.alarms_per_100 == pytest.approx(100 * alarms.mean())
    assert (point.positives, point.rows) == (true.sum(), len(true))


def test_unknown_cells_are_ignored_and_the_point_has_the_metrics_of_the_decided_table() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random((300, 2)) < 0.3).astype(np.float32)
    prob = np.clip(rng.normal(0.4, 0.2, truth.shape) + 0.2 * truth, 0, 1).astype(np.float32)
    partly_unknown = truth.copy()
    partly_unknown[200:, 0] = np.nan
    points = choose({"recall": 0.8}, table_of(partly_unknown, prob))
    assert points["l0"].threshold == choose({"recall": 0.8}, table_of(truth[:200], prob[:200]))["l0"].threshold
    decided = decide(truth, prob, labels=["l0", "l1"], task="multilabel", thresholds_L=thresholds_of(points))
    again = apply(decided, points)
    for i, label in enumerate(("l0", "l1")):
        tp = decided.positive_NL[:, i] & decided.true_NL[:, i]
        assert again[label].recall == tp.sum() / decided.true_NL[:, i].sum()
        assert again[label].precision == tp.sum() / decided.positive_NL[:, i].sum()
        negatives = ~decided.true_NL[:, i]
        rejected = (negatives & ~decided.positive_NL[:, i]).sum()
        assert again[label].specificity == pytest.approx(rejected / negatives.sum())
        assert (again[label].chosen, again[label].met) == (points[label].chosen, True)


def test_given_thresholds_are_used_and_measured() -> None:
    truth, prob = np.array([[1.0, 0], [0, 1]]), np.array([[0.3, 0.6], [0.1, 0.7]])
    points = choose({"a": 0.2}, table_of(truth, prob, ["a", "b"]))
    assert thresholds_of(points).tolist() == [0.2, 0.5] and points["a"].recall == 1.0 and points["b"].precision == 0.5
    assert points["a"].met and points["a"].chosen == "given: 0.2"


def test_a_label_that_does_not_allow_the_rule_gets_one_half_with_a_reason() -> None:
    truth, prob = np.array([[0.0, 1], [0, 1]]), np.array([[0.3, 0.6], [0.1, 0.7]])
    for rule in ("youden", "f1", {"recall": 0.9}):
        point = choose(rule, table_of(truth, prob, ["a", "b"]))["a"]
        assert point.threshold == 0.5 and not point.met and point.chosen == "no positives to choose by: 0.5 is used"
        assert point.recall is None and "recall" not in operating_points.to_json({"a": point})["a"]
    assert "no negatives" in choose("youden", table_of(truth, prob, ["a", "b"]))["b"].chosen
    none = choose({"recall": 0.9}, table_of(np.full((2, 1), np.nan), prob[:, :1], ["a"]))["a"]
    assert none.rows == 0 and none.alarms_per_100 is None


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("yuden", "is not a rule"),
        ({"recall": 1.5}, "must lie between 0 and 1"),
        ({"recall": 1.0}, "must lie between 0 and 1"),
        ({"specificity": 0.0}, "a specificity of at least 0 is not a rule"),
        ({"Edma": 0.2}, "did you mean 'Edema'"),
        (1.2, "a threshold is a probability"),
    ],
)
def test_a_wrong_rule_is_an_error(rule: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(rule, ["Edema"])


def test_rules_are_described_in_words() -> None:
    assert describe({"recall": 0.9}) == "recall of at least 0.9 with the highest precision"
    assert describe({"specificity": 0.9}) == "specificity of at least 0.9 with the highest recall"
    assert describe("f1") == "the largest F1" and describe(0.5) == "0.5 for every label"
    assert describe({"a": 0.2}) == describe({"recall": 0.2, "specificity": 0.3}) == "given by label"
    assert describe("youden") == "the largest recall + specificity (Youden)"
    assert parse({"recall": 0.9}, ["Edema"]) == ("recall", 0.9)
    assert isinstance(parse({"recall": 0.4}, ["recall"]), np.ndarray)  # a label of that name


def test_a_chance_that_equals_the_assurance_reaches_it() -> None:
    """With 39 cases and 1 new one, the chance for one miss is 38/40, exactly the assurance."""
    assert allowed_misses(39, 1, 0.5, 0.95) == (1, pytest.approx(0.95))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([0.5, 0.8, 0.9]))
def test_the_chance_is_that_of_equally_likely_orders(n: int, m: int, minimum: float) -> None:
    """Put n + m cases in random order. The threshold is the one of the n cases with `misses` of the n below: count the m below."""
    misses, chance = allowed_misses(n, m, minimum, 0.95)

    def chance_of(j: int) -> float:
        # k of the m are below the j-th of the n: of the first j + k - 1 cases j - 1 are of the n, and so is the next one.
        new_misses = int(np.floor((1 - minimum) * m + 1e-9))
        return sum(
            float(hypergeom.pmf(j - 1, n + m, n, j + k - 1)) * (n - j + 1) / (n + m - j - k + 1)
            for k in range(new_misses + 1)
        )

    assert chance == pytest.approx(chance_of(misses + 1), abs=1e-9)
    if reaches(chance, 0.95):
        one_more = misses + 2
        assert one_more > n or one_more > np.ceil((1 - minimum) * n) + 1 or not reaches(chance_of(one_more), 0.95)
    else:
        assert misses == 0


def test_a_recall_with_a_margin_also_holds_on_new_rows() -> None:
    """500 splits of 1,200 val and 1,200 test rows, a fifth positive: a recall of 0.9 chosen on val also holds on test."""
    rng = np.random.default_rng(1)
    with_margin, bare, cost = 0, 0, []
    for _ in range(500):
        truth = (rng.random((2400, 1)) < 0.2).astype(float)
        prob = 1 / (1 + np.exp(-(rng.normal(size=truth.shape) + 2 * truth - 2)))
        val, test = table_of(truth[:1200], prob[:1200]), table_of(truth[1200:], prob[1200:])
        point = choose({"recall": 0.9}, val, assurance=0.95)
        no_margin = choose({"recall": 0.9}, val)
        on_test, bare_on_test = apply(test, point)["l0"], apply(test, no_margin)["l0"]
        with_margin += (on_test.recall or 0) >= 0.9
        bare += (bare_on_test.recall or 0) >= 0.9
        cost.append((bare_on_test.precision or 0) - (on_test.precision or 0))
    assert with_margin >= 475 and bare < 350  # without the margin about half
    assert 0.0 < np.mean(cost) < 0.15


def test_images_of_one_patient_count_as_one_for_the_margin() -> None:
    """Eight equal images per patient: a margin by image fails more often than it should, a margin by patient does not."""
    rng = np.random.default_rng(2)
    reached = {"patient": 0, "image": 0}
    for _ in range(200):
        tables = []
        for _ in range(2):
            truth = np.repeat([1.0, 0.0], [60, 240])
            score = np.r_[rng.random(60), rng.random(240) ** 3]  # precision rises with the threshold
            tables.append(table_of(np.repeat(truth, 8)[:, None], np.repeat(score, 8)[:, None]))
        for by in reached:
            group = np.repeat(np.arange(300), 8) if by == "patient" else None
            point = choose({"recall": 0.8}, tables[0], group_N=group, assurance=0.95)
            reached[by] += (apply(tables[1], point)["l0"].recall or 0) >= 0.8
    assert reached["patient"] >= 187 and reached["image"] < 170


def test_too_few_positives_are_the_reason_of_an_unmet_rule() -> None:
    truth = np.array([[1.0]] * 5 + [[0.0]] * 20)
    prob = np.linspace(0.9, 0.1, 25)[:, None]
    point = choose({"recall": 0.9}, table_of(truth, prob), assurance=0.95)["l0"]
    assert "too few positives (5)" in point.chosen and not point.met
    assert point.threshold == prob[4, 0] and point.assurance == pytest.approx(allowed_misses(5, 5, 0.9, 0.95)[1])


def test_a_rule_needs_rows_and_numbers_do_not() -> None:
    assert needs_rows("f1", ["a"]) and needs_rows({"recall": 0.9}, ["a"])
    assert not needs_rows(0.4, ["a"]) and not needs_rows({"a": 0.4}, ["a"])


def test_a_given_threshold_of_classes_has_no_meaning_and_a_rule_is_one_against_the_rest() -> None:
    for rule in (0.3, {"a": 0.2}, {"a": 0.2, "b": 0.5}):
        with pytest.raises(UserError, match=r"decided by the largest probability.*recall=0\.9"):
            parse(rule, ["a", "b"], task="multiclass")
    assert np.asarray(parse(0.5, ["a", "b"], task="multiclass")).tolist() == [0.5, 0.5]
    assert parse("f1", ["a", "b"], task="multiclass") == "f1"
    assert parse({"recall": 0.9}, ["a", "b"], task="multiclass") == ("recall", 0.9)


def test_thresholds_of_groups_become_those_of_labels_and_rules_stay() -> None:
    labels, groups = ["a", "b", "c"], {"mine": ["a", "b"]}
    assert expand_groups({"mine": 0.2}, labels, groups) == {"a": 0.2, "b": 0.2}
    assert expand_groups({"mine": 0.2, "b": 0.3}, labels, groups) == {"a": 0.2, "b": 0.3}
    for rule in (0.4, "f1", {"recall": 0.9}, {"specificity": 0.8}):
        assert expand_groups(rule, labels, groups) == rule
    for wrong in ({"recall": 0.9, "a": 0.2}, {"mime": 0.2}):
        with pytest.raises(UserError, match="in the thresholds"):
            expand_groups(wrong, labels, groups)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("name", ["recall", "specificity"])
@pytest.mark.parametrize("future", [1.0, 0.5])
def test_a_margin_allows_the_misses_of_its_patients(name: str, images: int, future: float) -> None:
    """The share of missed patients that the margin allows, as a share of the images; found by a search through every score."""
    rng = np.random.default_rng(3)
    true = np.repeat(rng.random(150) < 0.4, images)
    score = np.clip(rng.normal(0.4, 0.2, len(true)) + 0.25 * true, 0, 1)
    table, group = table_of(true[:, None].astype(float), score[:, None]), np.repeat(np.arange(150), images)
    point = choose({name: 0.8}, table, group_N=group, assurance=0.95, future=future)["l0"]
    bare = choose({name: 0.8}, table)["l0"]
    cases = int((true if name == "recall" else ~true).sum())
    patients = cases // images
    misses, chance = allowed_misses(patients, round(patients * future), 0.8, 0.95)
    assert 0 < misses < 0.2 * patients
    assert point.met and point.assurance == chance >= 0.95
    assert point.threshold == slow(true, score, {name: (cases - misses * images) / cases})
    assert point.margin_recall == (point.recall or 0) - (bare.recall or 0) != 0
    assert point.margin_precision == (point.precision or 0) - (bare.precision or 0) != 0
    assert bare.assurance is None and bare.margin_recall is None


def test_a_specificity_that_no_threshold_has_is_unmet_with_and_without_a_margin() -> None:
    """All scores are equal, so every threshold calls all rows or none."""
    table = table_of(np.array([[1.0]] * 30 + [[0.0]] * 90), np.full((120, 1), 0.7))
    for assurance in (None, 0.95):
        point = choose({"specificity": 0.9}, table, assurance=assurance)["l0"]
        assert not point.met and point.threshold == 0.7
        assert point.chosen == "no threshold gives a specificity of 0.9: the highest score is used"


def test_too_few_negatives_are_the_reason_of_an_unmet_specificity() -> None:
    truth = np.array([[1.0]] * 20 + [[0.0]] * 5)
    point = choose({"specificity": 0.9}, table_of(truth, np.linspace(0.9, 0.1, 25)[:, None]), assurance=0.95)["l0"]
    assert "; too few negatives (5) to ensure it: the probability is 0." in point.chosen and not point.met


def test_one_row_of_a_class_is_enough_to_choose_by() -> None:
    table = table_of(np.array([[1.0], [0.0]]), np.array([[0.8], [0.3]]))
    for rule in ("youden", "f1", {"recall": 0.9}, {"specificity": 0.9}):
        point = choose(rule, table)["l0"]
        assert point.met and point.threshold == 0.8 and point.specificity == point.recall == 1.0
    only_negatives = table_of(np.array([[0.0], [0.0]]), np.array([[0.8], [0.3]]))
    assert "no positives" in choose("youden", only_negatives)["l0"].chosen
    only_positives = table_of(np.array([[1.0], [1.0]]), np.array([[0.8], [0.3]]))
    assert choose({"recall": 0.9}, only_positives)["l0"].met  # without negatives a recall can still be chosen
    assert "no negatives" in choose({"specificity": 0.9}, only_positives)["l0"].chosen
