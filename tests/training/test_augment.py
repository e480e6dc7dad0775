"""Augmentation: depends only on (seed, epoch, position), not on the split of a batch, and equals torchvision's."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as V

from cxr_ray.config import Augment
from cxr_ray.training.augment import Parameters, augment, sample

ALL = Augment(
    probability=1.0, degrees=20, translate=0.1, shear=10, scale=0.2, brightness=0.3, contrast=0.3, flip=0.5, erase=0.5
)
NONE = {"degrees": 0, "translate": 0, "shear": 0, "scale": 0, "brightness": 0, "contrast": 0}


def gray(n: int, size: tuple[int, int] = (24, 32), seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def run(
    images: torch.Tensor, config: Augment = ALL, *, seed: int = 5, epoch: int = 2, positions: Any = None
) -> torch.Tensor:
    return augment(
        images,
        config,
        seed=seed,
        epoch=epoch,
        positions=np.arange(len(images)) if positions is None else np.asarray(positions),
    )


def test_it_depends_on_seed_epoch_and_position() -> None:
    images = gray(1).repeat(4, 1, 1)
    base = run(images)
    assert torch.equal(base, run(images))
    assert not torch.equal(base, run(images, seed=6))
    assert not torch.equal(base, run(images, epoch=3))
    assert not torch.equal(base[0], base[1])
    assert torch.equal(run(images, positions=[3, 2, 1, 0]), base.flip(0))


@pytest.mark.parametrize("size", [(24, 32), (224, 224)])
def test_the_split_of_a_batch_changes_no_bit(size: tuple[int, int]) -> None:
    images = gray(13, size)
    config = ALL.model_copy(update={"probability": 0.6})
    whole = run(images, config)
    for bounds in ([0, 1, 13], [0, 4, 8, 13], list(range(14))):
        parts = [run(images[a:b], config, positions=np.arange(a, b)) for a, b in pairwise(bounds)]
        assert torch.equal(torch.cat(parts), whole)


def test_frequencies_and_ranges_are_those_of_the_config() -> None:
    n = 40_000
    config = ALL.model_copy(update={"probability": 0.2, "flip": 0.1, "erase": 0.3})
    got = sample(config, seed=0, epoch=0, positions=np.arange(n))
    for changed, share in (
        (got.affine, 0.2), (got.jitter, 0.2), (got.affine & got.jitter, 0.04), (got.flip, 0.1), (got.erase, 0.3),
        (got.aspect < 1, 0.5),
    ):  # fmt: skip
        assert abs(changed.mean() - share) < 4 * np.sqrt(share * (1 - share) / n)
    ranges = {
        "angle": (-20, 20), "shift_x": (-0.1, 0.1), "shift_y": (-0.1, 0.1), "shear": (-10, 10),
        "scale": (0.8, 1.2), "brightness": (0.7, 1.3), "contrast": (0.7, 1.3), "area": (0.02, 0.33), "left": (0, 1),
        "top": (0, 1),
    }  # fmt: skip
    for name, (low, high) in ranges.items():
        values = getattr(got, name)
        near = (high - low) * 0.001
        assert low <= values.min() < low + near and high - near < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < (high - low) * 0.01


def test_without_augmentation_the_input_itself_is_returned() -> None:
    images = gray(3)
    assert run(images, Augment(probability=0.0)) is images
    assert run(images[:0]).shape == (0, 24, 32)


def test_images_without_changes_keep_their_values() -> None:
    images = gray(200)
    config = ALL.model_copy(update={"probability": 0.2, "flip": 0.2, "erase": 0.1})
    out = run(images, config)
    got = sample(config, seed=5, epoch=2, positions=np.arange(200))
    changed = (out != images).any(dim=2).any(dim=1).numpy()
    assert np.array_equal(changed, got.affine | got.jitter | got.flip | got.erase)
    assert 40 < changed.sum() < 160 and out.dtype == torch.float32


def test_ranges_of_zero_change_nothing() -> None:
    images = gray(4)
    assert torch.equal(run(images, Augment(probability=1.0, **NONE)), images.float())


def test_the_input_is_not_modified() -> None:
    for images in (gray(4), gray(4).float()):
        before = images.clone()
        run(images)
        assert torch.equal(images, before)


def test_uint8_and_float_images_give_the_same() -> None:
    assert torch.equal(run(gray(4)), run(gray(4).float()))


def test_flip_is_left_to_right() -> None:
    images = gray(3)
    assert torch.equal(run(images, Augment(probability=0.0, flip=1.0)), images.float().flip(-1))


def torchvisions(image: torch.Tensor, got: Parameters, i: int) -> torch.Tensor:
    """torchvision's result for one image [H, W] of values 0 to 255, for shifts by whole pixels."""
    height, width = image.shape
    x = image[None].float() / 255
    if got.flip[i]:
        x = V.horizontal_flip(x)
    if got.affine[i]:
        x = V.affine(
            x,
            angle=float(got.angle[i]),
            translate=[round(got.shift_x[i] * width), round(got.shift_y[i] * height)],
            scale=float(got.scale[i]),
            shear=[float(got.shear[i]), 0.0],
            interpolation=InterpolationMode.BILINEAR,
        )  # with a fill value torchvision would blend the outermost pixels twice
    if got.jitter[i]:
        x = V.adjust_contrast(V.adjust_brightness(x, float(got.brightness[i])), float(got.contrast[i]))
    return x[0] * 255


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (41, 23)])
@pytest.mark.parametrize(
    "hyperparameters",
    [
        {"degrees": 30}, {"shear": 20}, {"scale": 0.3}, {"brightness": 0.5}, {"contrast": 0.5},
        {"degrees": 30, "shear": 20, "scale": 0.3, "brightness": 0.5, "contrast": 0.5},
    ],
)  # fmt: skip
def test_one_image_equals_torchvisions(hyperparameters: dict[str, float], size: tuple[int, int]) -> None:
    config = Augment(**{"probability": 1.0, "flip": 0.5, **NONE, **hyperparameters})
    images = gray(6, size)
    # blurred, so that rounding of coordinates has little effect
    images = V.gaussian_blur(images, [5, 5])
    got = sample(config, seed=5, epoch=2, positions=np.arange(6))
    out = run(images, config)
    for i in range(6):
        assert torch.allclose(out[i], torchvisions(images[i], got, i), atol=0.02)
    assert out.min() >= 0.0 and out.max() <= 255.0


