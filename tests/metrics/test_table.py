"""Thresholds, the decision of every cell, and the tables that are refused."""

from typing import Any

import numpy as np
import pytest

from cxr_ray.errors import UserError
from cxr_ray.metrics import compute_metrics, thresholds
from cxr_ray.metrics.table import decide
from tests.metrics.definitions import LABELS, as_dict


def test_positive_is_at_or_above_the_threshold_in_the_type_of_the_probabilities() -> None:
    for kind in (np.float32, np.float64):
        prob = np.array([[0.7], [0.2], [np.nextafter(kind(0.7), kind(0))]], dtype=kind)
        actual = as_dict(compute_metrics([[1.0], [1.0], [1.0]], prob, labels=["a"], task="binary", thresholds_L=[0.7]))
        assert actual["predicted_positives", "a"] == 1, kind  # float32 0.7 is below float64 0.7


def test_thresholds_from_a_number_or_by_label() -> None:
    assert thresholds(0.3, LABELS).tolist() == [0.3, 0.3, 0.3]
    assert thresholds({"Edema": 0.2}, LABELS).tolist() == [0.5, 0.2, 0.5]
    with pytest.raises(UserError, match="did you mean 'Edema'"):
        thresholds({"Edma": 0.2}, LABELS)
    with pytest.raises(UserError, match=r"'Edema' is 1\.2"):
        thresholds({"Edema": 1.2}, LABELS)


@pytest.mark.parametrize(
    ("truth", "prob", "error", "message"),
    [
        ([[1.0], [0]], [[0.5], [np.nan]], UserError, "1 of 2 probabilities of 'a'.*NaN"),
        ([[1.0], [0]], [[0.5], [1.01]], UserError, "the first: 1.01"),
        ([[np.nan], [0]], [[-0.1], [0.5]], UserError, "the first: -0.1"),
        ([[1.0], [-1]], [[0.5], [0.5]], ValueError, "label policy"),
        ([[1.0]], [[0.5], [0.5]], ValueError, "not both"),
        ([[1.0, 0]], [[0.5, 0.5]], ValueError, "1 labels"),
        ([1.0], [0.5], ValueError, "not both"),
    ],
)
def test_wrong_tables_are_refused(
    truth: list[list[float]], prob: list[list[float]], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        compute_metrics(truth, prob, labels=["a"], task="binary", thresholds_L=[0.5])


def test_classes_must_be_one_hot() -> None:
    for wrong in ([[1.0, 1]], [[0.0, 0]]):
        with pytest.raises(ValueError, match="exactly one class"):
            compute_metrics(wrong, [[0.5, 0.5]], labels=["a", "b"], task="multiclass", thresholds_L=[0.5, 0.5])


def test_one_wrong_row_among_right_ones_is_refused() -> None:
    options: dict[str, Any] = {"labels": ["a", "b"], "thresholds_L": [0.5, 0.5]}
    right, prob = [1.0, 0], np.full((2, 2), 0.5)
    for wrong in ([1.0, 1], [0.0, 0]):
        with pytest.raises(ValueError, match="exactly one class"):
            compute_metrics([right, wrong], prob, task="multiclass", **options)
    with pytest.raises(ValueError, match="label policy"):
        compute_metrics([right, [0.0, 0.5]], prob, task="multilabel", **options)
    prob[1, 1] = 1.5
    with pytest.raises(UserError, match=r"1 of 2 probabilities of 'b' are outside \[0, 1\] \(the first: 1\.5\)"):
        compute_metrics([right, right], prob, task="multilabel", **options)


def test_tables_of_other_shapes_and_tasks_are_refused() -> None:
    truth, prob = [[1.0, 0]], [[0.5, 0.5]]
    with pytest.raises(ValueError, match="a binary table has one column, not 2"):
        decide(truth, prob, labels=["a", "b"], task="binary", thresholds_L=[0.5, 0.5])
    with pytest.raises(ValueError, match="task is 'classes', not one of multilabel, binary, multiclass"):
        decide(truth, prob, labels=["a", "b"], task="classes", thresholds_L=[0.5, 0.5])
    for thresholds_L in ([0.5], 0.5, [[0.5, 0.5]]):
        with pytest.raises(ValueError, match=r"must be one per label \(2\)"):
            decide(truth, prob, labels=["a", "b"], task="multilabel", thresholds_L=thresholds_L)


def test_probabilities_and_thresholds_of_exactly_0_and_1_are_valid() -> None:
    assert thresholds({"Edema": 0.0, "Fracture": 1.0}, LABELS).tolist() == [0.5, 0.0, 1.0]
    table = decide([[1.0], [0.0]], [[1], [0]], labels=["a"], task="binary", thresholds_L=[1.0])
    assert table.prob_NL.dtype == np.float64 and table.positive_NL.tolist() == [[True], [False]]


def test_a_row_of_classes_with_an_unknown_cell_is_unknown() -> None:
    truth = [[1.0, np.nan, 0.0], [0.0, 0.0, 1.0], [np.nan, 1.0, np.nan]]
    prob = [[0.2, 0.4, 0.4], [0.4, 0.4, 0.2], [0.1, 0.1, 0.8]]
    table = decide(truth, prob, labels=LABELS, task="multiclass", thresholds_L=np.full(3, 0.5))
    assert table.known_NL.tolist() == [[False] * 3, [True] * 3, [False] * 3]
    assert table.true_NL.sum() == 1 and table.true_NL[1, 2]
    assert table.positive_NL.argmax(axis=1).tolist() == [1, 0, 2] and (table.positive_NL.sum(axis=1) == 1).all()
