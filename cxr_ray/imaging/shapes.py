"""Boxes, polygons and masks that were drawn on an original image, as masks of its stored or resized pixels. Reads no file."""
# H, W height and width of the wanted mask; h, w of a drawn mask; P points of a polygon. Coordinates refer to pixel edges.

import math
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from cxr_ray.imaging.pixels import Transform

Mask = npt.NDArray[np.bool_]


class Box(NamedTuple):
    """A rectangle: its corner at the top left, width and height."""

    x: float
    y: float
    w: float
    h: float


class Polygon(NamedTuple):
    """A closed outline; what it encloses an odd number of times is inside."""

    points: tuple[tuple[float, float], ...]
    """(x, y) of each corner [P]."""


class Drawn(NamedTuple):
    """A mask."""

    mask: Mask
    """[h, w]"""


Shape: TypeAlias = Box | Polygon | Drawn


@dataclass(frozen=True)
class Placement:
    """Where an original image lies in the pixels of a mask: what was squashed, padded or cropped at ingest, and resized after it."""

    original: tuple[int, int]
    """(height, width) in pixels of the original image."""
    transform: Transform
    """From original to stored pixels."""
    stored: tuple[int, int]
    """(height, width) of the stored image."""
    size: tuple[int, int]
    """(H, W) of the wanted mask: the stored image resized to it, as a network's input is."""

    def rasterize(self, shapes: "list[Shape]", frame: tuple[int, int] | None = None) -> Mask:
        """The union of `shapes` as a mask [H, W]. `frame` is the (height, width) that they were drawn in; None: the original's.

        A pixel belongs to a shape if its centre does. A shape inside the image that covers no centre gets the pixel at its middle,
        so that a small finding is not lost. What lies outside the stored image, cropped away, is lost."""
        scale_y, scale_x, top, left = self._map(frame)
        union = np.zeros(self.size, dtype=np.bool_)
        for shape in shapes:
            if isinstance(shape, Drawn):
                union |= self._drawn(shape.mask)
                continue
            corners = shape.points if isinstance(shape, Polygon) else _corners(shape)
            placed = [(x * scale_x + left, y * scale_y + top) for x, y in corners]
            mask = _box(placed, self.size) if isinstance(shape, Box) else _polygon(placed, self.size)
            if not mask.any():
                _mark_middle(mask, placed)
            union |= mask
        return union

    def _map(self, frame: tuple[int, int] | None) -> Transform:
        """From the pixels of `frame` to those of the mask."""
        height, width = frame or self.original
        resize_y, resize_x = self.size[0] / self.stored[0], self.size[1] / self.stored[1]
        scale_y, scale_x, top, left = self.transform
        return Transform(
            self.original[0] / height * scale_y * resize_y,
            self.original[1] / width * scale_x * resize_x,
            top * resize_y,
            left * resize_x,
        )

    def _drawn(self, drawn_hw: Mask) -> Mask:
        """A drawn mask, which covers the whole original whatever its size, sampled at the centres of pixels."""
        height, width = drawn_hw.shape
        scale_y, scale_x, top, left = self._map((height, width))
        y = np.floor((np.arange(self.size[0]) + 0.5 - top) / scale_y).astype(np.int64)
        x = np.floor((np.arange(self.size[1]) + 0.5 - left) / scale_x).astype(np.int64)
        inside = ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))[None, :]
        found: Mask = drawn_hw[y.clip(0, height - 1)[:, None], x.clip(0, width - 1)[None, :]].astype(np.bool_) & inside
        if not found.any() and drawn_hw.any():
            at_y, at_x = (np.flatnonzero(drawn_hw.any(axis=1 - axis)).mean() + 0.5 for axis in (0, 1))
            _mark_middle(found, [(at_x * scale_x + left, at_y * scale_y + top)])
        return found


def _corners(box: Box) -> tuple[tuple[float, float], ...]:
    x, y, w, h = box
    return (x, y), (x + w, y), (x + w, y + h), (x, y + h)


def _box(corners: list[tuple[float, float]], size: tuple[int, int]) -> Mask:
    (left, top), (right, bottom) = corners[0], corners[2]
    y, x = np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5
    return ((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))[None, :]


def _polygon(points: list[tuple[float, float]], size: tuple[int, int]) -> Mask:
    """Even-odd rule at pixel centres: an edge changes everything to its right on the rows that it crosses."""
    parity = np.zeros((size[0], size[1] + 1), dtype=np.int64)
    centres = np.arange(size[0]) + 0.5
    for (x0, y0), (x1, y1) in zip(points, (*points[1:], points[0]), strict=True):
        if y0 == y1:
            continue
        rows = np.flatnonzero((centres >= min(y0, y1)) & (centres < max(y0, y1)))
        cross = x0 + (centres[rows] - y0) * (x1 - x0) / (y1 - y0)
        np.add.at(parity, (rows, np.ceil(cross - 0.5).clip(0, size[1]).astype(np.int64)), 1)
    return np.cumsum(parity[:, :-1], axis=1) % 2 == 1


def _mark_middle(mask: Mask, points: list[tuple[float, float]]) -> None:
    """Set the pixel in the middle of `points`, if it is in the image."""
    x = math.floor((min(x for x, _ in points) + max(x for x, _ in points)) / 2)
    y = math.floor((min(y for _, y in points) + max(y for _, y in points)) / 2)
    if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1]:
        mask[y, x] = True
