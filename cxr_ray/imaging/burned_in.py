"""Detects letters burned into the corners of images, by their shape; reads no text. They may identify a patient, and a model may
learn them instead of the lung. A heuristic: check what it reports, and do not rely on what it does not."""
# N images, H x W pixels

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

SAMPLE_SIZE = 500
"""Images of a store that are checked, evenly over its rows: about 2 ms each."""
SIDE = 224
"""Larger images are checked with their shorter side reduced to this, in pixels: at 512 the edges of bones are as sharp as strokes."""
CORNER = (0.25, 0.35)
"""Share of the height and of the width that counts as a corner."""
STROKE = 0.035
"""Widest stroke of a letter, as a share of the shorter side."""
LETTER = (0.015, 0.12)
"""Lowest and highest letter, as shares of the shorter side."""
CONTRAST = 80
"""Gray values by which a stroke is brighter than its surroundings. Chosen on 68 X-rays from the web, 14 of which have letters in
a corner according to a human reader: 13 are found, with no false positive among the other 54. At 60 bones are reported, at 100
letters are missed. On 329 centre crops of NIH X-rays, with wires and hardly any letters, 4 are reported (1.2%); on 160 complete
NIH X-rays, nearly all with letters, 121."""


class ImageStore(Protocol):
    """What is needed of a store."""

    @property
    def index(self) -> Any: ...
    def pictures(self, rows: npt.ArrayLike) -> npt.NDArray[np.uint8]: ...


@dataclass(frozen=True)
class ScanResult:
    """Which of the sampled images of a store seem to have letters."""

    rows: npt.NDArray[np.int64]
    """Rows with letters in a corner, ascending."""
    checked: int
    """Number of sampled images."""

    def warning(self) -> str | None:
        """One line, or None without letters."""
        if not len(self.rows):
            return None
        examples = ", ".join(map(str, self.rows[:3].tolist()))
        return (
            f"letters seem to be burned into a corner of {len(self.rows):,} of {self.checked:,} images checked, such as rows "
            f"{examples}: they may identify a patient, and a model may read them instead of the lung; view one with "
            "cxr-ray describe --row N --save FILE"
        )


def scan(store: ImageStore, *, limit: int = SAMPLE_SIZE) -> ScanResult:
    """Check up to `limit` images of a store, evenly over its rows."""
    rows = store.index["row"].to_numpy(np.int64)
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, limit).astype(int))] if len(rows) > limit else rows
    has_letters = [
        count_letters(image) > 0
        for start in range(0, len(rows), 64)
        for image in store.pictures(rows[start : start + 64])
    ]
    return ScanResult(rows[np.array(has_letters, dtype=bool)], len(rows))


def count_letters(gray_HW: npt.NDArray[np.uint8]) -> int:
    """The number of bright shapes of a letter's size in the corner that has most of them.

    A white top-hat (the image minus its opening by a square wider than a stroke) leaves the strokes. A letter is a connected
    component of them of a letter's height, at most 1.2 times as wide as the highest letter, that fills a fifth of its box."""
    height, width = gray_HW.shape
    if min(height, width) > SIDE:
        width, height = (round(each * SIDE / min(height, width)) for each in (width, height))
        gray_HW = np.asarray(Image.fromarray(gray_HW).resize((width, height), Image.Resampling.BILINEAR))
    side = min(height, width)
    corner_height, corner_width = int(CORNER[0] * height), int(CORNER[1] * width)
    square = max(3, round(STROKE * side) | 1)
    most = 0
    for rows in (slice(0, corner_height), slice(height - corner_height, height)):
        for columns in (slice(0, corner_width), slice(width - corner_width, width)):
            corner = gray_HW[rows, columns].astype(np.int16)
            strokes = corner - ndimage.grey_opening(corner, (square, square)) > CONTRAST
            components, _ = ndimage.label(strokes, np.ones((3, 3)))
            boxes = enumerate(ndimage.find_objects(components), start=1)
            most = max(most, sum(_is_letter(components[box] == number, side) for number, box in boxes))
    return most


def _is_letter(shape_HW: npt.NDArray[np.bool_], side: int) -> bool:
    low, high = LETTER[0] * side, LETTER[1] * side
    height, width = shape_HW.shape
    area = int(shape_HW.sum())
    return low <= height <= high and 0.3 * low <= width <= 1.2 * high and area >= max(4, height * width / 5)
