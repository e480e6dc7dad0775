"""Random changes of train images on their own device: affine, flip, brightness, contrast, erasing, each image by itself.

What an image gets hangs on (seed, epoch, position in the epoch) alone, so it is the same at any number of workers and
however a batch is cut. Values stay gray levels 0 to 255; scaling and normalisation are the classifier's.
"""
# N images, H height, W width, K chosen images

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

# Share of the image, and width over height, of what is erased (Zhong et al. 2020; torchvision's RandomErasing).
ERASED_AREA, ERASED_ASPECT = (0.02, 0.33), (0.3, 1 / 0.3)


@dataclass(frozen=True)
class Draws:
    """What each of N images gets. Where `affine` (`jitter`) is false, its numbers are drawn and not used."""

    affine: BoolN
    angle: FloatN
    """Degrees, clockwise as the image is seen."""
    shift_x: FloatN
    """Share of the width, to the right."""
    shift_y: FloatN
    """Share of the height, downwards."""
    shear: FloatN
    """Degrees, horizontal."""
    scale: FloatN
    """Factor of size."""
    jitter: BoolN
    brightness: FloatN
    """Factor of gray values."""
    contrast: FloatN
    """Factor of differences from the image's mean."""
    flip: BoolN
    erase: BoolN
    area: FloatN
    """Share of the image that is erased."""
    aspect: FloatN
    """Width over height of what is erased, in pixels."""
    left: FloatN
    """Where it stands between the left and the right edge, 0 to 1."""
    top: FloatN
    """Where it stands between the upper and the lower edge, 0 to 1."""


def augment(
    images_NHW: Tensor, config: Augment, *, seed: int, epoch: int, positions: npt.NDArray[np.int64] | Tensor
) -> Tensor:
    """Float32 [N, H, W] of values 0 to 255 on the device of `images_NHW`, which are uint8 or float of the same scale.

    `positions` [N] are places in the epoch's order. First a flip, then the affine change, then brightness and contrast, then
    erasing. The affine change is torchvision's `RandomAffine` (rotation about the centre, horizontal shear, scale, then shift;
    bilinear, black outside) with shifts of parts of pixels; the jitter is torchvision's `ColorJitter` with brightness before
    contrast, values cut to 0 to 255 after each; erasing fills a rectangle with the mean that the image then has. Images that
    get nothing keep their values exactly; with nothing turned on the images are returned as they are. Raises `ValueError` where there is not one position an image."""
    if images_NHW.ndim != 3 or len(positions) != len(images_NHW):
        raise ValueError(
            f"{len(positions)} positions for images of shape {list(images_NHW.shape)}, which should be [N, H, W]"
        )
    if not (config.probability or config.flip or config.erase) or not len(images_NHW):
        return images_NHW
    draws = draw(config, seed=seed, epoch=epoch, positions=np.asarray(positions))
    out_NHW = images_NHW.to(torch.float32, copy=True)
    device = out_NHW.device
    changes = ((draws.flip, _flip), (draws.affine, _affine), (draws.jitter, _jitter), (draws.erase, _erase))
    for chosen, change in changes:
        where = np.flatnonzero(chosen)
        if len(where):
            index = torch.from_numpy(where).to(device, non_blocking=True)
            out_NHW.index_copy_(0, index, change(out_NHW.index_select(0, index), draws, where))
    return out_NHW


def draw(config: Augment, *, seed: int, epoch: int, positions: npt.NDArray[np.int64]) -> Draws:
    """What the images at `positions` [N] of an epoch get, each from its own numbers."""
    u = uniforms(seed, epoch, positions, COLUMNS)

    def around(column: int, width: float, centre: float = 0.0) -> FloatN:
        return centre + width * (2.0 * u[:, column] - 1.0)

    geometry = any((config.degrees, config.translate, config.shear, config.scale))
    light = any((config.brightness, config.contrast))
    return Draws(
        affine=(u[:, AFFINE] < config.probability) & geometry,
        angle=around(ROTATE, config.degrees),
        shift_x=around(SHIFT_X, config.translate),
        shift_y=around(SHIFT_Y, config.translate),
        shear=around(SHEAR, config.shear),
        scale=around(SCALE, config.scale, 1.0),
        jitter=(u[:, JITTER] < config.probability) & light,
        brightness=around(BRIGHTNESS, config.brightness, 1.0),
        contrast=around(CONTRAST, config.contrast, 1.0),
        flip=u[:, FLIP] < config.flip,
        erase=u[:, ERASE] < config.erase,
        area=ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * u[:, AREA],
        aspect=ERASED_ASPECT[0] * (ERASED_ASPECT[1] / ERASED_ASPECT[0]) ** u[:, ASPECT],
        left=u[:, LEFT],
        top=u[:, TOP],
    )


