"""Headers of codestreams, as real encoders write them."""

import io

import numpy as np
import pytest
from PIL import Image

from cxr_ray.imaging.codestream import read_codestream
from tests.fakes.dicom import dicom
from tests.fakes.images import smooth


def frame_of(data: bytes) -> bytes:
    from pydicom import dcmread
    from pydicom.encaps import get_frame

    return get_frame(dcmread(io.BytesIO(data)).PixelData, 0, number_of_frames=1)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("syntax", ["j2k", "j2k_lossy", "lossless", "lossless14", "jpegls"])
def test_size_bits_and_samples_are_read(syntax: str, bits: int) -> None:
    """gdcm writes JPEGs of the allocated bits, openjpeg of the stored ones."""
    raw = smooth(40, 48).astype(np.uint8 if bits == 8 else np.uint16)
    written = bits if syntax.startswith("j2k") or bits == 8 else 16
    assert read_codestream(frame_of(dicom(raw, syntax, bits=bits))) == (40, 48, written, 1)


def test_a_colour_jpeg_has_three_samples_and_progressive_ones_are_read_too() -> None:
    for options in ({}, {"progressive": True}, {"optimize": True}):
        file = io.BytesIO()
        Image.fromarray(np.stack([smooth(40, 48)] * 3, -1)).save(file, "JPEG", **options)
        assert read_codestream(file.getvalue()) == (40, 48, 8, 3)


def test_other_bytes_have_no_header() -> None:
    for data in (b"", b"\xff\xd8", b"\xff\xd8\xff\xd9", bytes(300), frame_of(dicom(smooth(40, 48), "rle"))):
        assert read_codestream(data) is None
