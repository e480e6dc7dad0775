"""Statistics of images against numpy and exact fractions; equal images of 8 and 16 bits have equal ones."""

import hashlib
from fractions import Fraction

import numpy as np
import pytest

from cxr_ray.imaging.phash import perceptual_hash
from cxr_ray.imaging.statistics import image_statistics, pooled_mean_std
from tests.fakes.images import smooth

IMAGES = np.stack([smooth(40, 33, seed) for seed in range(5)])


@pytest.mark.parametrize("count", [0, 1, 5])
def test_each_image_has_its_mean_variance_digest_and_hash(count: int) -> None:
    images = IMAGES[:count]
    found = image_statistics(images)
    assert list(found.columns) == ["mean", "variance", "pixels_sha256", "phash"] and len(found) == count
    np.testing.assert_allclose(found["mean"], images.mean((1, 2)) if count else [], rtol=1e-12)
    np.testing.assert_allclose(found["variance"], images.var((1, 2)) if count else [], rtol=1e-12)
    assert found["pixels_sha256"].tolist() == [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    assert found["phash"].tolist() == perceptual_hash(images).tolist()


def test_an_image_stored_with_16_bits_has_the_statistics_of_its_8_bits() -> None:
    one, two = image_statistics(IMAGES), image_statistics(IMAGES.astype(np.uint16) * 257)
    for column in ("mean", "variance", "phash"):
        assert one[column].tolist() == two[column].tolist(), column
    assert set(one["pixels_sha256"]).isdisjoint(two["pixels_sha256"])


def test_the_hash_of_16_bits_is_that_of_the_nearest_8_bits() -> None:
    """Values between two steps of 8 bits, whose low bytes alone say nothing."""
    images = np.minimum(IMAGES, 254)
    between = images.astype(np.uint16) * 257 + 100
    assert image_statistics(between)["phash"].tolist() == perceptual_hash(images).tolist()


def test_sums_of_16_bit_squares_are_exact() -> None:
    """Squares above 2^53 in sum, which float64 would round: one bright pixel more in a bright image changes the variance."""
    image = np.full((2048, 1025), 65535, np.uint16)
    image[0, 0] = 65534
    values, found = [65535] * (image.size - 1) + [65534], image_statistics(image[None])
    mean = Fraction(sum(values), len(values))
    variance = Fraction(sum(v * v for v in values), len(values)) - mean * mean
    assert found["mean"][0] == float(mean / 257) and found["variance"][0] == float(variance / 257**2)


def test_pooled_mean_and_deviation_are_those_of_all_pixels() -> None:
    assert pooled_mean_std(image_statistics(IMAGES)) == pytest.approx((IMAGES.mean(), IMAGES.std()), rel=1e-12)
