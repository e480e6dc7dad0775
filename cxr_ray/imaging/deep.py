"""Images of more than 8 bits per sample, by the depth that the file declares: Pillow reduces some to 8 bits without a word.

Pillow opens 16-bit gray as mode I;16, but keeps only the high byte of each sample of 16-bit colour and of gray with alpha. Its
decoders are asked for the other bytes too. It neither inverts deep TIFFs that are white at zero nor reads 32 bits as unsigned.
What it would read wrongly is refused. Windowing is in `decode.py`.
"""
# H, W height and width of the image; S samples of a pixel

import io
import sys
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin, TiffImagePlugin

from cxr_ray.imaging.pixels import ImageError

MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
"""Pillow's modes of more than 8 bits per pixel."""
SUBFILE, WIDTH, HEIGHT, BITS, PHOTOMETRIC, PLANAR, EXTRA, FORMAT = 254, 256, 257, 258, 262, 284, 338, 339
"""TIFF tags (TIFF 6.0)."""
UNSIGNED, SIGNED = 1, 2
"""TIFF sample formats."""
OTHER_BYTE = {";16B": ";16L", ";16L": ";16B", ";16N": ";16B" if sys.byteorder == "little" else ";16L"}
"""Pillow's raw modes take the high byte of samples in big-endian (B), little-endian (L) or native (N) order: the other one takes the
low byte."""
BLOCK_ROWS = 256
"""Rows that are converted at a time, so that intermediate values need little memory."""


@dataclass(frozen=True, eq=False)
class DeepPixels:
    """A deep image as one plane of gray values, before it is windowed."""

    value_HW: npt.NDArray[Any]
    """Gray values: the samples themselves, or the luma of colour."""
    stored: npt.NDArray[Any]
    """The samples in the file, [H, W] or [H, W, S]."""
    alpha_HW: npt.NDArray[np.uint16] | None = None
    """Opacity: 0 transparent, 65535 opaque. None: opaque."""
    white_at_zero: bool = False
    """The lowest value is white."""


def read_deep(image: Image.Image) -> DeepPixels | None:
    """The pixels of an image that is deeper than 8 bits, opened or loaded; None for all others.

    Raises `ImageError` (unsupported pixel kind) for what is not read exactly. Of colour that was loaded before, Pillow has dropped the
    low bytes, and the image counts as one of 8 bits."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiff(image)
    if image.mode in MODES:
        return _single(image)
    raw_mode = _raw_mode(image)
    if not raw_mode.endswith(tuple(OTHER_BYTE)):
        return None
    if raw_mode.startswith("LA"):
        return _gray_with_alpha(image)
    return _colour(image, raw_mode)


def has_tiff_directory(data: bytes) -> bool:
    """Whether the bytes are those of a TIFF with a legible directory. Pillow calls one of a kind that it does not know damaged."""
    if not data.startswith((b"II", b"MM")):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            directory = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if 43 in data[2:4] else 8])  # 43: BigTIFF
            file = io.BytesIO(data)
            file.seek(directory.next)
            directory.load(file)
            return {WIDTH, HEIGHT, PHOTOMETRIC} <= set(directory)
    except Exception:  # Pillow's readers raise anything on damaged bytes
        return False


def _check_tiff(image: TiffImagePlugin.TiffImageFile) -> None:
    """Raises `ImageError` for the TIFFs that Pillow opens and reads wrongly."""
    tags = image.tag_v2
    bits, sample_format = max(tags.get(BITS, (1,))), tags.get(FORMAT, (UNSIGNED,))[0]
    colour = image.mode not in MODES
    swapped = tags.prefix == b"MM" and image.info.get("compression") != "raw" and sys.byteorder == "little"
    if (bits == 8 and sample_format == SIGNED) or (
        bits > 8
        and (
            (colour and (tags.get(PLANAR, 1) != 1 or not _raw_mode(image).startswith(("RGB;", "RGBA;", "RGBX;"))))
            or (colour and len(tags.get(BITS, ())) == 4 and not tags.get(EXTRA))
            or (swapped and _raw_mode(image).endswith(("BS", "BF")))  # libtiff has put them into native order already
        )
    ):
        raise ImageError("unsupported pixel kind")


def _raw_mode(image: Image.Image) -> str:
    """How Pillow's decoder will unpack the file; an empty string for an image that is loaded or of no file."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return ""
    args = tiles[0][3]
    return str(args[0] if isinstance(args, tuple) else args)


def _single(image: Image.Image) -> DeepPixels:
    """One deep sample per pixel."""
    image.load()
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", None)
    if tags is not None:
        if image.mode == "I" and tags.get(BITS) == (32,) and tags.get(FORMAT, (UNSIGNED,))[0] == UNSIGNED:
            values = values.view(np.uint32)
        return DeepPixels(values, values, white_at_zero=tags.get(PHOTOMETRIC, 1) == 0)
    transparent = image.info.get("transparency")
    if image.format == "PNG" and isinstance(transparent, int):
        return DeepPixels(values, values, np.where(values == transparent, 0, 65535).astype(np.uint16))
    return DeepPixels(values, values)


def _gray_with_alpha(image: Image.Image) -> DeepPixels:
    """A 16-bit gray PNG with alpha: the four bytes of a pixel as if they were the samples of an 8-bit RGBA."""
    assert isinstance(image, PngImagePlugin.PngImageFile)
    image.tile = [_with_raw_mode(tile, "RGBA") for tile in image.tile]
    image.load()
    samples = np.ascontiguousarray(np.asarray(image)).view(">u2").astype(np.uint16)  # [H, W, 2]
    return DeepPixels(samples[..., 0], samples, samples[..., 1])


def _colour(image: Image.Image, raw_mode: str) -> DeepPixels:
    """RGB or RGBA of 16 bits: the file is decoded twice, once for the high and once for the low bytes."""
    suffix = raw_mode[-4:]
    file = image.fp  # type: ignore[attr-defined]
    file.seek(0)
    data = file.read()
    image.load()
    high = np.asarray(image)
    with Image.open(io.BytesIO(data), formats=[str(image.format)]) as again:
        again.seek(image.tell())
        again.tile = [_with_raw_mode(tile, raw_mode[:-4] + OTHER_BYTE[suffix]) for tile in again.tile]
        again.load()
        low = np.asarray(again)
    samples = high.astype(np.uint16)
    samples <<= 8
    samples |= low
    luma = np.empty(samples.shape[:2], np.uint16)
    for start in range(0, len(luma), BLOCK_ROWS):
        rgb = samples[start : start + BLOCK_ROWS, :, :3].astype(np.uint32)
        # ITU-R 601 as Pillow computes it; the weights sum to 2^16, so that gray stays what it is.
        total = rgb[..., 0] * 19595 + rgb[..., 1] * 38470 + rgb[..., 2] * 7471 + 0x8000
        luma[start : start + BLOCK_ROWS] = total >> 16
    alpha = samples[..., 3] if samples.shape[2] == 4 else None
    transparent = image.info.get("transparency")
    if image.format == "PNG" and isinstance(transparent, tuple):
        alpha = np.where((samples == np.array(transparent, np.uint16)).all(-1), 0, 65535).astype(np.uint16)
    return DeepPixels(luma, samples, alpha)


def _with_raw_mode(tile: Any, raw_mode: str) -> Any:
    args = tile[3]
    return tile._replace(args=(raw_mode, *args[1:]) if isinstance(args, tuple) else raw_mode)
