"""Which bytes are a DICOM, with or without preamble and file meta header; and what is none."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ray.imaging.decode import SIGNATURES, decode
from cxr_ray.imaging.dicom import HEAD_BYTES, is_dicom, read_header
from cxr_ray.imaging.pixels import ImageError
from tests.fakes.dicom import dicom
from tests.fakes.images import encoded, smooth

RAW = smooth(40, 48).astype(np.uint16) * 16
NATIVE = ("explicit", "implicit", "big")


def without_meta(data: bytes) -> bytes:
    """The dataset alone, as ACR-NEMA and some archives store it."""
    from pydicom import dcmread

    start = 132
    length = int.from_bytes(data[start + 8 : start + 12], "little")  # of the group, in its first element
    assert dcmread(io.BytesIO(data)).file_meta.FileMetaInformationGroupLength == length
    return data[start + 12 + length :]


@pytest.mark.parametrize("syntax", [*NATIVE, "rle", "j2k", "jpegls", "lossless"])
def test_a_dicom_without_preamble_is_read_like_one_with_it(syntax: str, tmp_path: Path) -> None:
    data = dicom(RAW, syntax, bits=12, SOPInstanceUID="1.2.3")
    files = [data, data[132:]] + ([without_meta(data)] if syntax in NATIVE else [])
    headers = []
    for number, file in enumerate(files):
        assert is_dicom(file) and is_dicom(file[:HEAD_BYTES])
        np.testing.assert_array_equal(decode(file, (40, 48)).pixels, decode(data, (40, 48)).pixels)
        (tmp_path / f"{number}").write_bytes(file)
        headers.append(read_header(tmp_path / f"{number}"))
    assert headers[0]["SOPInstanceUID"] == "1.2.3" and all(header == headers[0] for header in headers)


def test_compressed_pixels_of_an_unnamed_syntax_are_refused() -> None:
    for syntax in ("j2k", "rle"):
        with pytest.raises(ImageError, match="unsupported transfer syntax"):
            decode(without_meta(dicom(RAW, syntax, bits=12)), (8, 8))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP"])
def test_no_image_of_another_format_is_taken_for_a_dicom(kind: str) -> None:
    assert not is_dicom(encoded(smooth(40, 48), kind))
    assert not any(map(is_dicom, SIGNATURES))


@given(
    data=st.binary(max_size=200),
    head=st.sampled_from([b"", b"\x02\0", b"\x08\0", b"\0\x08", b"\x08\0\x05\0CS", b"PK\3\4"]),
)
@settings(max_examples=200, deadline=None)
def test_bytes_need_two_elements_in_order(data: bytes, head: bytes) -> None:
    body = head + data
    if is_dicom(body):
        groups = {body[:2], body[128:132]}
        assert groups & {b"\x02\0", b"\x08\0", b"\0\x08", b"DICM"}
    for text in (b"", b"name,Edema\n1.dcm,0\n" * 30, bytes(1000), b"\x08\0" * 500, b"\x02\0" * 500):
        assert not is_dicom(text)


def test_files_that_are_none_have_their_reason(tmp_path: Path) -> None:
    from pydicom import dcmread

    index = dcmread(io.BytesIO(dicom(None)))
    index.SOPClassUID = "1.2.840.10008.1.3.10"
    index.save_as(file := io.BytesIO(), enforce_file_format=True)
    contents = {
        "empty file": b"",
        "not a DICOM": b"PK\3\4" + bytes(500),
        "DICOMDIR index": file.getvalue(),
    }
    for reason, data in contents.items():
        (tmp_path / "file").write_bytes(data)
        with pytest.raises(ImageError) as caught:
            read_header(tmp_path / "file")
        assert caught.value.reason == reason
    (tmp_path / "file").write_bytes(dicom(RAW, NumberOfFrames="1").replace(b"IS\x02\x001 ", b"IS\x02\x00x "))
    header = read_header(tmp_path / "file")
    assert "NumberOfFrames" not in header and header["Rows"] == "40"
