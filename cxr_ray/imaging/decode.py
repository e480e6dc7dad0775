"""Bytes of an image file to one gray plane of 8 or 16 bits, resized once. Which files are read, and when, is decided elsewhere.

The same rules for every format: one frame; rotated by EXIF; colour to gray by ITU-R 601 luma; transparent pixels composited on
black; images of more than 8 bits per pixel scaled from their own minimum (0) to their own maximum (255), because Pillow's
`convert("L")` saturates them; large JPEGs decoded at 1/2, 1/4 or 1/8 if that is still at least twice the requested size (within
2 gray values of a full decode); resampled with Pillow's bilinear filter, which widens its support when it shrinks (antialiased).
Gray values of a DICOM come from `dicom.py`. At a depth of 16, everything between windowing and storing is float32 on a scale of
0 to 65535, so that the gray levels of deep images are preserved.
"""
# H, W height and width of the stored image

import io
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from cxr_ray.imaging import dicom
from cxr_ray.imaging.pixels import MAX_GRAY, Aspect, DecodedImage, Depth, ImageError, Pixels, Transform, to_16_bit

Box = tuple[float, float, float, float]
"""left, top, right, bottom."""

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "GIF", "WEBP")
"""Formats that are tried on a file; its name and extension are never trusted."""

MAX_PIXELS = 178_000_000
"""Pixels of the largest image that is decoded, according to its header. Pillow itself refuses from 178,956,970."""

DRAFT_GAP = 2
"""A JPEG is decoded at least this many times larger than its target: a factor of 1 doubled the error and saved no time."""

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

DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")  # Pillow's modes of more than 8 bits per pixel


def decode(
    data: bytes, size: tuple[int, int], *, aspect: Aspect = "squash", depth: Depth = 8, max_pixels: int = MAX_PIXELS
) -> DecodedImage:
    """One gray image of `size` (H, W) and `depth` bits per pixel from the bytes of a file.

    `aspect`: squash (both sides to size), pad (complete image, black bars), center_crop (torchvision's Resize of the short
    side, then CenterCrop). Raises `ImageError`: empty file, not an image, truncated, damaged, several frames, no pixels, over
    the pixel cap, unsupported pixel kind, values not finite; for a DICOM also the reasons of `dicom.read_gray`.
    """
    if not data:
        raise ImageError("empty file")
    try:
        with (
            warnings.catch_warnings()
        ):  # Pillow warns of 89 megapixels and of damaged metadata; the cap here is our own
            warnings.simplefilter("ignore")
            return _decode(data, size, aspect, depth, min(max_pixels, MAX_PIXELS))
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError("over the pixel cap") from None
    except UnidentifiedImageError:
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
        image.load()
        orientation = image.getexif().get(ORIENTATION, 1)
        gray, window = _gray(image, depth)
    except ImageError:
        raise
    except Exception as error:  # damaged bytes, see `decode`
        raise ImageError("truncated" if "truncated" in str(error).lower() else "damaged") from None
    if orientation in ROTATIONS:
        gray = gray.transpose(ROTATIONS[orientation])
    if not gray.width * gray.height:
        raise ImageError("no pixels")
    full: Box = (0.0, 0.0, float(gray.width), float(gray.height))
    pixels, transform = _fit(gray, full, gray.height, gray.width, size, aspect)
    return DecodedImage(pixels, gray.height, gray.width, transform, window)


def _decode(data: bytes, size: tuple[int, int], aspect: Aspect, depth: Depth, max_pixels: int) -> DecodedImage:
    if dicom.is_dicom(data):
        gray, window = dicom.read_gray(data, max_pixels=max_pixels, depth=depth)
        full: Box = (0.0, 0.0, float(gray.width), float(gray.height))
        pixels, transform = _fit(gray, full, gray.height, gray.width, size, aspect)
        return DecodedImage(pixels, gray.height, gray.width, transform, window)
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if not image.width * image.height:
            raise ImageError("no pixels")
        if image.width * image.height > max_pixels:
            raise ImageError("over the pixel cap")
        if getattr(image, "n_frames", 1) > 1:
            raise ImageError("several frames")
        true_width, true_height = image.size
        box: Box | None = None
        if image.format == "JPEG":
            sideways = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
            target = _resized(true_height, true_width, size[::-1] if sideways else size, aspect)
            draft = image.draft("L", (DRAFT_GAP * target[1], DRAFT_GAP * target[0]))
            if draft is not None:
                box = draft[1]  # the true extent: at odd sizes a fraction of a pixel less than the draft image
        image.load()
        orientation = image.getexif().get(ORIENTATION, 1)
        gray, window = _gray(image, depth)
    if box is None or (gray.width, gray.height) == (true_width, true_height):
        box = (0.0, 0.0, float(gray.width), float(gray.height))
    if orientation in ROTATIONS:
        width, height = gray.size
        gray, box = gray.transpose(ROTATIONS[orientation]), _rotate_box(box, width, height, orientation)
        if orientation >= 5:
            true_width, true_height = true_height, true_width
    elif image.format == "TIFF" and gray.size == (true_height, true_width):
        true_width, true_height = gray.size  # Pillow rotated it while loading
    pixels, transform = _fit(gray, box, true_height, true_width, size, aspect)
    return DecodedImage(pixels, true_height, true_width, transform, window)


def _gray(image: Image.Image, depth: Depth) -> tuple[Image.Image, tuple[float, float] | None]:
    """The image in mode L, or in mode F from 0 to 65535, and its window."""
    if image.mode in DEEP_MODES:
        return _window(image, depth)
    gray = _luma(image)
    return (gray if depth == 8 else to_16_bit(gray)), None


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


def _window(image: Image.Image, depth: Depth) -> tuple[Image.Image, tuple[float, float]]:
    """A deep image scaled from its minimum (black) to its maximum (white), and these two."""
    raw_HW: npt.NDArray[Any] = np.asarray(image)
    low, high = float(raw_HW.min()), float(raw_HW.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError("values not finite")
    if raw_HW.dtype.kind in "ui" and low >= 0 and high <= 65535:  # a table of 65,536 entries is exact and the fastest
        values = np.arange(65536, dtype=np.float64)
        table = np.clip((values - low) * (MAX_GRAY[depth] / max(high - low, 1.0)), 0, MAX_GRAY[depth])
        return Image.fromarray(_quantized(table, depth)[raw_HW]), (low, high)
    scale = MAX_GRAY[depth] / (high - low) if high > low else 0.0
    return Image.fromarray(_quantized((raw_HW.astype(np.float64) - low) * scale, depth)), (low, high)


def _quantized(grays: npt.NDArray[np.float64], depth: Depth) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]:
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
