"""All metrics of a table against slow definitions and scikit-learn, including ties, unknown cells and labels of one class."""

import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from cxr_ray.metrics import compute_metrics, confusion
from tests.metrics import definitions as slow
from tests.metrics.definitions import COUNT_NAMES, LABELS, Array, as_dict, random_table


def check_against_definitions(truth: Array, prob: Array, thresholds: Array, labels: list[str], task: str) -> None:
    actual = as_dict(compute_metrics(truth, prob, labels=labels, task=task, thresholds_L=thresholds))
    expected: dict[tuple[str, str], float] = {}
    means: dict[str, list[float]] = {}
    for i, label in enumerate(labels):
        for metric, value in slow.label_metrics(truth[:, i], prob[:, i], thresholds[i]).items():
            if value is not None:
                expected[metric, label] = value
                if metric not in COUNT_NAMES:
                    means.setdefault(metric, []).append(value)
    expected |= {(metric, "mean"): sum(v) / len(v) for metric, v in means.items()}
    expected |= {(metric, ""): v for metric, v in slow.overall_metrics(truth, prob, thresholds).items()}
    if len(labels) > 1:
        expected |= slow.averages(truth, prob, thresholds)
    if task == "binary" and ("exact_match", "") in expected:
        expected["accuracy", ""] = expected["exact_match", ""]
    assert set(actual) == set(expected)
    for key, value in expected.items():
        assert actual[key] == pytest.approx(value, abs=1e-12), key


cell = st.sampled_from([0.0, 1.0, math.nan])
level = st.integers(0, 4).map(lambda k: k / 4)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_every_metric_matches_its_definition(data: st.DataObject) -> None:
    width = data.draw(st.integers(1, 3))
    rows = data.draw(st.lists(st.tuples(*[st.tuples(cell, level)] * width), min_size=1, max_size=25))
    truth = np.array([[c[0] for c in row] for row in rows])
    prob = np.array([[c[1] for c in row] for row in rows])
    thresholds = np.array(data.draw(st.lists(level, min_size=width, max_size=width)))
    task = "binary" if width == 1 and data.draw(st.booleans()) else "multilabel"
    check_against_definitions(truth, prob, thresholds, LABELS[:width], task)


def test_a_longer_table_matches_the_definitions() -> None:
    truth, prob = random_table(np.random.default_rng(0), 301)
    check_against_definitions(truth, prob, np.array([0.5, 0.3, 0.75]), LABELS, "multilabel")


def classes(rng: np.random.Generator, rows: int, width: int, unknown: float = 0.0) -> tuple[Array, Array]:
    truth = np.eye(width)[rng.integers(0, width, rows)]
    truth[rng.random(rows) < unknown] = np.nan
    prob = rng.integers(0, 5, (rows, width)) + 0.25  # many ties between classes
    return truth, prob / prob.sum(axis=1, keepdims=True)


def test_classes_are_decided_by_the_largest_probability_as_in_scikit_learn() -> None:
    truth, prob = classes(np.random.default_rng(2), 300, 3, unknown=0.1)
    actual = as_dict(compute_metrics(truth, prob, labels=LABELS, task="multiclass", thresholds_L=np.full(3, 0.5)))
    known = ~np.isnan(truth[:, 0])
    true, predicted = truth[known].argmax(axis=1), prob[known].argmax(axis=1)
    assert actual["accuracy", ""] == pytest.approx(sk.accuracy_score(true, predicted), abs=1e-12)
    assert actual["f1", "mean"] == pytest.approx(sk.f1_score(true, predicted, average="macro"), abs=1e-12)
    assert actual["recall", "mean"] == pytest.approx(sk.balanced_accuracy_score(true, predicted), abs=1e-12)
    for i, label in enumerate(LABELS):
        one = slow.label_metrics(np.where(known, truth[:, i], np.nan), (prob.argmax(axis=1) == i).astype(float), 0.5)
        for metric in (*COUNT_NAMES, "recall", "precision", "npv", "f1", "specificity"):
            assert actual[metric, label] == pytest.approx(one[metric], abs=1e-12)
        rows = list(true == i), list(prob[known, i])
        assert actual["auroc", label] == pytest.approx(slow.auroc(*rows), abs=1e-12)
        assert actual["ap", label] == pytest.approx(slow.average_precision(*rows), abs=1e-12)
    assert {key for key in actual if key[1] == ""} == {("accuracy", ""), ("top2", "")}
    assert actual["recall", "micro"] == pytest.approx(actual["accuracy", ""], abs=1e-12)
    top2 = [sorted(range(3), key=lambda c: (-p[c], c)).index(t) < 2 for p, t in zip(prob[known], true, strict=True)]
    assert actual["top2", ""] == pytest.approx(sum(top2) / len(top2), abs=1e-12)
    matrix = confusion(truth, prob)
    assert (matrix == sk.confusion_matrix(true, predicted, labels=[0, 1, 2])).all()


