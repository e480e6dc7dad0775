"""Images made by code, and files of them in any format that Pillow writes."""

import io
import struct
import zlib
from typing import Any

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


def deep_png(samples: np.ndarray, *, chunks: tuple[tuple[bytes, bytes], ...] = ()) -> bytes:
    """A PNG of 16 bits per sample: uint16 [H, W] or [H, W, S] of S samples, with one filter (Paeth), as real encoders use."""
    planes = samples if samples.ndim == 3 else samples[..., None]
    height, width, count = planes.shape
    rows = planes.astype(">u2").tobytes()
    stride, step = width * count * 2, count * 2
    body, above = bytearray(), bytes(stride)
    for start in range(0, len(rows), stride):
        row = rows[start : start + stride]
        body.append(4)
        for at, value in enumerate(row):
            a, b, c = (row[at - step], above[at], above[at - step]) if at >= step else (0, above[at], 0)
            guess = a + b - c
            nearest = min((abs(guess - a), 0, a), (abs(guess - b), 1, b), (abs(guess - c), 2, c))[2]
            body.append((value - nearest) % 256)
        above = row
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[count]
    return png(width, height, bits=16, kind=kind, body=zlib.compress(bytes(body)), chunks=chunks)


def tiff(*pages: np.ndarray, **options: Any) -> bytes:
    """A TIFF 6.0 of one strip a page: [H, W] or [H, W, S] of any dtype.

    `order`: < or >. `photometric`: 0 white is zero, 1 black is zero, 2 RGB... `deflate`: compressed. `planar`: samples one after
    another. `extra`: kinds of the extra samples. `subfiles`: kind of each page (1: a preview). `tags`: more tags, number to value."""
    order, photometric, deflate, planar, extra, subfiles, more = (
        options.get(name, default)
        for name, default in {
            "order": "<", "photometric": 1, "deflate": False, "planar": False, "extra": (), "subfiles": (0,) * len(pages), "tags": {},
        }.items()
    )  # fmt: skip
    out = bytearray((b"II*\0" if order == "<" else b"MM\0*") + bytes(4))
    link = 4
    for page, subfile in zip(pages, subfiles, strict=True):
        samples = page.shape[2] if page.ndim == 3 else 1
        planes = np.moveaxis(page, 2, 0) if planar else page[None]
        strips = [plane.astype(page.dtype.newbyteorder(order)).tobytes() for plane in planes]
        strips = [zlib.compress(strip) for strip in strips] if deflate else strips
        offsets = []
        for strip in strips:
            offsets.append(len(out))
            out += strip + b"\0" * (len(strip) % 2)
        tags = {
            254: [subfile], 256: [page.shape[1]], 257: [page.shape[0]], 258: [8 * page.itemsize] * samples,
            259: [8 if deflate else 1], 262: [photometric], 273: offsets, 277: [samples], 278: [page.shape[0]],
            279: [len(strip) for strip in strips], 284: [2 if planar else 1],
            339: [{"u": 1, "i": 2, "f": 3}[page.dtype.kind]] * samples,
        } | ({338: list(extra)} if extra else {}) | {number: [value] for number, value in more.items()}  # fmt: skip
        entries = bytearray()
        for number, values in sorted(tags.items()):
            wide = number in (256, 257, 273, 278, 279)
            body = struct.pack(f"{order}{len(values)}{'I' if wide else 'H'}", *values)
            if len(body) > 4:
                place = struct.pack(f"{order}I", len(out))
                out += body + b"\0" * (len(body) % 2)
            else:
                place = body.ljust(4, b"\0")
            entries += struct.pack(f"{order}2HI", number, 4 if wide else 3, len(values)) + place
        struct.pack_into(f"{order}I", out, link, len(out))
        out += struct.pack(f"{order}H", len(tags)) + entries
        link = len(out)
        out += bytes(4)
    return bytes(out)


def png(
    width: int,
    height: int,
    *,
    bits: int = 8,
    kind: int = 0,
    body: bytes = b"",
    chunks: tuple[tuple[bytes, bytes], ...] = (),
    interlaced: bool = False,
) -> bytes:
    """A PNG of colour type `kind` (0 gray) with any header over any zlib body."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, interlaced))
    more = b"".join(chunk(name, data) for name, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + head + more + chunk(b"IDAT", body) + chunk(b"IEND", b"")
