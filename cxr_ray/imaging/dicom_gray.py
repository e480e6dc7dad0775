"""Stored values of a DICOM to gray: bits, modality LUT, VOI LUT or window, padding. Decodes no codestream.

Stored values, through the modality LUT (or slope and intercept), through the VOI LUT or window (the first of several; without
any, the range of the image itself) to 0..1; MONOCHROME1 inverted; padding black. Formulas: PS3.3 C.11.1, C.11.2 and
C.7.5.1.1.2; bits: PS3.5 8.1.1. pydicom's own functions are not used: with a negative slope they reverse the window, and their
8-bit VOI LUT wraps around. In all other cases `tests/imaging/test_dicom.py` checks that the results are equal.
"""
# H, W height and width of the image; V the bit patterns that a pixel can have

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cxr_ray.imaging.dicom_values import lut, number, numbers, signed, words
from cxr_ray.imaging.pixels import ImageError

if TYPE_CHECKING:
    from pydicom import Dataset

Values = npt.NDArray[np.float64]


class Bits(NamedTuple):
    """Where the value of a pixel is in its bits."""

    stored: int
    shift: int
    """Bits below the value."""
    signed: bool

    @property
    def low(self) -> int:
        """The lowest value."""
        return -(2 ** (self.stored - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """The highest value."""
        return self.low + 2**self.stored - 1


def read_bits(dataset: "Dataset") -> Bits:
    """The bits of a pixel by its header. A HighBit that is absent is the one of the lowest bits. Raises `ImageError`."""
    allocated, stored, sign = (dataset.get(name) for name in ("BitsAllocated", "BitsStored", "PixelRepresentation"))
    high = dataset.get("HighBit")
    if not all(isinstance(each, int) for each in (allocated, stored, sign)) or sign not in (0, 1):
        raise ImageError("pixel tags missing")
    if not 1 <= stored <= allocated:
        raise ImageError("BitsStored contradicts BitsAllocated")
    if high is None:
        return Bits(stored, 0, sign == 1)
    if not isinstance(high, int) or not stored - 1 <= high < allocated:
        raise ImageError("HighBit contradicts BitsStored")
    return Bits(stored, high + 1 - stored, sign == 1)


def gray_table(
    raw_HW: npt.NDArray[Any], dataset: "Dataset", bits: Bits
) -> tuple[Values, npt.NDArray[np.unsignedinteger[Any]], tuple[float, float]]:
    """The gray (0 black, 1 white) of every bit pattern that a pixel can have, the patterns [H, W] that index it, and the window.

    A table is exact, and far faster than arithmetic on each pixel. Raises `ImageError`: damaged, values not finite."""
    raw_HW = raw_HW.astype(raw_HW.dtype.newbyteorder("="), copy=False)
    container = np.dtype(f"u{raw_HW.dtype.itemsize}")
    all_V = np.arange(2 ** (8 * container.itemsize), dtype=container)
    plain = not bits.shift and bits.low <= raw_HW.min() and raw_HW.max() <= bits.high
    value_V = all_V.view(raw_HW.dtype).astype(np.float64) if plain else _values(all_V.astype(np.int64), bits)
    pattern_HW = np.ascontiguousarray(raw_HW).view(container)
    padding_V = _padding(all_V, value_V, dataset, bits)
    with np.errstate(over="ignore", invalid="ignore"):
        modality_V, low, high = _modality(value_V, dataset, bits)
        shade_V = _shades(modality_V, dataset, low, high)
        if shade_V is None:  # no VOI: the range of the image itself, without padding
            occurs_V = np.zeros(len(value_V), bool)
            occurs_V[pattern_HW.reshape(-1)] = True
            occurs_V &= ~padding_V
            low, high = (modality_V[occurs_V].min(), modality_V[occurs_V].max()) if occurs_V.any() else (0.0, 0.0)
            shade_V = np.clip((modality_V - low) / ((high - low) or 1.0), 0, 1)
    if not np.isfinite(shade_V).all():
        raise ImageError("values not finite")
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shade_V = 1 - shade_V
    window = _window(value_V, shade_V)
    shade_V[padding_V] = 0
    return shade_V, pattern_HW, window


def _values(pattern_V: npt.NDArray[np.int64], bits: Bits) -> Values:
    """The value of each bit pattern. What is in the other bits (overlays, no sign) is ignored."""
    value_V = (pattern_V >> bits.shift) & (2**bits.stored - 1)
    if bits.signed:
        value_V -= (value_V >> (bits.stored - 1)) << bits.stored
    return value_V.astype(np.float64)


def _padding(
    pattern_V: npt.NDArray[np.unsignedinteger[Any]], value_V: Values, dataset: "Dataset", bits: Bits
) -> npt.NDArray[np.bool_]:
    """Which patterns are padding. A padding value that does not fit into the stored bits is the pattern itself."""
    value, limit = words(dataset, "PixelPaddingValue"), words(dataset, "PixelPaddingRangeLimit")
    if not len(value):
        return np.zeros(len(value_V), bool)
    first = signed(int(value[0]), negative=bits.signed)
    last = signed(int(limit[0]), negative=bits.signed) if len(limit) else first
    padded_V = (value_V >= min(first, last)) & (value_V <= max(first, last))
    return padded_V if bits.low <= first <= bits.high else padded_V | (pattern_V == value[0])


def _modality(value_V: Values, dataset: "Dataset", bits: Bits) -> tuple[Values, float, float]:
    """The output of the modality LUT or rescale for each value, and the lowest and highest that it can give."""
    if dataset.get("ModalityLUTSequence"):
        entries, first = lut(dataset.ModalityLUTSequence[0], bits.low, bits.high)
        output_V = entries[np.clip(value_V - first, 0, len(entries) - 1).astype(np.int64)]
        return output_V, float(entries.min()), float(entries.max())
    slope, intercept = number(dataset, "RescaleSlope"), number(dataset, "RescaleIntercept") or 0.0
    slope = 1.0 if slope is None else slope
    ends = (bits.low * slope + intercept, bits.high * slope + intercept)
    return value_V * slope + intercept, min(ends), max(ends)


def _shades(input_V: Values, dataset: "Dataset", low: float, high: float) -> Values | None:
    """0 (black) to 1 for each modality value from `low` to `high`, by the VOI LUT, else by the window; None without a usable
    one."""
    if dataset.get("VOILUTSequence"):
        entries, first = lut(dataset.VOILUTSequence[0], low, high)
        darkest, brightest = entries.min(), entries.max()  # of the LUT itself: many declare 16 bits and use 12
        if brightest > darkest:
            shade_E = (entries - darkest) / (brightest - darkest)
            return shade_E[np.clip(np.rint(input_V) - first, 0, len(entries) - 1).astype(np.int64)]
    pairs = zip(numbers(dataset, "WindowCenter"), numbers(dataset, "WindowWidth"), strict=False)
    center, width = next(((c, w) for c, w in pairs if c is not None and w is not None), (None, None))
    if center is None or width is None:
        return None
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if function == "SIGMOID" and width > 0:
        return 1 / (1 + np.exp(np.clip(-4 * (input_V - center) / width, -700, 700)))
    if function != "LINEAR_EXACT":
        center, width = center - 0.5, width - 1
    if width < 0 or (width == 0 and function == "LINEAR_EXACT"):
        return None
    if width == 0:  # a threshold
        return (input_V > center).astype(np.float64)
    return np.clip((input_V - center) / width + 0.5, 0, 1)


def _window(value_V: Values, shade_V: Values) -> tuple[float, float]:
    """The last stored value that is black and the first that is white, in the direction from black to white."""
    black, white = value_V[shade_V == shade_V.min()], value_V[shade_V == shade_V.max()]
    inverted = black.mean() > white.mean()
    return (float(black.min()), float(white.max())) if inverted else (float(black.max()), float(white.min()))