def _flip(images_KHW: Tensor, draws: Draws, where: npt.NDArray[np.intp]) -> Tensor:
    return images_KHW.flip(-1)


def _affine(images_KHW: Tensor, draws: Draws, where: npt.NDArray[np.intp]) -> Tensor:
    """[K, H, W] resampled once: for each pixel of the result, where it comes from."""
    height, width = images_KHW.shape[-2:]
    angle, shear, scale = np.deg2rad(draws.angle[where]), np.deg2rad(draws.shear[where]), draws.scale[where]
    # Forward: source -> result is scale * R(angle) * [[1, -tan shear], [0, 1]] about the centre, then the shift (in
    # pixels, so that a non-square image is turned, not skewed). Its matrix without the scale has determinant 1.
    a, b = np.cos(angle), -np.cos(angle) * np.tan(shear) - np.sin(angle)
    c, d = np.sin(angle), -np.sin(angle) * np.tan(shear) + np.cos(angle)
    back = np.stack([d, -b, -c, a], axis=1) / scale[:, None]
    # grid_sample counts from -1 to 1: rows of the matrix are scaled here, once an image and not once a pixel.
    back *= np.array([2.0 / width, 2.0 / width, 2.0 / height, 2.0 / height])
    shift = np.stack([draws.shift_x[where] * width, draws.shift_y[where] * height], axis=1)
    numbers = np.concatenate([back, shift], axis=1).astype(np.float32)
    xx, xy, yx, yy, dx, dy = (
        torch.from_numpy(numbers).to(images_KHW.device, non_blocking=True)[:, :, None, None].unbind(1)
    )
    x = torch.arange(width, dtype=torch.float32, device=images_KHW.device)[None, None, :] - (width - 1) / 2 - dx
    y = torch.arange(height, dtype=torch.float32, device=images_KHW.device)[None, :, None] - (height - 1) / 2 - dy
    # Plain products, not a batched matrix product: their rounding does not hang on how many images there are.
    grid = torch.empty((len(where), height, width, 2), dtype=torch.float32, device=images_KHW.device)
    torch.add(xx * x, xy * y, out=grid[..., 0])
    torch.add(yx * x, yy * y, out=grid[..., 1])
    moved = F.grid_sample(images_KHW[:, None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return moved[:, 0]


def _jitter(images_KHW: Tensor, draws: Draws, where: npt.NDArray[np.intp]) -> Tensor:
    """[K, H, W] with gray values times `brightness`, then differences from the mean times `contrast`."""
    numbers = np.stack([draws.brightness[where], draws.contrast[where]], axis=1).astype(np.float32)
    brightness, contrast = (
        torch.from_numpy(numbers).to(images_KHW.device, non_blocking=True)[:, :, None, None].unbind(1)
    )
    lit = (images_KHW * brightness).clamp_(0.0, 255.0)
    mean = _mean(lit)
    return lit.sub_(mean).mul_(contrast).add_(mean).clamp_(0.0, 255.0)


def _erase(images_KHW: Tensor, draws: Draws, where: npt.NDArray[np.intp]) -> Tensor:
    """[K, H, W] with a rectangle of each filled with its mean; a rectangle that would stand out is cut to the image."""
    height, width = images_KHW.shape[-2:]
    pixels, aspect = draws.area[where] * height * width, draws.aspect[where]
    tall = np.clip(np.rint(np.sqrt(pixels / aspect)), 1, height)
    broad = np.clip(np.rint(np.sqrt(pixels * aspect)), 1, width)
    top, left = np.rint(draws.top[where] * (height - tall)), np.rint(draws.left[where] * (width - broad))
    edges = np.stack([top, top + tall, left, left + broad], axis=1).astype(np.int64)
    y0, y1, x0, x1 = torch.from_numpy(edges).to(images_KHW.device, non_blocking=True)[:, :, None, None].unbind(1)
    y = torch.arange(height, device=images_KHW.device)[None, :, None]
    x = torch.arange(width, device=images_KHW.device)[None, None, :]
    inside = (y >= y0) & (y < y1) & (x >= x0) & (x < x1)
    return torch.where(inside, _mean(images_KHW), images_KHW)


def _mean(images_KHW: Tensor) -> Tensor:
    """[K, 1, 1]: rows first, then their means: a sum within one image, whatever the number of images."""
    return images_KHW.mean(dim=2, keepdim=True).mean(dim=1, keepdim=True)
