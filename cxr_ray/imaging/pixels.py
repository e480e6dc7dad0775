"""Gray pixels: bit depths and their dtypes, a decoded image, and why an image cannot be used. Reads no file."""
# H, W height and width of the stored image; N images

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

Aspect = Literal["squash", "pad", "center_crop"]

Depth = Literal[8, 16]
"""Bits per stored gray value."""

Pixels = npt.NDArray[np.uint8 | np.uint16]

PIXEL_DTYPES: dict[int, type[np.uint8] | type[np.uint16]] = {8: np.uint8, 16: np.uint16}
"""Dtype of the stored gray values, by depth."""

MAX_GRAY = {8: 255.0, 16: 65535.0}
"""White, by depth."""

SCALE_8_TO_16 = 257
"""65535 / 255: 16-bit gray levels per 8-bit gray level."""


ONE_GRAY = "one gray, though its stored values vary"


class ImageError(Exception):
    """An image that cannot be used. `reason` is short and stable, so that reasons can be counted."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Transform(NamedTuple):
    """From original to stored pixels: `y_stored = y * scale_y + top`, `x_stored = x * scale_x + left`.

    Coordinates refer to pixel edges, and to the original after its EXIF rotation."""

    scale_y: float
    scale_x: float
    top: float
    left: float


@dataclass(frozen=True, eq=False)
class Plane:
    """A decoded image before it is resized."""

    gray: Image.Image
    """Mode L, or at a depth of 16 mode F from 0 to 65535."""
    window: tuple[float, float] | None = None
    """As in `DecodedImage`."""


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """One decoded image."""

    pixels: Pixels
    """[H, W] gray: uint8, or uint16 with white at 65535."""
    height: int
    """Of the original in pixels, after its EXIF rotation."""
    width: int
    transform: Transform
    window: tuple[float, float] | None = None
    """Raw values that became black and white: of DICOM, and of images with more than 8 bits per pixel."""


def refuse_lost(gray: Image.Image, stored: npt.NDArray[Any] | Image.Image) -> None:
    """Raises `ImageError` if `gray` has one gray value though the `stored` values [H, W] or [H, W, C] vary: nothing is left of them."""
    few = gray.resize(
        (8, 8), Image.Resampling.NEAREST
    )  # almost every image varies here already, and a full look takes time
    for plane in (few, gray):
        rounded = np.rint(np.asarray(plane))
        if (rounded != rounded[0, 0]).any():
            return
    values = np.asarray(stored)
    if (values != values[0, 0]).any():
        raise ImageError(ONE_GRAY)


def to_16_bit(gray: Image.Image) -> Image.Image:
    """Gray values 0 to 255 scaled to 0 to 65535, in float32."""
    return Image.fromarray(np.asarray(gray, np.float32) * SCALE_8_TO_16)


def to_uint8(grays_NHW: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Gray values 0 to 255 of any dtype, rounded to uint8."""
    return grays_NHW if grays_NHW.dtype == np.uint8 else np.rint(grays_NHW).astype(np.uint8)
