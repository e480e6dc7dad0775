"""Random augmentation of train images on their device: affine, flip, brightness, contrast, erasing. Normalisation: models/.

The parameters of an image depend only on (seed, epoch, position in the epoch): they are the same for any number of workers and
any split of a batch. Values remain gray levels 0 to 255.
"""
# N images, H height, W width, K images that a change applies to

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from cxr_ray.config import Augment
from cxr_ray.data.counter_rng import (
    AFFINE,
    AREA,
    ASPECT,
    BRIGHTNESS,
    COLUMNS,
    CONTRAST,
    ERASE,
    FLIP,
    JITTER,
    LEFT,
    ROTATE,
    SCALE,
    SHEAR,
    SHIFT_X,
    SHIFT_Y,
    TOP,
    uniforms,
)

FloatN = npt.NDArray[np.float64]
BoolN = npt.NDArray[np.bool_]

# Area as a share of the image, and width / height, of an erased rectangle (Zhong et al. 2020; torchvision's RandomErasing).
ERASED_AREA, ERASED_ASPECT = (0.02, 0.33), (0.3, 1 / 0.3)


@dataclass(frozen=True)
class Parameters:
    """Sampled parameters of N images. If `affine` (`jitter`) is false, its parameters are not used."""

    affine: BoolN
    angle: FloatN
    """Degrees, clockwise."""
    shift_x: FloatN
    """To the right, as a share of the width."""
    shift_y: FloatN
    """Downwards, as a share of the height."""
    shear: FloatN
    """Degrees, horizontal."""
    scale: FloatN
    """Scale factor."""
    jitter: BoolN
    brightness: FloatN
    """Factor of gray values."""
    contrast: FloatN
    """Factor of the differences from the image's mean."""
    flip: BoolN
    erase: BoolN
    area: FloatN
    """Erased area, as a share of the image."""
    aspect: FloatN
    """Width / height of the erased rectangle, in pixels."""
    left: FloatN
    """Position of the rectangle between the left and the right edge, 0 to 1."""
    top: FloatN
    """Position of the rectangle between the upper and the lower edge, 0 to 1."""


def augment(
    images_NHW: Tensor, config: Augment, *, seed: int, epoch: int, positions: npt.NDArray[np.int64] | Tensor
) -> Tensor:
    """Augmented images, float32 [N, H, W] of values 0 to 255, on the device of `images_NHW` (uint8 or float of the same range).

    `positions` [N] are positions in the epoch's order. The order is flip, affine change, brightness and contrast, erasing. The
    affine change is torchvision's `RandomAffine` (rotation about the centre, horizontal shear, scale, then shift; bilinear,
    black outside) with shifts by fractions of pixels. The jitter is torchvision's `ColorJitter` with brightness before contrast,
    clamped to 0 to 255 after each. Erasing fills a rectangle with the current mean of the image. Images without any change have
    exactly the same values; with augmentation off the input itself is returned. Raises `ValueError` unless there is one position
    per image."""
    if images_NHW.ndim != 3 or len(positions) != len(images_NHW):
        raise ValueError(
            f"{len(positions)} positions for images of shape {list(images_NHW.shape)}, not [N, H, W] with one position per image"
        )
    if not (config.probability or config.flip or config.erase) or not len(images_NHW):
        return images_NHW
    parameters = sample(config, seed=seed, epoch=epoch, positions=np.asarray(positions))
    out_NHW = images_NHW.to(torch.float32, copy=True)
    device = out_NHW.device
    changes = (
        (parameters.flip, _flip),
        (parameters.affine, _affine),
        (parameters.jitter, _jitter),
        (parameters.erase, _erase),
    )
    for changed_N, change in changes:
        where = np.flatnonzero(changed_N)
        if len(where):
            index = torch.from_numpy(where).to(device, non_blocking=True)
            out_NHW.index_copy_(0, index, change(out_NHW.index_select(0, index), parameters, where))
    return out_NHW


def sample(config: Augment, *, seed: int, epoch: int, positions: npt.NDArray[np.int64]) -> Parameters:
    """Parameters of the images at `positions` [N] of an epoch, each from its own random numbers."""
    u = uniforms(seed, epoch, positions, COLUMNS)

    def around(column: int, width: float, centre: float = 0.0) -> FloatN:
        return centre + width * (2.0 * u[:, column] - 1.0)

    has_affine = any((config.degrees, config.translate, config.shear, config.scale))
    has_jitter = any((config.brightness, config.contrast))
    return Parameters(
        affine=(u[:, AFFINE] < config.probability) & has_affine,
        angle=around(ROTATE, config.degrees),
        shift_x=around(SHIFT_X, config.translate),
        shift_y=around(SHIFT_Y, config.translate),
        shear=around(SHEAR, config.shear),
        scale=around(SCALE, config.scale, 1.0),
        jitter=(u[:, JITTER] < config.probability) & has_jitter,
        brightness=around(BRIGHTNESS, config.brightness, 1.0),
        contrast=around(CONTRAST, config.contrast, 1.0),
        flip=u[:, FLIP] < config.flip,
        erase=u[:, ERASE] < config.erase,
        area=ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * u[:, AREA],
        aspect=ERASED_ASPECT[0] * (ERASED_ASPECT[1] / ERASED_ASPECT[0]) ** u[:, ASPECT],
        left=u[:, LEFT],
        top=u[:, TOP],
    )


