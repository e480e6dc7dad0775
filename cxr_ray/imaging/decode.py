"""Bytes of an image file to one gray plane of 8 or 16 bits, resized once. Which files are read, and when, is decided elsewhere.

Rules, the same for every format: one frame; turned by EXIF; colour to gray by ITU-R 601 luma; see-through pixels lie on
black; more than 8 bits a pixel are windowed from the picture's own minimum (0) to its own maximum (255), because
Pillow's `convert("L")` saturates them; big JPEGs are decoded at 1/2, 1/4 or 1/8 where that is still at least twice the
size asked for (within 2 gray values of a full decode); resampling is Pillow's bilinear, which widens its support when it
shrinks (antialiased). The grays of a DICOM are `dicom.py`'s. At a depth of 16 all that is between windowing and storing is
done in float32 on a scale of 0 to 65535, so that the steps of a picture of more than 8 bits live on.
"""
# H, W height and width of the stored picture; N images

import io
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from cxr_ray.imaging.pixels import WHITE, Aspect, Depth, ImageError, Picture, Pixels, Transform, deepened

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "GIF", "WEBP")
"""What is tried on a file; its name and extension are never trusted."""

MAX_PIXELS = 178_000_000
"""Pixels of the largest picture that is decoded, by its header. Pillow itself refuses from 178,956,970."""

DRAFT_GAP = 2
"""A JPEG is decoded at least this many times larger than its goal: at 1 the error was twice as large and no time was won."""

ORIENTATION = 0x0112  # EXIF tag

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*", b"GIF8", b"RIFF")

DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")  # Pillow's modes of more than 8 bits a pixel


def is_dicom(data: bytes) -> bool:
    """Whether the first bytes of a file (132 or more) are those of a DICOM (PS3.10, with its preamble)."""
    return data[128:132] == b"DICM"


def decode(
    data: bytes, size: tuple[int, int], *, aspect: Aspect = "squash", depth: Depth = 8, max_pixels: int = MAX_PIXELS
) -> Picture:
    """One gray picture of `size` (H, W) from the bytes of a file, of `depth` bits a pixel.

    `aspect`: squash (both sides to size), pad (whole picture, black bars), center_crop (as torchvision's Resize of the
    short side, then CenterCrop). Raises `ImageError`: empty file, not an image, truncated, damaged, several frames,
    no pixels, over the pixel cap, unsupported pixel kind, values not finite; of a DICOM what `dicom.gray` says.
    """
    if not data:
        raise ImageError("empty file")
    try:
        with warnings.catch_warnings():  # Pillow warns from 89 megapixels and of damaged metadata; the cap is ours
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
    except (
        Exception
    ) as error:  # Pillow's decoders raise what they like on damaged bytes: OSError, SyntaxError, struct.error...
        cut = isinstance(error, EOFError) or "truncated" in str(error).lower()
        raise ImageError("truncated" if cut else "damaged") from None


def _decode(data: bytes, size: tuple[int, int], aspect: Aspect, depth: Depth, max_pixels: int) -> Picture:
    if is_dicom(data):
        from cxr_ray.imaging import dicom  # which needs its extra

        gray, window = dicom.gray(data, max_pixels=max_pixels, depth=depth)
        pixels, transform = _fit(
            gray, (0.0, 0.0, float(gray.width), float(gray.height)), gray.height, gray.width, size, aspect
        )
        return Picture(pixels, gray.height, gray.width, transform, window)
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if not image.width * image.height:
            raise ImageError("no pixels")
        if image.width * image.height > max_pixels:
            raise ImageError("over the pixel cap")
        if getattr(image, "n_frames", 1) > 1:
            raise ImageError("several frames")
        true_width, true_height = image.size
        box: tuple[float, float, float, float] | None = None
        if image.format == "JPEG":
            turned = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
            need = _resized(true_height, true_width, size[::-1] if turned else size, aspect)
            drafted = image.draft("L", (DRAFT_GAP * need[1], DRAFT_GAP * need[0]))
            if drafted is not None:
                box = drafted[1]  # the true extent: a fraction of a pixel less than the drafted picture at odd sizes
        image.load()
        orientation = image.getexif().get(ORIENTATION, 1)
        gray, window = _gray(image, depth)
    if box is None or (gray.width, gray.height) == (true_width, true_height):
        box = (0.0, 0.0, float(gray.width), float(gray.height))
    if orientation in TURNS:
        width, height = gray.size
        gray, box = gray.transpose(TURNS[orientation]), _turn_box(box, width, height, orientation)
        if orientation >= 5:
            true_width, true_height = true_height, true_width
    elif image.format == "TIFF" and gray.size == (true_height, true_width):
        true_width, true_height = gray.size  # Pillow turned it while loading
    pixels, transform = _fit(gray, box, true_height, true_width, size, aspect)
    return Picture(pixels, true_height, true_width, transform, window)


