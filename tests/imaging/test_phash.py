"""The perceptual hash against a slow definition, and its distances between similar and other images."""

import numpy as np
import pytest
import scipy.fft

from cxr_ray.imaging.phash import perceptual_hash
from tests.fakes.images import smooth


def slow_hash(image: np.ndarray) -> int:
    height, width = image.shape
    blocks = np.empty((32, 32))
    for i in range(32):
        for j in range(32):
            top, left = i * height // 32, j * width // 32
            bottom, right = max((i + 1) * height // 32, top + 1), max((j + 1) * width // 32, left + 1)
            blocks[i, j] = image[top:bottom, left:right].mean()
    low = scipy.fft.dctn(blocks, type=2)[:8, :8].reshape(-1)
    median = np.median(low)
    return sum(1 << (63 - k) for k, value in enumerate(low) if value > median)


@pytest.mark.parametrize("shape", [(224, 224), (64, 96), (320, 256)])
def test_hash_is_the_dct_hash(shape: tuple[int, int]) -> None:
    images = np.stack([smooth(*shape, seed) for seed in range(6)])
    images = np.clip(images + np.random.default_rng(1).normal(0, 20, images.shape), 0, 255).astype(np.uint8)
    hashes = perceptual_hash(images)
    assert hashes.dtype == np.uint64 and hashes.shape == (6,)
    for value, image in zip(hashes.tolist(), images, strict=True):
        assert (value ^ slow_hash(image)).bit_count() <= 4  # block means are rounded: bits near the median may differ


def test_each_image_has_its_own_hash_in_any_number_of_images() -> None:
    images = np.random.default_rng(0).integers(0, 256, (300, 32, 32), dtype=np.uint8)  # more than one chunk
    assert perceptual_hash(images).tolist() == [int(perceptual_hash(image[None])[0]) for image in images]


def test_similar_images_have_similar_hashes_and_others_do_not() -> None:
    rng = np.random.default_rng(0)
    one = np.clip(smooth(224, 224) + rng.normal(0, 30, (7, 7)).repeat(32, 0).repeat(32, 1), 0, 255)
    similar = np.clip(one * 1.04 + rng.normal(0, 2, one.shape), 0, 255)
    others = [
        np.clip(smooth(224, 224, s) + rng.normal(0, 30, (7, 7)).repeat(32, 0).repeat(32, 1), 0, 255)
        for s in range(1, 5)
    ]
    a, b, *rest = perceptual_hash(np.stack([one, similar, *others]).astype(np.uint8)).tolist()
    assert (a ^ b).bit_count() <= 6
    assert min((a ^ other).bit_count() for other in rest) >= 10
    assert perceptual_hash(np.zeros((0, 224, 224), np.uint8)).shape == (0,)
