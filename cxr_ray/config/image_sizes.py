"""Sizes of images as people give them: 224, 320x256, (320, 256). What takes a size, as a flag or in Python, reads it here."""

import operator
import re
from typing import Any

from cxr_ray.errors import UserError

LARGEST = 4096
"""Pixels of a side."""


def read_size(given: Any, *, name: str) -> tuple[int, int]:
    """(height, width) in pixels, of one whole number or two, or of text such as 224 and 320x256 (height x width).

    Raises `UserError`, which begins with `name`, if `given` is nothing of this or not from 1 to `LARGEST`."""
    is_text = isinstance(given, str)
    sides = sides_of(given) if is_text else given if isinstance(given, list | tuple) else (given, given)
    try:
        height, width = (operator.index(side) for side in sides or ())
        if min(height, width) >= 1 and max(height, width) <= LARGEST:
            return height, width
    except (TypeError, ValueError):  # not whole numbers, or not two
        pass
    example = "HEIGHTxWIDTH such as 320x256" if is_text else "(height, width) such as (320, 256)"
    shown, got = (f"{name} {given}", "") if is_text else (name, f", got {given!r}")
    raise UserError(f"{shown}: give pixels from 1 to {LARGEST}, such as 224, or {example}{got}")


def sides_of(text: str) -> tuple[int, int] | None:
    """Height and width in text such as 224, 320x256 or 320,256; None for other text."""
    match = re.fullmatch(r"(\d+)(?:[xX,](\d+))?", text.strip())
    return None if match is None else (int(match[1]), int(match[2] or match[1]))
