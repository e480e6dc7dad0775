"""Images made by code, and files of them in any format that Pillow writes."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A gray image without symmetry: uint8 [height, width]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    field = 110 + 60 * np.sin(5 * x + rng.uniform(0, 3)) + 50 * np.cos(7 * y * (1 + x)) + 20 * x
    return np.clip(field, 0, 255).astype(np.uint8)


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    """The bytes of a file in Pillow's format `kind`."""
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def png(
    width: int, height: int, *, bits: int = 8, body: bytes = b"", chunks: tuple[tuple[bytes, bytes], ...] = ()
) -> bytes:
    """A gray PNG with any header over any zlib body."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))
    more = b"".join(chunk(kind, data) for kind, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + head + more + chunk(b"IDAT", body) + chunk(b"IEND", b"")
