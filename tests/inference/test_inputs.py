"""What people give a predictor becomes gray values 0 to 255; what cannot be an image in its range is refused in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cxr_ray.data.store_format import ImageFormat
from cxr_ray.errors import UserError
from cxr_ray.imaging.decode import decode
from cxr_ray.inference.inputs import gray_batches

H, W = 12, 10
GRAY = np.random.default_rng(0).integers(0, 256, (5, H, W), dtype=np.uint8)


def grays(images: Any, *, value_range: tuple[float, float] = (0.0, 255.0), **image_format: Any) -> np.ndarray:
    format_of = lambda: ImageFormat(**{"size": (H, W), **image_format})  # noqa: E731
    count, batches = gray_batches(images, format_of, value_range=value_range, batch_size=2)
    grays = np.concatenate(list(batches))
    assert count == len(grays)
    return grays


@pytest.mark.parametrize(
    "convert", [lambda x: x, torch.from_numpy, lambda x: x.astype(np.int64), lambda x: x.astype(np.float64)]
)
def test_arrays_of_every_shape_and_dtype(convert: Any) -> None:
    for images in (GRAY, GRAY[:, None], GRAY[0]):
        found = grays(convert(images))
        assert found.dtype in (np.uint8, np.float32) and np.array_equal(found, images.reshape(-1, H, W))
    assert np.array_equal(grays([convert(image) for image in GRAY]), GRAY)


def test_a_tensor_of_a_dtype_that_numpy_lacks() -> None:
    assert np.allclose(grays(torch.from_numpy(GRAY).to(torch.bfloat16)), GRAY, atol=0.5)


@pytest.mark.parametrize("resample", [Image.Resampling.BICUBIC, Image.Resampling.LANCZOS])
@pytest.mark.parametrize("size", [(31, 29), (33, 47)])
def test_the_overshoot_of_resizing_is_taken(resample: Image.Resampling, size: tuple[int, int]) -> None:
    edges = np.zeros((24, 24), np.float32)
    edges[::5] = edges[:, 7:14] = 255.0
    resized = np.asarray(Image.fromarray(edges).resize(size, resample))
    assert resized.min() < 0.0 and resized.max() > 255.0
    assert np.array_equal(grays(resized), resized[None])


@pytest.mark.parametrize(("black", "white"), [(0.0, 1.0), (-1.0, 1.0), (0.0, 4095.0)])
def test_floats_are_in_the_value_range(black: float, white: float) -> None:
    scaled = GRAY / 255 * (white - black) + black
    assert np.allclose(grays(scaled, value_range=(black, white)), GRAY, atol=1e-3)
    assert np.array_equal(grays(GRAY, value_range=(black, white)), GRAY)


@pytest.mark.parametrize("aspect", ["squash", "pad", "center_crop"])
@pytest.mark.parametrize("depth", [8, 16])
def test_files_and_pillow_images_are_decoded_as_for_the_store(tmp_path: Path, aspect: str, depth: int) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(np.kron(GRAY[0], np.ones((3, 5), np.uint8))).save(path)
    expected = decode(path.read_bytes(), (H, W), aspect=aspect, depth=depth).pixels  # type: ignore[arg-type]
    found = grays([path, str(path), Image.open(path)], aspect=aspect, depth=depth)
    assert found.shape == (3, H, W) and found.dtype == (np.uint8 if depth == 8 else np.float32)
    for image in found:
        assert np.allclose(image, expected / (1 if depth == 8 else 257), atol=1e-4)
    assert np.array_equal(grays(path, aspect=aspect, depth=depth), found[:1])


def test_a_black_float_image_is_taken() -> None:
    assert not grays(np.zeros((H, W), np.float32)).any()
    count, batches = gray_batches([], lambda: ImageFormat(), value_range=(0.0, 255.0), batch_size=2)
    assert count == 0 and list(batches) == []


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (GRAY / 255, r"largest value is 1\b.*value_range=\(0, 1\)"),
        (np.full((H, W), -0.5), "value_range="),
        (np.full((H, W), 4000.0), r"\(value_range\), and these are 4000 to 4000"),
        (np.full((H, W), 300.0), "these are 300 to 300"),
        ((GRAY - GRAY.mean()) / GRAY.std(), r"0 to 255 \(value_range\), and these are -1"),
        ((GRAY - 20.0) / 40.0, "undo their normalisation"),
        (np.full((H, W), 4000), "these are 4000 to 4000"),
        (np.full((H, W), np.nan), "not finite"),
        (np.zeros((H, W, 3), np.uint8), "colour"),
        (np.zeros((2, 3, H, W), np.uint8), r"\[N, 1, H, W\], got \[2, 3"),
        (np.zeros(H), r"got \[12\]"),
        (np.array([["a"]]), "integer or float"),
        ("none.png", "no image file at /.*none.png"),
        (Path("/"), "is a folder"),
        (__file__, "cannot use .*: not an image"),
        (3, "not int"),
        ([3], "not int"),
        ([GRAY], r"must be one image \[H, W\], not \[5, 12, 10\]"),
        ([GRAY[0], GRAY[0, 1:]], r"one size, got \(11, 10\) and \(12, 10\)"),
    ],
)
def test_what_cannot_be_an_image_is_refused_in_one_line(images: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        grays(images)
    assert "\n" not in str(caught.value)


def test_floats_beyond_one_are_refused_for_a_model_of_zero_to_one() -> None:
    with pytest.raises(UserError, match=r"0 to 1.*these are"):
        grays(GRAY.astype(np.float32), value_range=(0.0, 1.0))
