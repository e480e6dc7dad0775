"""Small images for the fakes."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def picture(path: Path, number: int = 0, size: tuple[int, int] = (24, 20)) -> Path:
    """Write a gray image of `size` (width, height) to `path`. Each `number` gives another image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0]), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def gigapixel_png() -> bytes:
    """1.6 gigapixels of one bit in 200 kB."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    side = 40_000
    pack = zlib.compressobj(1)
    row = bytes(1 + side // 8)
    body = b"".join(pack.compress(row * 1000) for _ in range(side // 1000)) + pack.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
