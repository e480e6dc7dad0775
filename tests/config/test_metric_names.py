"""Metric names: split, joined, with the direction that is better, and the best of a series."""

import math

import pytest

from cxr_ray.config import best_of, join_name, mode_of, sign_of, split_name


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("val/auroc/Edema", ("val", "auroc", "Edema")),
        ("val/accuracy", ("val", "accuracy", "")),
        ("val", ("val", "", "")),
        ("test/f1/macro", ("test", "f1", "mean")),
        ("val/auroc/a/b", ("val", "auroc", "a/b")),  # a label may contain slashes
    ],
)
def test_names_are_split_and_joined(name: str, parts: tuple[str, str, str]) -> None:
    assert split_name(name) == parts
    assert join_name(*parts) == name.replace("macro", "mean")


def test_macro_is_another_name_of_mean() -> None:
    assert join_name("val", "f1", "macro") == "val/f1/mean"
    assert join_name("val", "accuracy") == "val/accuracy"


@pytest.mark.parametrize(
    ("metric", "mode"),
    [("val/loss", "min"), ("val/loss/Edema", "min"), ("val/hamming", "min"), ("val/brier/macro", "min"),
     ("val/ece/mean", "min"), ("train/loss", "min"), ("val/auroc/mean", "max"), ("val/f1/loss", "max"), ("val/accuracy", "max")],
)  # fmt: skip
def test_the_direction_follows_from_the_metric_unless_it_is_set(metric: str, mode: str) -> None:
    assert mode_of(metric) == mode_of(metric, "auto") == mode
    assert mode_of(metric, "max") == "max"
    assert mode_of(metric, "min") == "min"


def test_signs_make_larger_values_better() -> None:
    assert (sign_of("max"), sign_of("min")) == (1.0, -1.0)


@pytest.mark.parametrize(
    ("values", "largest", "smallest"),
    [
        ([0.5, 0.7, 0.6], 1, 0),
        ([0.7, 0.7, 0.5, 0.5], 0, 2),  # the first of equal values
        ([None, 0.2, math.nan, 0.1], 1, 3),
        ([None, math.nan], None, None),
        ([], None, None),
    ],
)
def test_the_best_value_is_the_first_of_equal_ones(values: list, largest: int | None, smallest: int | None) -> None:
    assert best_of(values, "max") == largest
    assert best_of(values, "min") == smallest
