"""Letters burnt into the corners of pictures: counted by their looks. They may name a patient, and a model may read them
instead of the lung. A warning's worth, no proof: what is found should be looked at, and what is not may be there."""
# N images, H x W pixels

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

SAMPLED = 500
"""Pictures of a store that are looked at, evenly over its rows: about 2 ms each."""
SIDE = 224
"""Shorter side, in pixels, that larger pictures are looked at in: at 512 the edges of bones are as sharp as strokes."""
CORNER = (0.25, 0.35)
"""Share of the height and of the width that counts as a corner."""
STROKE = 0.035
"""Widest stroke of a letter, as a share of the shorter side."""
LETTER = (0.015, 0.12)
"""Heights of a letter, as shares of the shorter side."""
CONTRAST = 80
"""Gray values by which a stroke is brighter than what surrounds it. Chosen on 68 X-rays from the web, 14 of them with letters in
a corner by eye: 13 are found, and none of the other 54 is taken for one; at 60 bones are, at 100 letters are missed. Of 329
middles of NIH's X-rays, which hold wires and hardly a letter, 4 are (1.2%); of 160 of them whole, 121, nearly all have some."""


class Pictures(Protocol):
    """What is needed of a store."""

    @property
    def index(self) -> Any: ...
    def pictures(self, rows: npt.ArrayLike) -> npt.NDArray[np.uint8]: ...


@dataclass(frozen=True)
class Found:
    """What a look at some pictures of a store found."""

    rows: npt.NDArray[np.int64]
    """Those that seem to have letters in a corner, ascending."""
    looked_at: int

    def told(self) -> str | None:
        """One line, or None where there is nothing to tell."""
        if not len(self.rows):
            return None
        such = ", ".join(map(str, self.rows[:3].tolist()))
        return (
            f"letters seem to be burnt into a corner of {len(self.rows):,} of {self.looked_at:,} pictures looked at, such as rows "
            f"{such}: they may name a patient, and a model may read them instead of the lung; look with --row N --save FILE"
        )


def look(store: Pictures, *, most: int = SAMPLED) -> Found:
    """Look at up to `most` pictures of a store, evenly over its rows."""
    rows = store.index["row"].to_numpy(np.int64)
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, most).astype(int))] if len(rows) > most else rows
    found = [
        letters(picture) > 0
        for start in range(0, len(rows), 64)
        for picture in store.pictures(rows[start : start + 64])
    ]
    return Found(rows[np.array(found, dtype=bool)], len(rows))


def letters(gray_HW: npt.NDArray[np.uint8]) -> int:
    """How many bright shapes of a letter's size the corner has that has most of them.

    Strokes are what a white top-hat leaves (the picture less its opening by a square wider than a stroke); a letter is a
    connected piece of them as high as one, at most 1.5 times as wide as high letters are, that fills a fifth of its box."""
    from scipy import ndimage

    height, width = gray_HW.shape
    if min(height, width) > SIDE:
        width, height = (round(each * SIDE / min(height, width)) for each in (width, height))
        gray_HW = np.asarray(Image.fromarray(gray_HW).resize((width, height), Image.Resampling.BILINEAR))
    side = min(height, width)
    high, wide = int(CORNER[0] * height), int(CORNER[1] * width)
    square = max(3, round(STROKE * side) | 1)
    most = 0
    for rows in (slice(0, high), slice(height - high, height)):
        for columns in (slice(0, wide), slice(width - wide, width)):
            corner = gray_HW[rows, columns].astype(np.int16)
            strokes = corner - ndimage.grey_opening(corner, (square, square)) > CONTRAST
            labelled, _ = ndimage.label(strokes, np.ones((3, 3)))
            boxes = enumerate(ndimage.find_objects(labelled), start=1)
            most = max(most, sum(_is_letter(labelled[box] == number, side) for number, box in boxes))
    return most


def _is_letter(shape_hw: npt.NDArray[np.bool_], side: int) -> bool:
    low, high = LETTER[0] * side, LETTER[1] * side
    height, width = shape_hw.shape
    area = int(shape_hw.sum())
    return low <= height <= high and 0.3 * low <= width <= 1.2 * high and area >= max(4, height * width / 5)
