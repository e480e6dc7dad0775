"""Run lengths of masks as published annotations encode them, to masks. Reads no file."""
# H, W height and width of the mask in pixels

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


def from_pairs(text: str, size: tuple[int, int]) -> Mask:
    """The mask [H, W] of `start length` pairs: starts count from 1, pixels go along the rows (CheXmask).

    Raises `ValueError` if the numbers are no pairs, or lead out of the mask."""
    numbers = np.asarray(text.split(), dtype=np.int64)
    if len(numbers) % 2:
        raise ValueError("an odd number of run lengths")
    begin, length = numbers[0::2] - 1, numbers[1::2]
    pixels = size[0] * size[1]
    if len(begin) and (begin.min() < 0 or length.min() < 0 or int((begin + length).max()) > pixels):
        raise ValueError(f"a run that leads out of {size[0]} x {size[1]} pixels")
    change = np.zeros(pixels + 1, dtype=np.int64)
    np.add.at(change, begin, 1)
    np.add.at(change, begin + length, -1)
    return (np.cumsum(change[:-1]) > 0).reshape(size)


def from_coco(text: str, size: tuple[int, int]) -> Mask:
    """The mask [H, W] of COCO's compressed run lengths: runs of 0 and 1 in turn, pixels go down the columns.

    A number has 5 bits per character (ASCII 48 and up), the lowest first; bit 6 marks that another follows, the sign is the highest
    bit. From the fourth number on, it is the difference to the number two before. Raises `ValueError` for a string that is none."""
    runs = _coco_runs(text, size)
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(size[1], size[0]).T


def coco_pixels(text: str, size: tuple[int, int]) -> int:
    """Number of pixels of the mask of `from_coco`, without decoding it. Raises `ValueError` like it."""
    return sum(_coco_runs(text, size)[1::2])


def _coco_runs(text: str, size: tuple[int, int]) -> list[int]:
    runs: list[int] = []
    at = 0
    while at < len(text):
        value, shift, more = 0, 0, True
        while more:
            if at == len(text):
                raise ValueError("the run lengths are cut off")
            code = ord(text[at]) - 48
            if not 0 <= code < 64:
                raise ValueError(f"{text[at]!r} in the run lengths")
            value |= (code & 0x1F) << shift
            more = bool(code & 0x20)
            at, shift = at + 1, shift + 5
            if not more and code & 0x10:
                value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    if min(runs, default=0) < 0 or sum(runs) != size[0] * size[1]:
        raise ValueError(f"runs of {sum(runs)} pixels for {size[0]} x {size[1]}")
    return runs
