"""DICOM: gray values by the formulas of the standard, every transfer syntax, and no tag read that is not on the list."""

import contextlib
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ray.imaging import dicom as module
from cxr_ray.imaging.decode import decode
from cxr_ray.imaging.pixels import ONE_GRAY, Aspect, ImageError
from tests.fakes.dicom import SECRETS, SYNTAXES, dicom, write
from tests.fakes.images import encoded

H, W = 40, 48
RAW = (np.arange(H)[:, None] * 40 + np.arange(W) * 30 + 500).astype(np.uint16)  # 500 to 3,470, of 12 bits


def grays(data: bytes) -> np.ndarray:
    return decode(data, (H, W)).pixels  # at its own size: no pixel is resampled


def lut(entries: np.ndarray, first: int, bits: int) -> list[Any]:
    from pydicom import Dataset

    item = Dataset()
    item.LUTDescriptor, item.LUTData = [len(entries) % 2**16, first, bits], entries.astype("<u2").tobytes()
    item["LUTDescriptor"].VR, item["LUTData"].VR = "SS" if first < 0 else "US", "OW"
    return [item]


# ---- gray values


@pytest.mark.parametrize("syntax", sorted(set(SYNTAXES) - {"jpeg", "j2k_lossy"}))
@pytest.mark.parametrize("kind", ["12 bits", "16 bits", "8 bits", "signed"])
def test_every_lossless_syntax_gives_the_same_gray_values(syntax: str, kind: str) -> None:
    kinds: dict[str, np.ndarray] = {"8 bits": (RAW // 16).astype(np.uint8), "signed": RAW.astype(np.int16) - 1500}
    raw = kinds.get(kind, RAW)
    low, high = int(raw.min()), int(raw.max())
    expected = np.rint((raw.astype(float) - low) / (high - low) * 255)
    decoded = decode(dicom(raw, syntax, bits=12 if kind == "12 bits" else None), (H, W))
    np.testing.assert_array_equal(decoded.pixels, expected)
    assert (decoded.height, decoded.width, decoded.window) == (H, W, (low, high))


@pytest.mark.parametrize(("syntax", "raw"), [("jpeg", (RAW // 16).astype(np.uint8)), ("j2k_lossy", RAW)])
def test_lossy_syntaxes_are_close(syntax: str, raw: np.ndarray) -> None:
    expected = grays(dicom(raw)).astype(int)
    assert np.abs(grays(dicom(raw, syntax)) - expected).max() <= 3


@given(
    center=st.floats(-500, 5000),
    width=st.floats(1, 6000),
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID", None]),
    slope=st.sampled_from([None, 1.0, 0.5, 2.0]),
    intercept=st.sampled_from([0.0, -1024.0]),
)
@settings(max_examples=60, deadline=None)
def test_the_window_equals_pydicom(
    center: float, width: float, function: str | None, slope: float | None, intercept: float
) -> None:
    from pydicom import Dataset, dcmread
    from pydicom.filebase import DicomBytesIO
    from pydicom.pixels import apply_modality_lut, apply_windowing

    center, width = round(center, 2), round(width, 2)
    tags: dict[str, Any] = {"WindowCenter": center, "WindowWidth": width}
    tags |= {"VOILUTFunction": function} if function else {}
    tags |= {} if slope is None else {"RescaleSlope": slope, "RescaleIntercept": intercept}
    data = dicom(RAW, bits=12, **tags)
    dataset: Dataset = dcmread(DicomBytesIO(data))
    theirs = apply_windowing(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    low, high = 0.0, 4095.0
    if slope is not None:
        low, high = low * slope + intercept, high * slope + intercept
    rounded = np.rint(255 * (theirs - low) / (high - low))
    if len(np.unique(rounded)) == 1:  # the window is beside the values
        with pytest.raises(ImageError) as caught:
            decode(data, (8, 8))
        assert caught.value.reason == ONE_GRAY
        return
    np.testing.assert_allclose(grays(data), 255 * (theirs - low) / (high - low), atol=0.5001)


def test_the_window_follows_the_pseudo_code_of_the_standard() -> None:
    """PS3.3 C.11.2.1.2.1, output 0 to 255, pixel by pixel. A negative slope inverts the gray values, and the window does not undo it."""
    center, width = 900.0, 1200.0
    for slope, intercept in ((1.0, 0.0), (-1.0, 4095.0), (-0.5, 2000.0)):
        expected = np.empty((H, W))
        for at in np.ndindex(H, W):
            x = slope * float(RAW[at]) + intercept
            if x <= center - 0.5 - (width - 1) / 2:
                expected[at] = 0
            elif x > center - 0.5 + (width - 1) / 2:
                expected[at] = 255
            else:
                expected[at] = ((x - (center - 0.5)) / (width - 1) + 0.5) * 255
        tags: dict[str, Any] = {
            "WindowCenter": center,
            "WindowWidth": width,
            "RescaleSlope": slope,
            "RescaleIntercept": intercept,
        }
        np.testing.assert_allclose(grays(dicom(RAW, bits=12, **tags)), expected, atol=0.5001)


def test_the_first_of_several_windows_is_used_and_an_invalid_one_is_ignored() -> None:
    one = grays(dicom(RAW, bits=12, WindowCenter=1500, WindowWidth=800))
    several = grays(dicom(RAW, bits=12, WindowCenter=[1500, 100], WindowWidth=[800, 50]))
    np.testing.assert_array_equal(one, several)
    plain = grays(dicom(RAW, bits=12))
    invalid: list[dict[str, Any]] = [
        {"WindowCenter": 1500, "WindowWidth": 0},
        {"WindowCenter": 1500},
        {"WindowWidth": 50},
    ]
    for tags in invalid:
        np.testing.assert_array_equal(grays(dicom(RAW, bits=12, **tags)), plain)
    threshold = grays(dicom(RAW, bits=12, WindowCenter=1500, WindowWidth=1))
    np.testing.assert_array_equal(threshold, np.where(RAW > 1499.5, 255, 0))


@pytest.mark.parametrize("width", [0.5, 1.0, 1.5, 40.0])
def test_narrow_windows_follow_the_formulas_of_the_standard(width: float) -> None:
    """PS3.3 C.11.2.1.3: LINEAR_EXACT and SIGMOID take any width above 0, LINEAR 1 or more."""
    center, x = 1500.5, RAW.astype(float)
    exact = np.clip((x - center) / width + 0.5, 0, 1)
    sigmoid = 1 / (1 + np.exp(np.clip(-4 * (x - center) / width, -50, 50)))
    with np.errstate(divide="ignore", invalid="ignore"):
        ramp = (x - (center - 0.5)) / (width - 1) + 0.5
    linear = np.where(x <= center - 0.5 - (width - 1) / 2, 0, np.where(x > center - 0.5 + (width - 1) / 2, 1, ramp))
    cases = {"LINEAR_EXACT": exact, "SIGMOID": sigmoid} | ({"LINEAR": linear} if width >= 1 else {})
    for function, shade in cases.items():
        data = dicom(RAW, bits=12, WindowCenter=center, WindowWidth=width, VOILUTFunction=function)
        np.testing.assert_allclose(grays(data), 255 * shade, atol=0.5001, err_msg=function)
    plain = grays(dicom(RAW, bits=12))
    for function in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):  # no function has a width of 0
        without = dicom(RAW, bits=12, WindowCenter=center, WindowWidth=0, VOILUTFunction=function)
        np.testing.assert_array_equal(grays(without), plain)


def test_a_lut_of_65536_entries_declares_0() -> None:
    """The number has 16 bits (PS3.3 C.11.1.1.1)."""
    raw = np.linspace(0, 65535, H * W).round().astype(np.uint16).reshape(H, W)
    entries = np.arange(65536)[::-1]
    np.testing.assert_array_equal(
        grays(dicom(raw, VOILUTSequence=lut(entries, 0, 16))), np.rint((65535 - raw) / 65535 * 255)
    )


def test_the_recorded_window_refers_to_stored_values() -> None:
    tags: dict[str, Any] = {"WindowCenter": 1000.5, "WindowWidth": 1001, "RescaleSlope": 2, "RescaleIntercept": -100}
    black, white = decode(dicom(RAW, bits=12, **tags), (H, W)).window or (0, 0)  # 500 to 1,500 after the slope
    assert (black, white) == (300, 800)
    decoded = decode(dicom(RAW, bits=12, PhotometricInterpretation="MONOCHROME1"), (H, W)).window
    assert decoded == (RAW.max(), RAW.min())


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_voi_lut_has_priority_over_a_window(bits: int) -> None:
    entries = np.rint(np.linspace(0, 1, 2000) ** 2 * (2**bits - 1))
    data = dicom(RAW, bits=12, VOILUTSequence=lut(entries, 700, bits), WindowCenter=1500, WindowWidth=10)
    expected = np.rint(entries[np.clip(RAW.astype(int) - 700, 0, 1999)] / (2**bits - 1) * 255)
    np.testing.assert_array_equal(grays(data), expected)


@pytest.mark.parametrize("count", [254, 255])
def test_a_lut_of_8_bits_may_have_one_byte_per_entry_and_a_padding_byte(count: int) -> None:
    """An odd number of bytes is padded to an even one (PS3.5, 7.1.1)."""
    entries = np.rint(np.linspace(0, 1, count) ** 2 * 255).astype(np.uint8)
    sequence = lut(entries, 700, 8)
    sequence[0].LUTData = entries.tobytes() + b"\0" * (count % 2)
    expected = np.rint(entries[np.clip(RAW.astype(int) - 700, 0, count - 1)])
    np.testing.assert_array_equal(grays(dicom(RAW, bits=12, VOILUTSequence=sequence)), expected)


def test_a_16_bit_voi_lut_equals_pydicom() -> None:
    from pydicom import dcmread
    from pydicom.filebase import DicomBytesIO
    from pydicom.pixels import apply_voi

    data = dicom(RAW, bits=12, VOILUTSequence=lut(np.linspace(0, 65535, 3000).round(), 200, 16))
    dataset = dcmread(DicomBytesIO(data))
    np.testing.assert_array_equal(grays(data), np.rint(apply_voi(dataset.pixel_array, dataset) / 65535 * 255))


def test_values_outside_a_lut_get_its_first_or_last_entry() -> None:
    """Four entries from 1,000: of the VOI LUT, and of the modality LUT with a window that changes nothing."""
    entries = np.array([10, 100, 200, 255])
    raw = np.tile(np.array([0, 999, 1000, 1001, 1002, 1003, 1004, 4000], np.uint16), (H, W // 8))
    index = np.clip(raw.astype(int) - 1000, 0, 3)
    voi = grays(dicom(raw, bits=12, VOILUTSequence=lut(entries, 1000, 16)))
    np.testing.assert_array_equal(voi, np.rint((entries[index] - 10) / 245 * 255))
    sequence = lut(entries, 1000, 16)
    sequence[0].ModalityLUTType = "US"
    tags: dict[str, Any] = {"WindowCenter": 127.5, "WindowWidth": 255, "VOILUTFunction": "LINEAR_EXACT"}
    np.testing.assert_array_equal(grays(dicom(raw, bits=12, ModalityLUTSequence=sequence, **tags)), entries[index])


def test_a_voi_lut_of_one_gray_is_ignored() -> None:
    tags: dict[str, Any] = {"WindowCenter": 1500, "WindowWidth": 800}
    constant = grays(dicom(RAW, bits=12, VOILUTSequence=lut(np.full(100, 7), 0, 16), **tags))
    np.testing.assert_array_equal(constant, grays(dicom(RAW, bits=12, **tags)))


def test_a_slope_or_an_intercept_alone_is_applied() -> None:
    tags: dict[str, Any] = {"WindowCenter": 127.5, "WindowWidth": 255, "VOILUTFunction": "LINEAR_EXACT"}
    for slope, intercept in ((0.0625, None), (None, -600), (0.5, -700)):
        given_tags: dict[str, Any] = {
            name: v for name, v in (("RescaleSlope", slope), ("RescaleIntercept", intercept)) if v is not None
        }
        expected = np.clip(RAW.astype(float) * (1 if slope is None else slope) + (intercept or 0), 0, 255)
        np.testing.assert_allclose(grays(dicom(RAW, bits=12, **tags, **given_tags)), expected, atol=0.5001)


def test_a_depth_of_16_keeps_all_gray_levels() -> None:
    raw = np.linspace(0, 65535, H * W).round().astype(np.uint16).reshape(H, W)
    for kind in ("MONOCHROME2", "MONOCHROME1"):
        decoded = decode(dicom(raw, PhotometricInterpretation=kind), (H, W), depth=16)
        assert decoded.pixels.dtype == np.uint16
        np.testing.assert_allclose(decoded.pixels, raw if kind == "MONOCHROME2" else 65535.0 - raw, atol=0.51)
    rgb = np.stack([RAW // 16, RAW // 20, RAW // 14], -1).astype(np.uint8)
    deep = decode(dicom(rgb), (H, W), depth=16)
    assert deep.window is None and deep.pixels.tolist() == (grays(dicom(rgb)).astype(int) * 257).tolist()


def test_a_lut_that_declares_more_bits_than_it_uses_is_not_dark() -> None:
    data = dicom(RAW, bits=12, VOILUTSequence=lut(np.arange(4096), 0, 16))
    np.testing.assert_array_equal(grays(data), np.rint(RAW / 4095 * 255))


def test_a_modality_lut_is_applied_before_the_window() -> None:
    entries = 4095 - np.arange(4096)
    sequence = lut(entries, 0, 12)
    sequence[0].ModalityLUTType = "US"
    data = dicom(RAW, bits=12, ModalityLUTSequence=sequence, WindowCenter=2048, WindowWidth=4096)
    np.testing.assert_array_equal(grays(data), np.rint((4095.0 - RAW) / 4095 * 255))


def test_monochrome1_is_inverted_after_the_window() -> None:
    tags: dict[str, Any] = {"WindowCenter": 1500, "WindowWidth": 1000}
    upright = grays(dicom(RAW, bits=12, **tags)).astype(int)
    turned = grays(dicom(RAW, bits=12, PhotometricInterpretation="MONOCHROME1", **tags)).astype(int)
    assert np.abs(upright + turned - 255).max() <= 1 and upright[0, 0] == 0 and turned[0, 0] == 255


def test_padding_is_black_and_excluded_from_the_range() -> None:
    raw = RAW.copy()
    raw[:, :4] = 65535
    for kind in ("MONOCHROME2", "MONOCHROME1"):
        decoded = decode(dicom(raw, PixelPaddingValue=65535, PhotometricInterpretation=kind), (H, W))
        inner = raw[:, 4:].astype(float)
        shade = (inner - inner.min()) / (inner.max() - inner.min())
        np.testing.assert_array_equal(
            decoded.pixels[:, 4:], np.rint(255 * (shade if kind == "MONOCHROME2" else 1 - shade))
        )
        assert not decoded.pixels[:, :4].any()
    flat = np.full((H, W), 7, np.uint16)
    assert not grays(dicom(flat, PixelPaddingValue=7)).any() and not grays(dicom(flat)).any()


@pytest.mark.parametrize(("value", "limit"), [(500, 800), (800, 500), (500, None), (None, 800)])
def test_a_range_of_padding_is_black_from_end_to_end(value: int | None, limit: int | None) -> None:
    """PS3.3 C.7.5.1.1.2: all values from one to the other, in either order; a limit without a value counts for nothing."""
    given_tags: dict[str, Any] = {
        name: v for name, v in (("PixelPaddingValue", value), ("PixelPaddingRangeLimit", limit)) if v is not None
    }
    padded = np.zeros(RAW.shape, bool)
    if value is not None:
        padded = (min(value, limit or value) <= RAW) & (max(value, limit or value) >= RAW)
    assert padded.sum() == {(500, None): 1, (None, 800): 0}.get((value, limit), ((RAW >= 500) & (RAW <= 800)).sum())
    inner = RAW[~padded].astype(float)
    expected = np.zeros(RAW.shape)
    expected[~padded] = np.rint(255 * (inner - inner.min()) / (inner.max() - inner.min()))
    np.testing.assert_array_equal(grays(dicom(RAW, bits=12, **given_tags)), expected)


def test_colour_becomes_luma() -> None:
    rgb = np.stack([RAW // 16, RAW // 20, RAW // 14], -1).astype(np.uint8)
    luma = rgb @ np.array([0.299, 0.587, 0.114])
    for syntax, tolerance in (("explicit", 1), ("rle", 1), ("j2k", 1), ("jpeg", 6)):
        assert np.abs(grays(dicom(rgb, syntax)) - luma).max() <= tolerance, syntax


@pytest.mark.parametrize("aspect", ["squash", "pad", "center_crop"])
def test_a_dicom_is_resized_like_any_other_image(aspect: Aspect) -> None:
    decoded = decode(dicom(RAW), (16, 16), aspect=aspect)
    as_png = decode(encoded(RAW), (16, 16), aspect=aspect)
    np.testing.assert_array_equal(decoded.pixels, as_png.pixels)
    assert (decoded.transform, decoded.window) == (as_png.transform, as_png.window)


# ---- headers


def test_a_header_contains_only_the_allowed_tags(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", RAW, ImageType=["DERIVED", "SECONDARY", "LOCALIZER"], ViewPosition=None)
    header = module.read_header(path)
    assert set(header) <= {*module.CONTENT_TAGS, *module.IDENTIFIER_TAGS}
    assert (header["PatientID"], header["AccessionNumber"]) == (SECRETS["PatientID"], SECRETS["AccessionNumber"])
    assert header["ImageType"] == "DERIVED\\SECONDARY\\LOCALIZER" and "ViewPosition" not in header
    assert (header["Rows"], header["Columns"], header["Modality"]) == ("40", "48", "DX")
    text = "|".join(header.values())
    secret = [value for name, value in SECRETS.items() if name not in module.IDENTIFIER_TAGS]
    assert not [value for value in secret if value in text]


def test_pixels_are_read_without_any_identifier(monkeypatch: pytest.MonkeyPatch) -> None:
    import pydicom

    tags_read: list[Any] = []
    real = pydicom.dcmread

    def spy(*args: Any, **kwargs: Any) -> Any:
        dataset = real(*args, **kwargs)
        tags_read.extend(element.keyword for element in dataset)
        return dataset

    monkeypatch.setattr(pydicom, "dcmread", spy)
    decode(dicom(RAW, bits=12, WindowCenter=1500, WindowWidth=2000), (8, 8))
    assert "Rows" in tags_read and set(tags_read) <= set(module.PIXEL_TAGS)
    assert not {*module.IDENTIFIER_TAGS, *SECRETS} & {*module.PIXEL_TAGS, *module.CONTENT_TAGS}


def test_a_damaged_tag_is_neither_printed_nor_logged(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> None:
    """pydicom quotes an invalid value in its warning, and gdcm prints what it cannot read."""
    import pydicom

    data = dicom(RAW, SOPInstanceUID="1.2.3.4")
    body = data.replace(b"1.2.3.4\0", b"JANE DOE").replace(b"MRN-00471123", b"DOE\xff\xfe^JANE..")
    path = tmp_path / "a.dcm"
    path.write_bytes(body)
    str(pydicom.dcmread(path))  # pydicom itself does quote them
    assert any("JANE" in str(warning.message) for warning in recwarn) and "JANE" in caplog.text
    recwarn.clear()
    caplog.clear()
    module.read_header(path)
    decode(body, (8, 8))
    cut = dicom(RAW, "lossless")
    for at in range(len(cut) - 600, len(cut) - 10, 40):
        with contextlib.suppress(ImageError):
            decode(cut[:at] + bytes(40) + cut[at + 40 :], (8, 8))
    (tmp_path / "b.dcm").write_bytes(b"no DICOM at all")
    with pytest.raises(ImageError, match="not a DICOM"):
        module.read_header(tmp_path / "b.dcm")
    assert not list(recwarn) and not caplog.text
    printed = "".join(capfd.readouterr())  # gdcm's JPEG decoder prints messages about Huffman codes, without any tag
    assert not [value for value in (*SECRETS.values(), "JANE", "1.2.3.4") if value in printed]


def test_threads_that_read_together_are_quiet_until_the_last_one() -> None:
    """The switches are those of the process: a thread that leaves must not turn them on for another."""
    from pydicom import config

    before = config.settings.reading_validation_mode, list(warnings.filters), logging.getLogger("pydicom").level
    first, second = module.quiet(), module.quiet()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert config.settings.reading_validation_mode == config.IGNORE and warnings.filters[0][0] == "ignore"
    assert logging.getLogger("pydicom").level == logging.CRITICAL
    second.__exit__(None, None, None)
    after = config.settings.reading_validation_mode, list(warnings.filters), logging.getLogger("pydicom").level
    assert after == before
