"""Bytes of an image file to one gray plane of 8 or 16 bits, resized once. Which files are read, and when, is decided elsewhere.

The same rules for every format: one frame, not counting previews; rotated by EXIF; colour to gray by ITU-R 601 luma; transparent
pixels composited on black; images of more than 8 bits per sample (`deep.py`) scaled from their own minimum (0) to their own
maximum (255), of the pixels that are not transparent; large JPEGs decoded at 1/2, 1/4 or 1/8 if that is still at least twice the
requested size, unless `exact_jpeg`; resampled with Pillow's bilinear filter, which widens its support when it shrinks
(antialiased). Gray values of a DICOM come from `dicom.py`. At a depth of 16, everything between windowing and storing is float32
on a scale of 0 to 65535, so that the gray levels of deep images are preserved.
"""
# H, W height and width of the stored image

import io
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from cxr_ray.imaging import dicom
from cxr_ray.imaging.deep import SUBFILE, DeepPixels, has_tiff_directory, read_deep
from cxr_ray.imaging.pixels import (
    MAX_GRAY,
    Aspect,
    DecodedImage,
    Depth,
    ImageError,
    Pixels,
    Plane,
    Transform,
    refuse_lost,
    to_16_bit,
)

Box = tuple[float, float, float, float]
"""left, top, right, bottom."""

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "GIF", "WEBP")
"""Formats that are tried on a file; its name and extension are never trusted."""

MAX_PIXELS = 178_000_000
"""Pixels of the largest image that is decoded, according to its header. Pillow itself refuses from 178,956,970."""

DRAFT_GAP = 2
"""A JPEG is decoded at least this many times larger than its target: a factor of 1 doubled the error and saved no time."""

DRAFT_BOUNDS = {64: 24, 96: 13, 112: 13, 128: 15, 160: 18, 224: 10, 299: 10, 320: 1, 384: 1, 512: 1}
"""Largest difference, in gray values, of a JPEG that is decoded small from a full decode, by the side of a square target: measured
on 60 JPEGs of the web with sides of 294 to 1,280 pixels, 18 of which differ by more than 2 at 64 pixels. At edges such as letters;
the mean over an image is below 0.45. From 320 pixels on, few of them are large enough to be decoded small."""

ORIENTATION = 0x0112  # EXIF tag

ROTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by its EXIF orientation."""

SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*", b"GIF8", b"RIFF")

JPEG_FORMATS = ("JPEG", "MPO")
"""MPO: a JPEG of a phone or camera that is followed by others, such as a preview. Pillow opens it as a JPEG's kind."""