def _flip(images_KHW: Tensor, p: Parameters, where: npt.NDArray[np.intp]) -> Tensor:
    return images_KHW.flip(-1)


def _affine(images_KHW: Tensor, p: Parameters, where: npt.NDArray[np.intp]) -> Tensor:
    """[K, H, W] resampled once, by the inverse map from pixels of the result to pixels of the source."""
    height, width = images_KHW.shape[-2:]
    angle, shear, scale = np.deg2rad(p.angle[where]), np.deg2rad(p.shear[where]), p.scale[where]
    # Forward: source -> result is scale * R(angle) * [[1, -tan shear], [0, 1]] about the centre, then the shift (in
    # pixels, so that a non-square image is rotated, not skewed). Its matrix without the scale has determinant 1.
    a, b = np.cos(angle), -np.cos(angle) * np.tan(shear) - np.sin(angle)
    c, d = np.sin(angle), -np.sin(angle) * np.tan(shear) + np.cos(angle)
    inverse = np.stack([d, -b, -c, a], axis=1) / scale[:, None]
    # grid_sample uses coordinates from -1 to 1: the matrix is scaled once per image instead of once per pixel.
    inverse *= np.array([2.0 / width, 2.0 / width, 2.0 / height, 2.0 / height])
    shift = np.stack([p.shift_x[where] * width, p.shift_y[where] * height], axis=1)
    numbers = np.concatenate([inverse, shift], axis=1).astype(np.float32)
    xx, xy, yx, yy, dx, dy = (
        torch.from_numpy(numbers).to(images_KHW.device, non_blocking=True)[:, :, None, None].unbind(1)
    )
    x = torch.arange(width, dtype=torch.float32, device=images_KHW.device)[None, None, :] - (width - 1) / 2 - dx
    y = torch.arange(height, dtype=torch.float32, device=images_KHW.device)[None, :, None] - (height - 1) / 2 - dy
    # Plain products, not a batched matrix product: their rounding does not depend on the number of images.
    grid = torch.empty((len(where), height, width, 2), dtype=torch.float32, device=images_KHW.device)
    torch.add(xx * x, xy * y, out=grid[..., 0])
    torch.add(yx * x, yy * y, out=grid[..., 1])
    moved = F.grid_sample(images_KHW[:, None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return moved[:, 0]


def _jitter(images_KHW: Tensor, p: Parameters, where: npt.NDArray[np.intp]) -> Tensor:
    """[K, H, W] with gray values scaled by `brightness`, then differences from the mean by `contrast`."""
    numbers = np.stack([p.brightness[where], p.contrast[where]], axis=1).astype(np.float32)
    brightness, contrast = (
        torch.from_numpy(numbers).to(images_KHW.device, non_blocking=True)[:, :, None, None].unbind(1)
    )
    brightened = (images_KHW * brightness).clamp_(0.0, 255.0)
    mean = _mean(brightened)
    return brightened.sub_(mean).mul_(contrast).add_(mean).clamp_(0.0, 255.0)


def _erase(images_KHW: Tensor, p: Parameters, where: npt.NDArray[np.intp]) -> Tensor:
    """[K, H, W] with a rectangle of each filled with its mean; larger rectangles are clipped to the image."""
    height, width = images_KHW.shape[-2:]
    pixels, aspect = p.area[where] * height * width, p.aspect[where]
    rect_height = np.clip(np.rint(np.sqrt(pixels / aspect)), 1, height)
    rect_width = np.clip(np.rint(np.sqrt(pixels * aspect)), 1, width)
    top, left = np.rint(p.top[where] * (height - rect_height)), np.rint(p.left[where] * (width - rect_width))
    edges = np.stack([top, top + rect_height, left, left + rect_width], axis=1).astype(np.int64)
    y0, y1, x0, x1 = torch.from_numpy(edges).to(images_KHW.device, non_blocking=True)[:, :, None, None].unbind(1)
    y = torch.arange(height, device=images_KHW.device)[None, :, None]
    x = torch.arange(width, device=images_KHW.device)[None, None, :]
    inside = (y >= y0) & (y < y1) & (x >= x0) & (x < x1)
    return torch.where(inside, _mean(images_KHW), images_KHW)


def _mean(images_KHW: Tensor) -> Tensor:
    """Means [K, 1, 1]: of rows, then of those, so that the rounding does not depend on the number of images."""
    return images_KHW.mean(dim=2, keepdim=True).mean(dim=1, keepdim=True)