def test_confusion_of_two_classes_has_the_negative_first() -> None:
    truth, prob = np.array([[1.0], [0], [0], [1], [np.nan], [1]]), np.array([[0.5], [0.4], [0.7], [0.1], [0.9], [1.0]])
    assert confusion(truth, prob).tolist() == [[1, 1], [1, 2]]
    assert confusion(truth, prob, threshold=0.45).tolist() == [[1, 1], [1, 2]]
    assert confusion(truth, prob, threshold=0.8).tolist() == [[2, 0], [2, 1]]


# Undefined metrics are absent.


def test_a_label_without_positives_has_no_recall_auroc_and_ap() -> None:
    truth, prob = np.array([[1.0, 0], [0, 0], [1, 0]]), np.array([[0.9, 0.1], [0.2, 0.9], [0.7, 0.2]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # scikit-learn warns and returns 0.0 or NaN
        actual = as_dict(compute_metrics(truth, prob, labels=["a", "b"], task="multilabel", thresholds_L=[0.5, 0.5]))
    assert not {("recall", "b"), ("auroc", "b"), ("ap", "b")} & set(actual)
    assert actual["positives", "b"] == 0 and actual["predicted_positives", "b"] == 1 and actual["precision", "b"] == 0.0
    assert actual["auroc", "mean"] == actual["auroc", "a"] == 1.0
    assert actual["specificity", "b"] == pytest.approx(2 / 3)


def test_a_label_without_negatives_has_no_auroc_but_an_ap() -> None:
    actual = as_dict(compute_metrics([[1.0], [1.0]], [[0.9], [0.2]], labels=["a"], task="binary", thresholds_L=[0.5]))
    assert ("auroc", "a") not in actual and ("specificity", "a") not in actual
    assert actual["ap", "a"] == 1.0 and actual["recall", "a"] == 0.5


def test_rows_of_unknown_truth_are_not_counted() -> None:
    truth = np.array([[1.0, np.nan], [0, np.nan], [np.nan, np.nan]])
    values = compute_metrics(truth, np.full((3, 2), 0.6), labels=["a", "b"], task="multilabel", thresholds_L=[0.5, 0.5])
    rows = {(v.metric, v.label): (v.positives, v.rows) for v in values}
    assert rows["recall", "a"] == (1, 2) and rows["positives", "b"] == (0, 0)
    assert rows["exact_match", ""] == (1, 2) and rows["auroc", "mean"] == (1, 2)
    assert not [v for v in values if v.label == "b" and v.metric not in COUNT_NAMES]


def test_no_rows_give_no_values_and_no_known_cell_gives_only_counts() -> None:
    empty = np.zeros((0, 2))
    assert compute_metrics(empty, empty, labels=["a", "b"], task="multilabel", thresholds_L=[0.5, 0.5]) == []
    unknown = compute_metrics([[np.nan]], [[0.5]], labels=["a"], task="binary", thresholds_L=[0.5])
    assert {v.metric for v in unknown} == set(COUNT_NAMES) and not any(v.value for v in unknown)


def test_rows_of_unknown_truth_and_the_order_of_rows_change_nothing() -> None:
    truth, prob = random_table(np.random.default_rng(3), 120)
    options: dict[str, Any] = {"labels": LABELS, "task": "multilabel", "thresholds_L": np.full(3, 0.5)}
    before = compute_metrics(truth, prob, **options)
    unknown = np.full((40, 3), np.nan)
    assert compute_metrics(np.vstack([truth, unknown]), np.vstack([prob, np.full((40, 3), 0.99)]), **options) == before
    order = np.random.default_rng(4).permutation(120)
    shuffled = as_dict(compute_metrics(truth[order], prob[order], **options))
    assert shuffled == pytest.approx(as_dict(before), abs=1e-12)