def _gray(image: Image.Image, depth: Depth) -> tuple[Image.Image, tuple[float, float] | None]:
    """Mode L, or F of 0 to 65535, and the window."""
    if image.mode in DEEP_MODES:
        return _window(image, depth)
    gray = _luma(image)
    return (gray if depth == 8 else deepened(gray)), None


def _luma(image: Image.Image) -> Image.Image:
    try:
        if image.has_transparency_data:
            over = image.convert("RGBA")
            black = Image.new("RGBA", over.size, (0, 0, 0, 255))
            return Image.alpha_composite(black, over).convert("L")
        if image.mode == "L":
            return image
        if image.mode in ("1", "RGB", "YCbCr"):
            return image.convert("L")
        return image.convert("RGB").convert("L")
    except ValueError:
        raise ImageError("unsupported pixel kind") from None


def _window(image: Image.Image, depth: Depth) -> tuple[Image.Image, tuple[float, float]]:
    raw_HW: npt.NDArray[Any] = np.asarray(image)
    low, high = float(raw_HW.min()), float(raw_HW.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError("values not finite")
    if raw_HW.dtype.kind in "ui" and low >= 0 and high <= 65535:  # a table of 65,536 entries is exact and the fastest
        values = np.arange(65536, dtype=np.float64)
        table = np.clip((values - low) * (WHITE[depth] / max(high - low, 1.0)), 0, WHITE[depth])
        return Image.fromarray(_stepped(table, depth)[raw_HW]), (low, high)
    scale = WHITE[depth] / (high - low) if high > low else 0.0
    return Image.fromarray(_stepped((raw_HW.astype(np.float64) - low) * scale, depth)), (low, high)


def _stepped(grays: npt.NDArray[np.float64], depth: Depth) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]:
    return np.rint(grays).astype(np.uint8) if depth == 8 else grays.astype(np.float32)


def _turn_box(
    box: tuple[float, float, float, float], width: int, height: int, orientation: int
) -> tuple[float, float, float, float]:
    """`box` (left, top, right, bottom) of a [height, width] picture, after the turn of EXIF `orientation`."""
    left, top, right, bottom = box
    if orientation in (2, 3, 7, 8):  # the file's right edge comes to a low coordinate
        left, right = width - right, width - left
    if orientation in (3, 4, 6, 7):
        top, bottom = height - bottom, height - top
    return (top, left, bottom, right) if orientation >= 5 else (left, top, right, bottom)


def _resized(height: int, width: int, size: tuple[int, int], aspect: Aspect) -> tuple[int, int]:
    """(H, W) that the whole picture is resized to, before bars are added or edges cut."""
    goal_height, goal_width = size
    if aspect == "squash":
        return size
    by_height = (goal_height * width >= goal_width * height) == (aspect == "center_crop")
    if by_height:  # the height meets its goal; the width follows, cut to whole pixels as torchvision does
        return goal_height, max(1, goal_height * width // height)
    return max(1, goal_width * height // width), goal_width


def _fit(
    gray: Image.Image,
    box: tuple[float, float, float, float],
    true_height: int,
    true_width: int,
    size: tuple[int, int],
    aspect: Aspect,
) -> tuple[Pixels, Transform]:
    height, width = _resized(true_height, true_width, size, aspect)
    whole = gray.resize((width, height), Image.Resampling.BILINEAR, box=box)
    pixels: Pixels = np.asarray(whole)
    if gray.mode == "F":
        pixels = np.rint(np.clip(pixels, 0, 65535)).astype(np.uint16)
    top, left = (size[0] - height) / 2, (size[1] - width) / 2
    if aspect == "pad":
        top, left = int(top), int(left)
        canvas = np.zeros(size, pixels.dtype)
        canvas[top : top + height, left : left + width] = pixels
        pixels = canvas
    elif aspect == "center_crop":
        top, left = -round(-top), -round(-left)  # torchvision rounds the distance cut off
        pixels = pixels[-top : size[0] - top, -left : size[1] - left]
    stored: Pixels = np.ascontiguousarray(pixels)
    return stored, Transform(height / true_height, width / true_width, float(top), float(left))
