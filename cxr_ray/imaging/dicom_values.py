"""Values of DICOM tags from their bytes: numbers as text, and words whose sign another tag decides. Reads no pixel.

pydicom's conversion is not used for these: it returns bytes for a US or SS tag in implicit VR, takes the sign from the file's
VR, and raises for a number with a decimal comma."""

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cxr_ray.imaging.pixels import ImageError

if TYPE_CHECKING:
    from pydicom import Dataset

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
WORD_VRS = ("US", "SS", "OW", "OB", "UN", None, "US or SS", "US or OW", "US or SS or OW")
"""VRs of 16-bit words, and what implicit VR and careless writers put in their place."""
FLOAT_VRS = {"FL": "f4", "FD": "f8"}


def numbers(dataset: "Dataset", keyword: str) -> list[float | None]:
    """The values of a tag of numbers as text (DS, IS). A decimal comma counts as a point. What is no finite number is None."""
    raw, vr, order = _raw(dataset, keyword)
    if isinstance(raw, bytes) and vr in FLOAT_VRS:
        raw = np.frombuffer(raw, order + FLOAT_VRS[vr]).tolist()
    if isinstance(raw, bytes):
        raw = raw.decode("latin-1").split("\\")
    values = list(raw) if isinstance(raw, list | tuple) or type(raw).__name__ == "MultiValue" else [raw]
    return [_number(value) for value in values]


def number(dataset: "Dataset", keyword: str) -> float | None:
    """The first of `numbers`; None if the tag is absent."""
    return next(iter(numbers(dataset, keyword)), None)


def words(dataset: "Dataset", keyword: str) -> npt.NDArray[np.uint16]:
    """The 16-bit words of a tag, unsigned; empty if it is absent or of another kind."""
    raw, vr, order = _raw(dataset, keyword)
    if isinstance(raw, bytes) and vr in WORD_VRS:
        return np.frombuffer(raw[: len(raw) // 2 * 2], order + "u2").astype(np.uint16)
    return np.zeros(0, np.uint16)


def signed(word: int, *, negative: bool) -> int:
    """A word as a number: two's complement if `negative` numbers are possible."""
    return word - 2**16 if negative and word >= 2**15 else word


def lut(item: "Dataset", low: float, high: float) -> tuple[npt.NDArray[np.float64], int]:
    """Entries of a LUT, and the input value of the first, for inputs from `low` to `high`.

    The first input value is signed if inputs are (PS3.3 C.11.1.1.1, C.11.2.1.1). If no input reaches the LUT that way but does
    the other way, it is the other way: that is what writers meant who put another VR. Raises `ImageError`: damaged."""
    descriptor = words(item, "LUTDescriptor")
    data = words(item, "LUTData")
    if len(descriptor) < 3 or not len(data):
        raise ImageError("damaged")
    count, start, bits = (int(word) for word in descriptor[:3])
    count = count or 2**16
    first, other = (signed(start, negative=each) for each in (low < 0, low >= 0))
    if not _reached(first, count, low, high) and _reached(other, count, low, high):
        first = other
    if bits <= 8 and 2 * len(data) <= count + 1:  # a byte for each entry, the first in the low byte of its word
        return data.astype("<u2").view(np.uint8)[:count].astype(np.float64), first
    return data[:count].astype(np.float64), first


def _reached(first: int, count: int, low: float, high: float) -> bool:
    return first <= high and first + count > low


def _raw(dataset: "Dataset", keyword: str) -> tuple[Any, str | None, str]:
    """Value of a tag as bytes (None if it is absent; a converted value if pydicom has converted it), its VR, and the byte order as
    numpy writes it."""
    element = dataset.get_item(keyword)
    if element is None:
        return None, None, "<"
    little = getattr(element, "is_little_endian", True) or element.VR == "OB"  # bytes have no order
    return element.value, element.VR, "<" if little else ">"


def _number(value: Any) -> float | None:
    text = str(value).strip(" \0\t\r\n")
    text = text.replace(",", ".") if text.count(",") == 1 and "." not in text else text
    if not NUMBER.fullmatch(text):
        return None
    found = float(text)
    return found if np.isfinite(found) else None
