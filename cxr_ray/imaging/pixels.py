"""Gray pixels: their types and depths, a decoded picture, and why an image cannot be used. Reads no file."""
# H, W height and width of the stored picture; N images

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

Aspect = Literal["squash", "pad", "center_crop"]

Depth = Literal[8, 16]
"""Bits of a stored gray value."""

Pixels = npt.NDArray[np.uint8 | np.uint16]

KINDS: dict[int, type[np.uint8] | type[np.uint16]] = {8: np.uint8, 16: np.uint16}
"""How a gray value of so many bits is stored."""

WHITE = {8: 255.0, 16: 65535.0}

STEPS = 257
"""Steps of a gray value of 16 bits in one of 8: 65535 / 255."""


class ImageError(Exception):
    """An image that cannot be used; `reason` is short and stable, so that reasons can be counted."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Transform(NamedTuple):
    """How original pixels lie in the stored picture: `y_stored = y * scale_y + top`, `x_stored = x * scale_x + left`.

    Coordinates are of pixel edges, of the original after its EXIF turn."""

    scale_y: float
    scale_x: float
    top: float
    left: float


@dataclass(frozen=True, eq=False)
class Picture:
    """One decoded image."""

    pixels: Pixels
    """[H, W] gray: uint8, or uint16 where 65535 is white."""
    height: int
    """Of the original, after its EXIF turn."""
    width: int
    transform: Transform
    window: tuple[float, float] | None = None
    """Raw values that became black and white, for DICOM and for pictures of more than 8 bits."""


def deepened(gray: Image.Image) -> Image.Image:
    """A picture of 0 to 255 as one of 0 to 65535 in float32."""
    return Image.fromarray(np.asarray(gray, np.float32) * STEPS)


def eight_bit(grays_NHW: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Gray values 0 to 255, of whatever kind, as whole ones."""
    return grays_NHW if grays_NHW.dtype == np.uint8 else np.rint(grays_NHW).astype(np.uint8)
