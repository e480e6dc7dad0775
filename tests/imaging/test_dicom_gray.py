"""Bits, padding and LUTs of a DICOM, written in every way that the standard or careless writers leave open, against slow readings."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ray.imaging.decode import decode
from cxr_ray.imaging.dicom_gray import Bits
from cxr_ray.imaging.pixels import ONE_GRAY, ImageError
from tests.fakes.dicom import dicom

H, W = 40, 48
RAW = (np.arange(H)[:, None] * 40 + np.arange(W) * 30 + 500).astype(np.uint16)  # 500 to 3,470, of 12 bits
NATIVE = ("explicit", "implicit", "big")


def grays(data: bytes) -> np.ndarray:
    return decode(data, (H, W)).pixels  # at its own size: no pixel is resampled


def reason(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data, (H, W))
    return caught.value.reason


def scaled(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    return np.rint((values - low) / (high - low) * 255)


def edited(data: bytes, **tags: Any) -> bytes:
    """The file with other tags, whatever they contradict. A pair (VR, value) gives a tag that VR; None removes the tag."""
    from pydicom import dcmread

    dataset = dcmread(io.BytesIO(data))
    for name, value in tags.items():
        if value is None:
            delattr(dataset, name)
        elif isinstance(value, tuple):
            dataset.add_new(name, *value)
        else:
            setattr(dataset, name, value)
    dataset.save_as(file := io.BytesIO(), enforce_file_format=True)
    return file.getvalue()


def lut(
    syntax: str, entries: np.ndarray, first: int, *, vr: str, data: bytes | None = None, bits: int = 16
) -> list[Any]:
    """A LUT whose first input is written as US or SS, and whose entries are words in the order of the transfer syntax."""
    from pydicom import Dataset

    item = Dataset()
    start = first % 2**16 if vr == "US" else first
    item.add_new("LUTDescriptor", vr, [len(entries) % 2**16, start, bits])
    words = entries.astype(">u2" if syntax == "big" else "<u2").tobytes()
    item.add_new("LUTData", "OW", words if data is None else data)
    return [item]


# ---- bits


@pytest.mark.parametrize("syntax", NATIVE)
@pytest.mark.parametrize(("stored", "high"), [(12, 11), (12, 12), (12, 15), (10, 13), (8, 15), (16, 15), (15, 15)])
@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("others", ["zero", "sign", "overlay"])
def test_the_value_is_in_the_stored_bits(syntax: str, stored: int, high: int, is_signed: bool, others: str) -> None:
    """The other bits are zero, continue the sign, or have an overlay (PS3.5 8.1.1)."""
    rng = np.random.default_rng([stored, high])
    low = -(2 ** (stored - 1)) if is_signed else 0
    values = rng.integers(low, low + 2**stored, (H, W))
    shift = high + 1 - stored
    pattern = (values % 2**stored) << shift
    mask = ((2**stored - 1) << shift) ^ 0xFFFF
    if others == "sign" and is_signed:
        pattern |= np.where(values < 0, mask & ~((1 << shift) - 1), 0)
    elif others == "overlay":
        pattern |= rng.integers(0, 2**16, (H, W)) & mask
    raw = pattern.astype(np.uint16).view(np.int16 if is_signed else np.uint16)
    data = dicom(raw, syntax, BitsStored=stored, HighBit=high)
    np.testing.assert_array_equal(grays(data), scaled(values))
    assert decode(data, (H, W)).window == (values.min(), values.max())
    bits = Bits(stored, shift, is_signed)
    assert (bits.low, bits.high) == (low, low + 2**stored - 1)


def test_bits_that_contradict_each_other_are_refused_by_name() -> None:
    for tags, expected in (
        ({"BitsStored": 12, "HighBit": 10}, "HighBit contradicts BitsStored"),
        ({"BitsStored": 12, "HighBit": 16}, "HighBit contradicts BitsStored"),
        ({"BitsStored": 17, "HighBit": 16}, "BitsStored contradicts BitsAllocated"),
        ({"BitsStored": 0, "HighBit": 0}, "BitsStored contradicts BitsAllocated"),
        ({"BitsStored": None}, "pixel tags missing"),
        ({"PixelRepresentation": None}, "pixel tags missing"),
        ({"PixelRepresentation": 2}, "pixel tags missing"),
        ({"BitsAllocated": None}, "pixel tags missing"),
        ({"PhotometricInterpretation": None}, "pixel tags missing"),
        ({"SamplesPerPixel": None}, "pixel tags missing"),
    ):
        assert reason(edited(dicom(RAW), **tags)) == expected, tags
    np.testing.assert_array_equal(grays(edited(dicom(RAW, bits=12), HighBit=None)), scaled(RAW))
    for syntax in ("rle", "j2k", "jpegls", "lossless"):
        assert reason(edited(dicom(RAW, syntax, bits=12), HighBit=15)) == "HighBit contradicts BitsStored", syntax


@pytest.mark.parametrize("stored", [*range(1, 8), *range(9, 17)])
@pytest.mark.parametrize("syntax", ["jpeg", "lossless", "lossless14", "jpegls", "j2k"])
def test_a_codestream_of_8_bits_contradicts_any_other_number(syntax: str, stored: int) -> None:
    """gdcm ends the process on a JPEG of 8 bits that is declared to have fewer."""
    data = dicom((RAW // 16).astype(np.uint8), syntax)
    wrong = edited(data, BitsStored=stored, HighBit=stored - 1, BitsAllocated=8 if stored < 8 else 16)
    assert reason(wrong) == "BitsStored contradicts the codestream"


@pytest.mark.parametrize("stored", range(9, 17))
@pytest.mark.parametrize("syntax", ["lossless", "lossless14", "jpegls", "j2k"])
@pytest.mark.parametrize("is_signed", [False, True])
def test_a_deep_codestream_may_have_other_bits_if_its_values_fit(syntax: str, stored: int, is_signed: bool) -> None:
    """Written with 12 bits (j2k) or 16 (gdcm). Whether 12 bits of a codestream have a sign of 14 is not plain."""
    raw = RAW.astype(np.int16) - 1500 if is_signed else RAW
    data = edited(dicom(raw, syntax, bits=12), BitsStored=stored, HighBit=stored - 1)
    written = 12 if syntax == "j2k" else 16
    fits = -(2 ** (stored - 1)) <= raw.min() and raw.max() < 2 ** (stored - 1) if is_signed else raw.max() < 2**stored
    if fits and (not is_signed or stored == written or written == 16):
        np.testing.assert_array_equal(grays(data), scaled(raw))
    else:
        assert reason(data) == "BitsStored contradicts the codestream"


def test_other_contradictions_of_a_codestream_are_refused() -> None:
    gray, rgb = (RAW // 16).astype(np.uint8), np.stack([RAW // 16] * 3, -1).astype(np.uint8)
    for syntax in ("jpeg", "j2k"):
        wrong = edited(dicom(rgb, syntax), SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2")
        assert reason(wrong) == "SamplesPerPixel contradicts the pixels"
        wrong = edited(dicom(gray, syntax), SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
        assert reason(wrong) == "SamplesPerPixel contradicts the pixels"
    assert reason(edited(dicom(rgb), BitsStored=7, HighBit=6)) == "unsupported pixel kind"


# ---- padding


@pytest.mark.parametrize("syntax", NATIVE)
@pytest.mark.parametrize("vr", ["US", "SS"])
@pytest.mark.parametrize(("value", "limit"), [(-2000, None), (-2000, -1800), (-1800, -2000), (1900, 2100), (-2000, 40)])
def test_padding_has_the_sign_of_the_pixels(syntax: str, vr: str, value: int, limit: int | None) -> None:
    raw = np.random.default_rng(0).integers(-2048, 2048, (H, W)).astype(np.int16)
    raw[:5] = value
    tags = {"PixelPaddingValue": value} | ({} if limit is None else {"PixelPaddingRangeLimit": limit})
    written = {name: (vr, v % 2**16 if vr == "US" else v) for name, v in tags.items()}
    data = edited(dicom(raw, syntax), **written)
    last = value if limit is None else limit
    padded = (raw >= min(value, last)) & (raw <= max(value, last))
    inside = raw[~padded].astype(float)
    expected = np.where(padded, 0, np.rint((raw - inside.min()) / (inside.max() - inside.min()) * 255).clip(0, 255))
    np.testing.assert_array_equal(grays(data), expected)


def test_unsigned_padding_is_read_as_unsigned() -> None:
    raw = RAW.copy()
    raw[:5] = 63_536
    for syntax in NATIVE:
        np.testing.assert_array_equal(
            grays(edited(dicom(raw, syntax), PixelPaddingValue=("SS", -2000)))[5:], scaled(raw[5:])
        )


def test_padding_outside_the_stored_bits_is_the_whole_pattern() -> None:
    raw = RAW.copy()
    raw[:5] = 65_535
    np.testing.assert_array_equal(grays(dicom(raw, bits=12, PixelPaddingValue=65_535))[5:], scaled(raw[5:]))


# ---- LUTs


@pytest.mark.parametrize("syntax", NATIVE)
@pytest.mark.parametrize("vr", ["US", "SS"])
@pytest.mark.parametrize(
    ("is_signed", "intercept", "first"),
    [
        (False, -1024, -1024),
        (True, 0, -1500),
        (True, -100, -1600),
        (False, 0, 500),
        (True, 2048, 548),
        (False, 40_000, 40_500),
    ],
)
def test_a_voi_lut_begins_in_the_type_of_its_input(
    syntax: str, vr: str, is_signed: bool, intercept: int, first: int
) -> None:
    """PS3.3 C.11.2.1.1: signed if the rescaled range begins below 0."""
    if vr == "SS" and first >= 2**15:
        first -= 2**16
    raw = RAW.astype(np.int16) - 2000 if is_signed else RAW
    entries = np.linspace(65535, 0, 3000).round()
    data = dicom(
        raw,
        syntax,
        bits=12,
        VOILUTSequence=lut(syntax, entries, first, vr=vr),
        RescaleSlope=1,
        RescaleIntercept=intercept,
    )
    start = first % 2**16 if intercept == 40_000 else first
    at = np.clip(raw.astype(int) + intercept - start, 0, len(entries) - 1)
    np.testing.assert_array_equal(grays(data), np.rint(entries[at] / 65535 * 255))


@pytest.mark.parametrize("syntax", NATIVE)
@pytest.mark.parametrize("vr", ["US", "SS"])
@pytest.mark.parametrize("is_signed", [False, True])
def test_a_modality_lut_begins_in_the_type_of_the_pixels(syntax: str, vr: str, is_signed: bool) -> None:
    raw = RAW.astype(np.int16) - 2000 if is_signed else RAW
    entries = np.linspace(4000, 0, 3000).round()
    sequence = lut(syntax, entries, int(raw.min()), vr=vr)
    sequence[0].ModalityLUTType = "US"
    expected = scaled(entries[np.clip(raw.astype(int) - int(raw.min()), 0, 2999)])
    np.testing.assert_array_equal(grays(dicom(raw, syntax, bits=12, ModalityLUTSequence=sequence)), expected)


@pytest.mark.parametrize("syntax", NATIVE)
def test_entries_may_be_declared_as_us(syntax: str) -> None:
    entries = np.linspace(65535, 0, 4096).round().astype(int)
    sequence = lut(syntax, entries, 0, vr="US")
    if syntax != "implicit":
        sequence[0].add_new("LUTData", "US", entries.tolist())
    np.testing.assert_array_equal(
        grays(dicom(RAW, syntax, bits=12, VOILUTSequence=sequence)), np.rint(entries[RAW] / 65535 * 255)
    )


# ---- windows, and what is lost


@pytest.mark.parametrize("syntax", NATIVE)
@pytest.mark.parametrize(
    ("center", "width", "same_as"),
    [
        (b"1500,5", b"800", (1500.5, 800)), (b"1500.5", b"8,0e2", (1500.5, 800)), (b"NaN", b"800", None), (b"1500", b"inf", None),
        (b"NaN\\1500", b"9\\800", (1500, 800)), (b"abc", b"800", None), (b"", b"800", None),
    ],
)  # fmt: skip
def test_a_window_is_read_leniently_or_counts_as_absent(
    syntax: str, center: bytes, width: bytes, same_as: tuple[float, float] | None
) -> None:
    def even(text: bytes) -> bytes:
        return text + b" " * (len(text) % 2)

    data = dicom(RAW, syntax, bits=12, WindowCenter="12345678", WindowWidth="87654321")
    for placeholder, text in ((b"12345678", even(center)), (b"87654321", even(width))):
        at = data.index(placeholder)
        order = "big" if syntax == "big" else "little"
        size = 4 if syntax == "implicit" else 2
        data = data[: at - size] + len(text).to_bytes(size, order) + text + data[at + 8 :]  # type: ignore[arg-type]
    plain: dict[str, Any] = {} if same_as is None else {"WindowCenter": same_as[0], "WindowWidth": same_as[1]}
    np.testing.assert_array_equal(grays(data), grays(dicom(RAW, bits=12, **plain)))


def test_values_that_overflow_are_refused() -> None:
    assert reason(dicom(RAW, bits=12, RescaleSlope="1e308", RescaleIntercept="1e308")) == "values not finite"


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": 60_000, "WindowWidth": 10}, {"WindowCenter": -5, "WindowWidth": 3}, {"RescaleSlope": 0, "RescaleIntercept": 9},
        {"WindowCenter": 0, "WindowWidth": "1e12"}, {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 4095},
        {"PhotometricInterpretation": "MONOCHROME1", "WindowCenter": 60_000, "WindowWidth": 10},
        {"VOILUTSequence": lut("explicit", np.array([0, 65535]), 9000, vr="US")},
    ],
)  # fmt: skip
def test_a_picture_that_its_header_makes_one_gray_is_refused(tags: dict[str, Any], depth: Any) -> None:
    data = dicom(RAW, bits=12, **tags)
    with pytest.raises(ImageError) as caught:
        decode(data, (H, W), depth=depth)
    assert caught.value.reason == ONE_GRAY
    flat = dicom(np.full((H, W), 700, np.uint16), bits=12, **tags)
    assert np.ptp(decode(flat, (H, W), depth=depth).pixels) == 0  # as it is in the file


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_every_combination_follows_the_slow_reading(data: st.DataObject) -> None:
    """Pixel by pixel in Python: bits, padding, rescale, VOI LUT of any first input, inversion."""
    is_signed = data.draw(st.booleans())
    stored = data.draw(st.integers(9, 16))
    shift = data.draw(st.integers(0, 16 - stored))
    intercept = data.draw(st.sampled_from([0, -1024, 1024, 2**stored // 2]))
    count, syntax = data.draw(st.integers(2, 600)), data.draw(st.sampled_from(NATIVE))
    kind, vr = data.draw(st.sampled_from(["MONOCHROME1", "MONOCHROME2"])), data.draw(st.sampled_from(["US", "SS"]))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    low = -(2 ** (stored - 1)) if is_signed else 0
    values = rng.integers(low, low + 2**stored, (6, 7))
    first = int(rng.choice(values.reshape(-1))) + intercept
    if not (-(2**15) <= first < 2**15 if low + intercept < 0 else 0 <= first < 2**16):
        return  # no LUT can say so
    entries = np.sort(rng.integers(0, 65536, count))
    padding = int(values[0, 0])
    raw = ((values % 2**stored) << shift).astype(np.uint16).view(np.int16 if is_signed else np.uint16)
    word = first if vr == "US" and first >= 0 else first % 2**16 if vr == "US" else (first + 2**15) % 2**16 - 2**15
    tags = {"PixelPaddingValue": ("US", padding % 2**16), "RescaleSlope": "1", "RescaleIntercept": str(intercept)}
    sequence = lut(syntax, entries, word, vr=vr)
    body = dicom(
        raw,
        syntax,
        BitsStored=stored,
        HighBit=stored + shift - 1,
        PhotometricInterpretation=kind,
        VOILUTSequence=sequence,
    )
    expected = np.zeros((6, 7))
    for at in np.ndindex(6, 7):
        value = int(values[at])
        entry = entries[min(max(value + intercept - first, 0), count - 1)]
        shade = (entry - entries[0]) / (entries[-1] - entries[0]) if entries[-1] > entries[0] else None
        if shade is None:
            return
        shade = 1 - shade if kind == "MONOCHROME1" else shade
        expected[at] = 0 if value == padding else round(255 * shade)
    try:
        found = decode(edited(body, **tags), (6, 7)).pixels
    except ImageError as error:
        assert error.reason == ONE_GRAY and len(np.unique(expected)) == 1
        return
    np.testing.assert_allclose(found, expected, atol=0.5001)
