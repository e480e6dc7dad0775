"""DICOMs that are rejected with a reason: not one gray or RGB frame, too large, truncated, damaged."""

import builtins
import struct
import sys
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ray.errors import UserError
from cxr_ray.imaging import dicom as module
from cxr_ray.imaging.decode import decode
from cxr_ray.imaging.pixels import ImageError
from tests.fakes.dicom import dicom

H, W = 40, 48
RAW = (np.arange(H)[:, None] * 40 + np.arange(W) * 30 + 500).astype(np.uint16)  # 500 to 3,470, of 12 bits


def reason(data: bytes, **options: Any) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data, (8, 8), **options)
    return caught.value.reason


def test_files_without_a_single_gray_or_rgb_frame_are_rejected() -> None:
    assert reason(dicom(None)) == "no pixels"
    assert reason(dicom(RAW, Rows=0)) == "no pixels"
    assert reason(dicom(np.tile(RAW, (2, 1)), Rows=H, NumberOfFrames=2)) == "several frames"
    assert reason(dicom(RAW.astype(np.uint16), PhotometricInterpretation="PALETTE COLOR")) == "unsupported pixel kind"
    gray, rgb = (RAW // 16).astype(np.uint8), np.stack([RAW // 16] * 3, -1).astype(np.uint8)
    for pixels, kind in ((gray, "PALETTE COLOR"), (gray, "RGB"), (rgb, "MONOCHROME2"), (rgb, "HSV"), (RAW, "YBR_FULL")):
        assert reason(dicom(pixels, PhotometricInterpretation=kind)) == "unsupported pixel kind", kind
    assert reason(dicom(rgb, BitsAllocated=16)) == "unsupported pixel kind"
    assert reason(dicom(RAW, BitsAllocated=32)) == "unsupported pixel kind"
    assert reason(b"\0" * 128 + b"DICM" + b"\xff" * 100) in ("no pixels", "damaged")


def test_the_pixel_cap_is_checked_in_the_header_and_in_the_codestream() -> None:
    assert reason(dicom(RAW, Rows=60_000, Columns=60_000)) == "over the pixel cap"
    assert reason(dicom(RAW), max_pixels=H * W - 1) == "over the pixel cap"
    assert reason(dicom(RAW, Rows=H + 1)) == "truncated"  # a row is missing
    for syntax in ("explicit", "j2k", "lossless"):  # exactly the cap
        assert decode(dicom(RAW, syntax), (8, 8), max_pixels=H * W).pixels.shape == (8, 8)
    for syntax, at in (("j2k", b"\xff\x4f\xff\x51"), ("jpegls", b"\xff\xf7"), ("lossless", b"\xff\xc3")):
        body = bytearray(dicom(RAW, syntax))
        start = body.index(at)
        if syntax == "j2k":
            struct.pack_into(">2I", body, start + 8, 60_000, 60_000)  # Rows and Columns are still 40 x 48
        else:
            struct.pack_into(">2H", body, start + 5, 60_000, 60_000)
        assert reason(bytes(body)) == "over the pixel cap", syntax
        struct.pack_into(">2I" if syntax == "j2k" else ">2H", body, start + (8 if syntax == "j2k" else 5), H, W + 1)
        assert reason(bytes(body)) == "damaged", syntax
        assert reason(bytes(body), max_pixels=H * W) == "over the pixel cap", syntax


def with_codestream(frame: bytes) -> bytes:
    """A DICOM of Rows 40 and Columns 48 whose only frame is `frame`, declared as baseline JPEG."""
    from io import BytesIO

    from pydicom import dcmread
    from pydicom.encaps import encapsulate
    from pydicom.filebase import DicomBytesIO

    dataset = dcmread(DicomBytesIO(dicom((RAW // 16).astype(np.uint8), "jpeg")))
    dataset.PixelData = encapsulate([frame])
    dataset.save_as(file := BytesIO(), enforce_file_format=True)
    return file.getvalue()


@pytest.mark.parametrize("marker", [*range(0xC0, 0xD0), 0xF7])
def test_the_size_of_a_jpeg_is_in_its_start_of_frame(marker: int) -> None:
    """Before it: tables and application data of any length, and fill bytes. DHT, JPG and DAC (C4, C8, CC) start no frame."""

    def segment(kind: int, data: bytes) -> bytes:
        return bytes([0xFF, kind]) + struct.pack(">H", 2 + len(data)) + data

    tables = segment(0xE0, b"JFIF\0" + bytes(9)) + b"\xff\xff" + segment(0xC4, bytes(30)) + segment(0xDB, bytes(301))
    frame = segment(marker, b"\x08" + struct.pack(">2H", 60_000, 59_999) + b"\x01\x01\x11\0")
    data = with_codestream(b"\xff\xd8" + tables + frame)
    no_start = marker in (0xC4, 0xC8, 0xCC)
    assert reason(data) == ("damaged" if no_start else "over the pixel cap")
    if not no_start:  # even if the file ends with the size
        assert len(tables + frame[:9]) % 2 == 0  # else a padding byte would follow
        assert reason(with_codestream(b"\xff\xd8" + tables + frame[:9])) == "over the pixel cap"
    after = segment(0xC0, b"\x08" + struct.pack(">2H", 60_000, 59_999) + b"\x01\x01\x11\0")
    assert reason(with_codestream(b"\xff\xd8" + tables + frame + after)) == "over the pixel cap"


def test_a_deflated_file_is_rejected_before_it_is_inflated() -> None:
    data = dicom(None)
    at = data.index(b"1.2.840.10008.1.2.1\0")
    packed = zlib.compressobj(wbits=-15)
    bomb = packed.compress(bytes(50_000_000)) + packed.flush()
    start = at - 8
    head = bytearray(data[:start]) + b"\x02\0\x10\0UI" + struct.pack("<H", 22) + b"1.2.840.10008.1.2.1.99" + bomb
    assert len(head) < 100_000 and reason(bytes(head)) == "unsupported transfer syntax"


def test_files_truncated_at_any_length_are_rejected() -> None:
    for syntax in ("explicit", "implicit", "j2k", "rle", "jpegls"):
        data = dicom(RAW, syntax, bits=12)
        tag = data.index(b"\xe0\x7f\x10\0")
        for length in (0, 50, 132, 300, tag - 3, tag + 40, (tag + len(data)) // 2, len(data) - 30):
            assert reason(data[:length]) in ("empty file", "not an image", "no pixels", "truncated", "damaged"), length
        assert reason(data[: (tag + len(data)) // 2]) == "truncated", syntax


@given(
    at=st.integers(0, 100_000), bit=st.integers(0, 7), syntax=st.sampled_from(["explicit", "j2k", "rle", "lossless"])
)
@settings(max_examples=120, deadline=None)
def test_flipped_bits_give_an_image_or_a_reason(at: int, bit: int, syntax: str) -> None:
    data = bytearray(FLIPPED[syntax])
    data[at % len(data)] ^= 1 << bit
    try:
        assert decode(bytes(data), (8, 8)).pixels.shape == (8, 8)
    except ImageError as error:
        assert len(error.reason) < 40


FLIPPED = {syntax: dicom(RAW, syntax, bits=12) for syntax in ("explicit", "j2k", "rle", "lossless")}


def test_without_the_extra_the_reason_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = dicom(RAW)
    real = builtins.__import__

    def without_pydicom(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "pydicom":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pydicom)
    for name in [name for name in sys.modules if name.split(".")[0] == "pydicom"]:
        monkeypatch.delitem(sys.modules, name)
    assert reason(data) == "a DICOM, which needs the extra dicom: pip install 'cxr_ray[dicom]'"
    with pytest.raises(UserError, match=r"pip install 'cxr_ray\[dicom\]'"):
        module.require_extra()
