"""Numbers of DICOM tags, from their bytes in each of the ways in which they are written."""

import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_ray.imaging.dicom_values import lut, number, numbers, signed, words
from cxr_ray.imaging.pixels import ImageError
from tests.fakes.dicom import raw_element


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (b"2048", [2048.0]), (b" -1.5e3 ", [-1500.0]), (b"+.5", [0.5]), (b"7.", [7.0]), (b"2048,5", [2048.5]), (b"-0,25 ", [-0.25]),
        (b"1\\2,5\\3", [1.0, 2.5, 3.0]), (b"100\\", [100.0, None]), (b"\\100", [None, 100.0]), (b"12\0", [12.0]), (b"\r\n12", [12.0]),
        (b"NaN", [None]), (b"inf", [None]), (b"-Infinity", [None]), (b"1e999", [None]), (b"", [None]), (b"  ", [None]),
        (b"1,024.5", [None]), (b"1,2,3", [None]), (b"1_000", [None]), (b"0x10", [None]), (b"12 34", [None]), (b"abc", [None]),
    ],
)  # fmt: skip
def test_numbers_as_text_have_one_meaning_or_are_absent(text: bytes, values: list[float | None]) -> None:
    for vr in ("DS", "IS", None, "LO"):
        assert numbers(raw_element("WindowCenter", text, vr), "WindowCenter") == values
        assert number(raw_element("WindowCenter", text, vr), "WindowCenter") == values[0]


@given(value=st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_a_decimal_comma_is_a_point(value: float) -> None:
    text = repr(value)
    both = [number(raw_element("WindowWidth", t.encode(), "DS"), "WindowWidth") for t in (text, text.replace(".", ","))]
    assert both == [value, value]
    binary = struct.pack(">d", value)
    assert number(raw_element("WindowWidth", binary, "FD", little=False), "WindowWidth") == value


def test_an_absent_tag_has_no_number() -> None:
    empty = raw_element("Rows", b"\1\0", "US")
    assert number(empty, "WindowCenter") is None and not len(words(empty, "PixelPaddingValue"))


@pytest.mark.parametrize("vr", ["US", "SS", None, "OW", "UN"])
@pytest.mark.parametrize("little", [True, False])
def test_words_are_unsigned_in_the_order_of_the_file(vr: str | None, little: bool) -> None:
    data = struct.pack("<3H" if little else ">3H", 0, 64512, 7)
    found = words(raw_element("LUTDescriptor", data + b"\1", vr, little=little), "LUTDescriptor")
    assert found.tolist() == [0, 64512, 7] and [signed(int(w), negative=True) for w in found] == [0, -1024, 7]
    assert not len(words(raw_element("LUTDescriptor", data, "LT", little=little), "LUTDescriptor"))


def lut_item(count: int, first: int, bits: int, data: bytes, *, vr: str | None, little: bool = True) -> object:
    """`first` is written as its two bytes, whatever the VR says about its sign."""
    item = raw_element(
        "LUTDescriptor", struct.pack("<3H" if little else ">3H", count, first % 2**16, bits), vr, little=little
    )
    item._dict |= raw_element("LUTData", data, "OW", little=little)._dict
    return item


@pytest.mark.parametrize("vr", ["US", "SS", None])
@pytest.mark.parametrize(
    ("first", "low", "high"),
    [
        (-1024, -1024, 3071),
        (64512, 0, 65535),
        (-1, -2048, 2047),
        (0, 0, 255),
        (40_000, 0, 65535),
        (-30_000, -32768, 32767),
    ],
)
def test_the_first_input_has_the_type_of_the_inputs(vr: str | None, first: int, low: int, high: int) -> None:
    entries, start = lut(lut_item(500, first, 16, bytes(1000), vr=vr), low, high)  # type: ignore[arg-type]
    assert (start, len(entries)) == (first, 500)


def test_a_lut_that_no_input_reaches_is_read_the_other_way() -> None:
    """Explicit SS -1024 for unsigned inputs of 12 bits; 40,000 for inputs that begin below 0."""
    for first, low, high in ((-1024, 0, 4095), (40_000, -1024, 64_511)):
        assert lut(lut_item(4096, first, 16, bytes(8192), vr="SS"), low, high)[1] == first  # type: ignore[arg-type]


@pytest.mark.parametrize("little", [True, False])
@pytest.mark.parametrize("count", [200, 255, 256])
def test_entries_of_8_bits_are_bytes_or_words(count: int, little: bool) -> None:
    """Two in a word, the first in its low byte (PS3.5 annex D); or each in a word of its own."""
    values = np.arange(count)[::-1] % 256
    as_bytes = np.append(values, [0] * (count % 2)).astype(np.uint8).view("<u2").astype("<u2" if little else ">u2")
    as_words = values.astype("<u2" if little else ">u2")
    for data in (as_bytes, as_words):
        entries, _ = lut(lut_item(count, 0, 8, data.tobytes(), vr="US", little=little), 0, 255)  # type: ignore[arg-type]
        np.testing.assert_array_equal(entries, values)


def test_a_count_of_0_is_65536_and_a_lut_without_data_is_damaged() -> None:
    entries, _ = lut(lut_item(0, 0, 16, np.arange(65536, dtype="<u2").tobytes(), vr="US"), 0, 65535)  # type: ignore[arg-type]
    assert len(entries) == 65536 and entries[-1] == 65535 and math.isclose(entries.mean(), 32767.5)
    with pytest.raises(ImageError, match="damaged"):
        lut(lut_item(5, 0, 16, b"", vr="US"), 0, 255)  # type: ignore[arg-type]
