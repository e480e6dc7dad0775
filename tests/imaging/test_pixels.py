"""Gray values of 8 and 16 bits: their dtypes, their white, and the conversions between them."""

import numpy as np
import pytest
from PIL import Image

from cxr_ray.imaging.pixels import MAX_GRAY, PIXEL_DTYPES, ImageError, to_16_bit, to_uint8


@pytest.mark.parametrize(("depth", "dtype"), [(8, np.uint8), (16, np.uint16)])
def test_white_is_the_largest_value_of_the_dtype(depth: int, dtype: type[np.unsignedinteger]) -> None:
    assert PIXEL_DTYPES[depth] is dtype and MAX_GRAY[depth] == np.iinfo(dtype).max
    assert set(PIXEL_DTYPES) == set(MAX_GRAY) == {8, 16}


def test_8_bit_grays_become_16_bit_grays_from_black_to_white() -> None:
    grays = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = to_16_bit(Image.fromarray(grays))
    assert image.mode == "F"
    np.testing.assert_allclose(np.asarray(image), grays / 255 * 65535)


def test_grays_are_rounded_to_uint8_and_uint8_is_not_copied() -> None:
    found = to_uint8(np.array([[[0.4, 0.6, 254.51]]], dtype=np.float32))
    assert found.dtype == np.uint8 and found.tolist() == [[[0, 1, 255]]]
    images = np.zeros((1, 2, 2), np.uint8)
    assert to_uint8(images) is images


def test_an_error_has_its_reason_as_text() -> None:
    assert ImageError("truncated").reason == str(ImageError("truncated")) == "truncated"
