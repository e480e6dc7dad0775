"""The header of a JPEG, JPEG-LS or JPEG 2000 codestream: what it says about its image. Decodes no pixel."""

import struct
from typing import NamedTuple

JPEG_2000 = b"\xff\x4f\xff\x51"  # SOC, SIZ
SEARCHED = 256
"""First bytes of a frame in which a JPEG 2000 codestream begins: some are inside a JP2 file."""
JPEG_LS_START = 0xF7
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
    at = 2 if frame.startswith(b"\xff\xd8") else len(frame)
    while at + 9 <= len(frame) and frame[at] == 0xFF:
        marker, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4], "big")
        if marker == JPEG_LS_START or (0xC0 <= marker <= 0xCF and marker not in NO_START):
            bits, height, width = struct.unpack_from(">B2H", frame, at + 4)
            return Codestream(height, width, bits, int.from_bytes(frame[at + 9 : at + 10]))
        at += 1 if marker == 0xFF else 2 + length
    return None
