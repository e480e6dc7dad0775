"""What people give a predictor - arrays, tensors, Pillow images, paths - as batches of gray values 0 to 255. Runs no model."""
# N images, H x W pixels

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from cxr_ray import runs
from cxr_ray.data import store_format
from cxr_ray.data.store_format import ImageFormat
from cxr_ray.errors import Notice, UserError
from cxr_ray.imaging import decode
from cxr_ray.imaging.pixels import SCALE_8_TO_16, ImageError
from cxr_ray.storage.remote import to_path

File: TypeAlias = str | os.PathLike[str] | Image.Image
Images: TypeAlias = npt.NDArray[Any] | torch.Tensor | File | Sequence[File | npt.NDArray[Any]]

OVERSHOOT = 0.25
"""Values outside the range that resizing may cause, relative to the largest contrast: bicubic and Lanczos filters stay below it."""
DARK = 0.1
"""An image whose contrast is smaller than this share of the range has no overshoot worth mentioning: values below black are a mistake."""
SHAPES = "[H, W], [N, H, W] or [N, 1, H, W]"


def format_of_files(run: runs.Run | None, image_size: tuple[int, int]) -> ImageFormat:
    """How files are decoded for a model of `run`: as for the run's store. Without a run: to the model's `image_size`.

    That is also used, with a warning, if the store is not where the run trained on it."""
    if run is None:
        return ImageFormat(image_size)
    described = run.info["store"]
    try:
        manifest = store_format.read_manifest(to_path(described["path"]))
        if manifest.digest == described["fingerprint"]:
            return manifest.image_format
    except (UserError, OSError):
        pass
    warnings.warn(
        f"the store of the run {run.path.name} is not at {described['path']}: files are resized to "
        f"{image_size[0]} x {image_size[1]}, whatever their aspect ratio",
        Notice,
        stacklevel=2,
    )
    return ImageFormat(image_size)


def gray_batches(
    images: Images, format_of: Callable[[], ImageFormat], *, value_range: tuple[float, float], batch_size: int
) -> tuple[int, Iterator[npt.NDArray[Any]]]:
    """The number of images, and batches [n, H, W] of gray values 0 to 255, uint8 or float32, in order.

    Files and Pillow images are decoded to `format_of()`, a batch at a time. Arrays are uint8, other integers from 0 to 255, or
    float in `value_range` (black, white). Raises `UserError`, also while batches are taken."""
    if isinstance(images, str | os.PathLike | Image.Image):
        images = [images]
    if isinstance(images, np.ndarray | torch.Tensor):
        grays_NHW = _from_array(images, value_range)
        return len(grays_NHW), (grays_NHW[at : at + batch_size] for at in range(0, len(grays_NHW), batch_size))
    if not isinstance(images, Sequence):
        raise UserError(
            f"a predictor takes arrays {SHAPES}, Pillow images, and paths of image files, not {type(images).__name__}"
        )
    parts = (images[at : at + batch_size] for at in range(0, len(images), batch_size))
    return len(images), (_stacked([_one(image, format_of, value_range) for image in part]) for part in parts)


def _stacked(images: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Images of a list [n, H, W]. Raises `UserError` if their sizes differ."""
    if len(shapes := {image.shape for image in images}) > 1:
        raise UserError(f"the images of a list must have one size, got {' and '.join(map(str, sorted(shapes)))}")
    return np.stack(images)


def _one(image: Any, format_of: Callable[[], ImageFormat], value_range: tuple[float, float]) -> npt.NDArray[Any]:
    """One image of a list [H, W]."""
    if isinstance(image, np.ndarray | torch.Tensor):
        grays_NHW = _from_array(image, value_range)
        if len(grays_NHW) != 1:
            raise UserError(f"an array in a list must be one image [H, W], not {list(image.shape)}")
        return np.asarray(grays_NHW[0])
    if not isinstance(image, str | os.PathLike | Image.Image):
        raise UserError(
            f"a list of images may contain paths, Pillow images and arrays [H, W], not {type(image).__name__}"
        )
    return _decode(image, format_of())


def _decode(image: File, wanted: ImageFormat) -> npt.NDArray[Any]:
    """Gray values 0 to 255 [H, W] of a file or a Pillow image: uint8, or float32 at a depth of 16."""
    name = "the Pillow image" if isinstance(image, Image.Image) else os.fspath(image)
    try:
        if isinstance(image, Image.Image):
            decoded = decode.from_pillow(image, wanted.size, aspect=wanted.aspect, depth=wanted.depth)
        else:
            decoded = decode.decode(
                to_path(image).read_bytes(),
                wanted.size,
                aspect=wanted.aspect,
                depth=wanted.depth,
                exact_jpeg=wanted.exact_jpeg,
            )
    except ImageError as error:
        raise UserError(f"cannot use {name}: {error.reason}") from None
    except FileNotFoundError:
        raise UserError(
            f"no image file at {to_path(name).absolute()}; give the path of a PNG, JPEG, TIFF or DICOM"
        ) from None
    except IsADirectoryError:
        raise UserError(f"{name} is a folder; give the paths of its images as a list") from None
    except OSError as error:
        raise UserError(f"cannot read {name} ({error.strerror or error})") from None
    if wanted.depth == 8:
        return decoded.pixels
    return (decoded.pixels / SCALE_8_TO_16).astype(np.float32)


def _to_numpy(images: torch.Tensor) -> npt.NDArray[Any]:
    """The values of a tensor; numpy has no bfloat16."""
    plain = images.detach().cpu()
    return np.asarray((plain.float() if plain.dtype == torch.bfloat16 else plain).numpy())


def _from_array(images: npt.NDArray[Any] | torch.Tensor, value_range: tuple[float, float]) -> npt.NDArray[Any]:
    """Gray values 0 to 255 [N, H, W] of an array. Raises `UserError` for another shape, and values that cannot be in range."""
    array: npt.NDArray[Any] = _to_numpy(images) if isinstance(images, torch.Tensor) else images
    given = list(array.shape)
    if array.ndim == 4 and array.shape[1] == 1:
        array = array[:, 0]
    elif array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or (given[-1] in (3, 4) and len(given) == 3):
        raise UserError(f"an array must be {SHAPES}, got {given}; colour images: give their paths, or Pillow images")
    if array.dtype.kind not in "uif":
        raise UserError(f"an array must have integer or float values, not {array.dtype}")
    if array.dtype == np.uint8 or not array.size:
        return array
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        raise UserError("the images contain values that are not finite")
    if array.dtype.kind in "ui":
        if low < 0 or high > 255:
            raise UserError(
                f"gray values must be 0 to 255, and these are {low:g} to {high:g}: scale them, or give the file's path"
            )
        return array.astype(np.uint8)
    black, white = value_range
    # Only clear mistakes are refused: resizing overshoots by up to OVERSHOOT of the contrast, and an image may be dark.
    if white > 1.0 and high <= 1.0 and (low < 0.0 or high > 0.0):
        raise UserError(
            f"float images of this model are {black:g} to {white:g} (value_range), and the largest value is {high:g}: multiply them by "
            f"{white:g}, give uint8, or use a model of create_model(..., value_range=(0, 1))"
        )
    margin = OVERSHOOT * (high - low)
    dark = high < black + DARK * (white - black)
    if low < black - (0.0 if dark else margin) or high > white + margin:
        raise UserError(
            f"float images of this model are {black:g} to {white:g} (value_range), and these are {low:g} to {high:g}: undo their "
            "normalisation or scale them, give uint8, or give the file's path"
        )
    if (black, white) != (0.0, 255.0):
        array = (array - black) / (white - black) * 255.0
    return array.astype(np.float32)