def decode(
    data: bytes,
    size: tuple[int, int],
    *,
    aspect: Aspect = "squash",
    depth: Depth = 8,
    exact_jpeg: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> DecodedImage:
    """One gray image of `size` (H, W) and `depth` bits per pixel from the bytes of a file.

    `aspect`: squash (both sides to size), pad (complete image, black bars), center_crop (torchvision's Resize of the short
    side, then CenterCrop). `exact_jpeg`: decode JPEGs at full size, however large. Raises `ImageError`: empty file, not an image,
    truncated, damaged, several frames, no pixels, over the pixel cap, unsupported pixel kind, values not finite, `ONE_GRAY`; for a
    DICOM also the reasons of `dicom.read_gray`.
    """
    if not data:
        raise ImageError("empty file")
    try:
        with (
            warnings.catch_warnings()
        ):  # Pillow warns of 89 megapixels and of damaged metadata; the cap here is our own
            warnings.simplefilter("ignore")
            if data.startswith((b"II", b"MM")):  # an entry that is cut off may be the one that says what a sample is
                warnings.filterwarnings("error", message="Corrupt EXIF data")
            if dicom.is_dicom(data):
                plane = dicom.read_gray(data, max_pixels=min(max_pixels, MAX_PIXELS), depth=depth)
                return _stored(plane, (plane.gray.height, plane.gray.width), size, aspect)
            return _decode(data, size, aspect, depth, exact_jpeg, min(max_pixels, MAX_PIXELS))
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError("over the pixel cap") from None
    except UnidentifiedImageError:
        if has_tiff_directory(data):
            raise ImageError("unsupported pixel kind") from None
        raise ImageError("damaged" if data.startswith(SIGNATURES) else "not an image") from None
    except MemoryError:
        raise
    except Exception as error:
        # On damaged bytes Pillow's decoders raise anything: OSError, SyntaxError, struct.error...
        truncated = isinstance(error, EOFError) or "truncated" in str(error).lower()
        raise ImageError("truncated" if truncated else "damaged") from None


def from_pillow(
    image: Image.Image, size: tuple[int, int], *, aspect: Aspect = "squash", depth: Depth = 8
) -> DecodedImage:
    """One gray image of `size` (H, W) and `depth` bits per pixel from an opened Pillow image (its current frame), by the rules of
    `decode`. Raises `ImageError`."""
    try:
        plane = _plane(image, depth)
        orientation = image.getexif().get(ORIENTATION, 1)
    except ImageError:
        raise
    except Exception as error:  # damaged bytes, see `decode`
        raise ImageError("truncated" if "truncated" in str(error).lower() else "damaged") from None
    if orientation in ROTATIONS:
        plane = replace(plane, gray=plane.gray.transpose(ROTATIONS[orientation]))
    if not plane.gray.width * plane.gray.height:
        raise ImageError("no pixels")
    return _stored(plane, (plane.gray.height, plane.gray.width), size, aspect)


def _decode(
    data: bytes, size: tuple[int, int], aspect: Aspect, depth: Depth, exact_jpeg: bool, max_pixels: int
) -> DecodedImage:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if not image.width * image.height:
            raise ImageError("no pixels")
        if image.width * image.height > max_pixels:
            raise ImageError("over the pixel cap")
        if getattr(image, "n_frames", 1) > 1:
            _skip_previews(image)
        true_width, true_height = image.size
        box: Box | None = None
        if image.format in JPEG_FORMATS and not exact_jpeg:
            sideways = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
            target = _resized(true_height, true_width, size[::-1] if sideways else size, aspect)
            draft = image.draft("L", (DRAFT_GAP * target[1], DRAFT_GAP * target[0]))
            if draft is not None:
                box = draft[1]  # the true extent: at odd sizes a fraction of a pixel less than the draft image
        plane = _plane(image, depth)
        orientation = image.getexif().get(ORIENTATION, 1)
    gray = plane.gray
    if box is None or (gray.width, gray.height) == (true_width, true_height):
        box = (0.0, 0.0, float(gray.width), float(gray.height))
    if orientation in ROTATIONS:
        width, height = gray.size
        gray, box = gray.transpose(ROTATIONS[orientation]), _rotate_box(box, width, height, orientation)
        if orientation >= 5:
            true_width, true_height = true_height, true_width
    elif image.format == "TIFF" and gray.size == (true_height, true_width):
        true_width, true_height = gray.size  # Pillow rotated it while loading
    return _stored(replace(plane, gray=gray), (true_height, true_width), size, aspect, box)


def _skip_previews(image: Image.Image) -> None:
    """Raises `ImageError` unless the first frame is the image and all others are smaller copies of it, or masks."""
    if image.format == "MPO":
        return
    if image.format == "TIFF":
        for frame in range(1, image.n_frames):  # type: ignore[attr-defined]
            image.seek(frame)
            if not int(image.tag_v2.get(SUBFILE, 0)) & 0b101:  # type: ignore[attr-defined]
                break
        else:
            image.seek(0)
            return
    raise ImageError("several frames")


def _stored(
    plane: Plane, true_size: tuple[int, int], size: tuple[int, int], aspect: Aspect, box: Box | None = None
) -> DecodedImage:
    """The part `box` (None: all) of an upright plane, resized. `true_size` (H, W) is the file's. Raises `ImageError`."""
    height, width = true_size
    box = box or (0.0, 0.0, float(plane.gray.width), float(plane.gray.height))
    pixels, transform = _fit(plane.gray, box, height, width, size, aspect)
    return DecodedImage(pixels, height, width, transform, plane.window)


def _plane(image: Image.Image, depth: Depth) -> Plane:
    """The image in mode L, or in mode F from 0 to 65535, and its window."""
    deep = read_deep(image)
    if deep is not None:
        return _window(deep, depth)
    image.load()
    gray = _luma(image)
    if gray is not image:
        refuse_lost(gray, image)
    return Plane(gray if depth == 8 else to_16_bit(gray))


def _luma(image: Image.Image) -> Image.Image:
    try:
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
            return Image.alpha_composite(black, rgba).convert("L")
        if image.mode == "L":
            return image
        if image.mode in ("1", "RGB", "YCbCr"):
            return image.convert("L")
        return image.convert("RGB").convert("L")
    except ValueError:
        raise ImageError("unsupported pixel kind") from None


def _window(deep: DeepPixels, depth: Depth) -> Plane:
    """A deep image scaled from its minimum (black) to its maximum (white), and these two; transparent pixels black."""
    value_HW, alpha_HW, white = deep.value_HW, deep.alpha_HW, MAX_GRAY[depth]
    seen = value_HW if alpha_HW is None else value_HW[alpha_HW > 0]
    low, high = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 0.0)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError("values not finite")
    if value_HW.dtype.kind in "ui" and low >= 0 and value_HW.max() <= 65535:  # a table is exact and the fastest
        values, at = np.arange(65536, dtype=np.float64), value_HW
    else:
        values, at = value_HW.astype(np.float64), None
    shade = np.clip((values - low) * (white / (high - low) if high > low else 0.0), 0, white)
    shade = white - shade if deep.white_at_zero else shade
    if alpha_HW is not None:
        shade = (shade if at is None else shade.astype(np.float32)[at]) * (alpha_HW / np.float32(65535))
        at = None
    gray = _quantized(shade, depth)
    window = (high, low) if deep.white_at_zero else (low, high)
    plane = Plane(Image.fromarray(gray if at is None else gray[at]), window)
    refuse_lost(plane.gray, deep.stored)
    return plane