@pytest.mark.parametrize("size", [(20, 20), (20, 40)])
def test_shifts_by_whole_pixels_leave_black(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    config = Augment(**{"probability": 1.0, **NONE, "translate": 0.3})
    images = gray(1, size)
    got = sample(config, seed=0, epoch=0, positions=np.arange(1))
    right, down = 3, -2
    fixed = Parameters(**{**vars(got), "shift_x": np.array([right / size[1]]), "shift_y": np.array([down / size[0]])})
    monkeypatch.setattr("cxr_ray.training.augment.sample", lambda *_a, **_k: fixed)
    out = run(images, config)[0]
    expected = torch.zeros(size)
    expected[:down, right:] = images[0, -down:, :-right].float()
    assert torch.allclose(out, expected, atol=0.02)
    assert torch.allclose(out, torchvisions(images[0], fixed, 0), atol=0.02)


def test_there_must_be_one_position_per_image() -> None:
    with pytest.raises(ValueError, match="2 positions for images"):
        run(gray(3), positions=[0, 1])


@pytest.mark.parametrize("size", [(24, 40), (41, 23)])
def test_erasing_fills_one_rectangle_with_the_mean(size: tuple[int, int]) -> None:
    images = gray(40, size)
    config = Augment(probability=0.0, erase=1.0)
    got, out = sample(config, seed=5, epoch=2, positions=np.arange(40)), run(images, config)
    for i in range(40):
        # The changed pixels are the rectangle, since hardly any pixel equals the image's mean.
        changed = (out[i] != images[i]).nonzero()
        (top, left), (bottom, right) = changed.amin(0).tolist(), changed.amax(0).tolist()
        height, width = bottom - top + 1, right - left + 1
        inside = out[i, top : bottom + 1, left : right + 1]
        assert torch.allclose(inside, images[i].float().mean().expand_as(inside), atol=0.01)
        pixels = got.area[i] * size[0] * size[1]
        assert height == min(size[0], round((pixels / got.aspect[i]) ** 0.5))
        assert width == min(size[1], round((pixels * got.aspect[i]) ** 0.5))
        assert top == round(got.top[i] * (size[0] - height)) and left == round(got.left[i] * (size[1] - width))
    assert 0.1 < (out != images).float().mean() < 0.25  # on average 17.5% of the image, minus clipped parts


def test_erasing_comes_last_and_does_not_affect_other_changes() -> None:
    images, without = gray(30), ALL.model_copy(update={"erase": 0.0})
    plain, erased = run(images, without), run(images)
    got = sample(ALL, seed=5, epoch=2, positions=np.arange(30))
    assert torch.equal(plain[~torch.from_numpy(got.erase)], erased[~torch.from_numpy(got.erase)])
    for i in np.flatnonzero(got.erase):
        same = erased[i] == plain[i]
        assert 0.5 < same.float().mean() < 1.0 and len(erased[i][~same].unique()) == 1
