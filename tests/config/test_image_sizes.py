"""Sizes of images in every form that people give them in, and what is refused."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_ray.config.image_sizes import LARGEST, read_size, sides_of
from cxr_ray.errors import UserError

SIDES = st.integers(1, LARGEST)


@given(SIDES, SIDES)
def test_a_size_is_the_same_in_every_form(height: int, width: int) -> None:
    for form in (
        (height, width), [height, width], (np.int64(height), np.int32(width)), f"{height}x{width}", f" {height}X{width} ", f"{height},{width}",
    ):  # fmt: skip
        assert read_size(form, name="size") == (height, width)
    assert read_size(height, name="size") == read_size(str(height), name="size") == (height, height)


@pytest.mark.parametrize("wrong", ["", "x", "224x", "-3", "0", "5000", "2.5", "10x4097", "1x2x3", "big"])
def test_text_that_is_no_size_is_refused_with_the_flag(wrong: str) -> None:
    with pytest.raises(UserError, match=f"^--size {wrong}: give pixels from 1 to 4096, such as 224, or HEIGHTxWIDTH"):
        read_size(wrong, name="--size")


@pytest.mark.parametrize("wrong", [0, 4097, 2.5, (32,), (1, 2, 3), (1, 0), (1.5, 2), None, {}, (None, 3), ()])
def test_values_that_are_no_size_are_refused(wrong: Any) -> None:
    with pytest.raises(UserError, match=r"^size: give pixels from 1 to 4096, .*\(320, 256\), got"):
        read_size(wrong, name="size")


def test_other_text_has_no_sides() -> None:
    assert sides_of("null") is None and sides_of("[224, 192]") is None and sides_of("0") == (0, 0)