def _quantized(grays: npt.NDArray[np.floating[Any]], depth: Depth) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]:
    """Rounded to uint8; at a depth of 16 still float32, rounded after resizing."""
    return np.rint(grays).astype(np.uint8) if depth == 8 else grays.astype(np.float32)


def _rotate_box(box: Box, width: int, height: int, orientation: int) -> Box:
    """`box` of a [height, width] image after the rotation of EXIF `orientation`."""
    left, top, right, bottom = box
    if orientation in (2, 3, 7, 8):  # the right edge of the file gets the low coordinate
        left, right = width - right, width - left
    if orientation in (3, 4, 6, 7):
        top, bottom = height - bottom, height - top
    return (top, left, bottom, right) if orientation >= 5 else (left, top, right, bottom)


def _resized(height: int, width: int, size: tuple[int, int], aspect: Aspect) -> tuple[int, int]:
    """(H, W) that the complete image is resized to, before padding or cropping."""
    target_height, target_width = size
    if aspect == "squash":
        return size
    by_height = (target_height * width >= target_width * height) == (aspect == "center_crop")
    if by_height:  # the height meets its target; the width follows, rounded down as in torchvision
        return target_height, max(1, target_height * width // height)
    return max(1, target_width * height // width), target_width


def _fit(
    gray: Image.Image, box: Box, true_height: int, true_width: int, size: tuple[int, int], aspect: Aspect
) -> tuple[Pixels, Transform]:
    """The part `box` of `gray`, resized to `size`, and where pixels of the original [true_height, true_width] are in it."""
    height, width = _resized(true_height, true_width, size, aspect)
    pixels: Pixels = np.asarray(gray.resize((width, height), Image.Resampling.BILINEAR, box=box))
    if gray.mode == "F":
        pixels = np.rint(np.clip(pixels, 0, 65535)).astype(np.uint16)
    top, left = (size[0] - height) / 2, (size[1] - width) / 2
    if aspect == "pad":
        top, left = int(top), int(left)
        canvas = np.zeros(size, pixels.dtype)
        canvas[top : top + height, left : left + width] = pixels
        pixels = canvas
    elif aspect == "center_crop":
        top, left = -round(-top), -round(-left)  # torchvision rounds the width of the cropped edge
        pixels = pixels[-top : size[0] - top, -left : size[1] - left]
    stored: Pixels = np.ascontiguousarray(pixels)
    return stored, Transform(height / true_height, width / true_width, float(top), float(left))
