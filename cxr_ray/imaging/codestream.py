"""The header of a JPEG, JPEG-LS or JPEG 2000 codestream: what it says about its image. Decodes no pixel."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

JPEG_2000 = b"\xff\x4f\xff\x51"  # SOC, SIZ
SEARCHED = 256
"""First bytes of a frame in which a JPEG 2000 codestream begins: some are inside a JP2 file."""
JPEG_LS_START = 0xF7
SCAN_START = 0xDA
NO_START = (0xC4, 0xC8, 0xCC)  # DHT, JPG and DAC share the range of the starts of frame


class Codestream(NamedTuple):
    """What a codestream declares."""

    height: int
    width: int
    bits: int
    """Bits of a sample."""
    samples: int
    """Samples of a pixel; 0 if the codestream ends before them."""


def read_codestream(frame: bytes) -> Codestream | None:
    """The header of the codestream in the bytes of one frame; None without one (RLE, damage).

    ISO 10918-1 B.2.2 and ISO 14495-1 C.2.2 (start of frame), ISO 15444-1 A.5.1 (SIZ). Raises `struct.error` if SIZ is cut."""
    at = frame.find(JPEG_2000, 0, SEARCHED)
    if at >= 0:
        right, bottom, left, top = struct.unpack_from(">4I", frame, at + 8)
        samples, precision = struct.unpack_from(">HB", frame, at + 40)
        return Codestream(bottom - top, right - left, (precision & 0x7F) + 1, samples)
    for marker, body in _segments(frame):
        if _starts_frame(marker):
            if len(body) < 5:
                return None
            bits, height, width = struct.unpack_from(">B2H", body)
            return Codestream(height, width, bits, body[5] if len(body) > 5 else 0)
    return None


def is_sound_jpeg(frame: bytes) -> bool:
    """Whether the header of a JPEG or JPEG-LS is a chain of segments up to its first scan, with known versions of JFIF and of Adobe's colours.

    libjpeg warns of anything else and goes on; gdcm ends the process on such a warning."""
    samples = 0
    for marker, body in _segments(frame):
        if _starts_frame(marker) and len(body) > 5:
            samples = body[5]
        if marker == 0xE0 and body.startswith(b"JFIF\0") and body[5:6] != b"\x01":
            return False
        if marker == 0xEE and body.startswith(b"Adobe") and samples != 1 and body[11:12] not in (b"\0", b"\x01", b""):
            return False
        if marker == SCAN_START:
            return samples > 0
    return False


def _starts_frame(marker: int) -> bool:
    return marker == JPEG_LS_START or (0xC0 <= marker <= 0xCF and marker not in NO_START)


def _segments(frame: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and data of each segment of a JPEG, up to the first scan or to where the chain breaks. The last one may be cut."""
    at = 2 if frame.startswith(b"\xff\xd8") else len(frame)
    while at + 4 <= len(frame) and frame[at] == 0xFF:
        marker, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4], "big")
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker < 0xC0 or 0xD0 <= marker <= 0xD9 or length < 2:  # no segment of a header
            return
        yield marker, frame[at + 4 : at + 2 + length]
        if marker == SCAN_START:
            return
        at += 2 + length
