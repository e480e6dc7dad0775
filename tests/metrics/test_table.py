"""Thresholds, the decision of every cell, and the tables that are refused."""

import numpy as np
import pytest

from cxr_ray.errors import UserError
from cxr_ray.metrics import compute_metrics, thresholds
from tests.metrics.definitions import LABELS, as_dict


def test_positive_is_at_or_above_the_threshold_in_the_type_of_the_probabilities() -> None:
    for kind in (np.float32, np.float64):
        prob = np.array([[0.7], [0.2], [np.nextafter(kind(0.7), kind(0))]], dtype=kind)
        actual = as_dict(compute_metrics([[1.0], [1], [1]], prob, labels=["a"], task="binary", thresholds_L=[0.7]))
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
