"""Damaged and contradictory files to order: each is made from a good one by a random change, the same for the same number."""

import io
import struct
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from tests.fakes.dicom import SYNTAXES, dicom
from tests.fakes.images import deep_png, encoded, png, smooth, tiff

H, W = 40, 48
RAW = (np.arange(H)[:, None] * 40 + np.arange(W) * 30 + 500).astype(np.uint16)  # 500 to 3,470, of 12 bits
TAGS: dict[str, list[Any]] = {
    "Rows": [0, 1, H - 1, H + 1, 65535], "Columns": [0, 1, W - 1, W + 1, 65535], "NumberOfFrames": [0, 1, 2, 999],
    "SamplesPerPixel": [0, 1, 2, 3, 4], "PhotometricInterpretation": ["MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL", "YBR_FULL_422", "PALETTE COLOR", "X"],
    "PlanarConfiguration": [0, 1, 2], "BitsAllocated": [1, 8, 12, 16, 32], "BitsStored": [0, 1, 6, 7, 8, 9, 10, 12, 13, 16, 17],
    "HighBit": [0, 7, 9, 11, 13, 15, 16, 99], "PixelRepresentation": [0, 1, 2], "PixelPaddingValue": [0, 500, 3470, 65535],
    "PixelPaddingRangeLimit": [0, 900, 65535], "RescaleSlope": ["0", "1", "0.5", "2", "1e30"], "RescaleIntercept": ["0", "-1024", "1e9"],
    "WindowCenter": ["0", "2048", "60000", "-1e9"], "WindowWidth": ["0", "1", "2", "800", "4096", "1e12"],
    "VOILUTFunction": ["LINEAR", "LINEAR_EXACT", "SIGMOID", "X"],
}  # fmt: skip
"""Tags of pixels and values that may contradict the others."""


def is_dicom_number(number: int) -> bool:
    """Whether mutant `number` is made from a DICOM."""
    return number % 5 < 3


def mutant(number: int) -> bytes:
    """The file with that number."""
    rng = np.random.default_rng([7, number])
    if is_dicom_number(number):
        names, changes = sorted(_dicoms()), _DICOM_CHANGES
        data = _dicoms()[names[int(rng.integers(len(names)))]]
    else:
        names, changes = sorted(_pictures()), _PICTURE_CHANGES
        data = _pictures()[names[int(rng.integers(len(names)))]]
    for _ in range(int(rng.integers(1, 4))):
        data = changes[int(rng.integers(len(changes)))](data, rng)
    return data


@cache
def _dicoms() -> dict[str, bytes]:
    eight, negative = (RAW // 16).astype(np.uint8), RAW.astype(np.int16) - 1500
    rgb = np.stack([eight, eight // 2, eight[::-1]], -1)
    out = {f"{name} 12 bits": dicom(RAW, name, bits=12) for name in set(SYNTAXES) - {"jpeg"}}
    out |= {f"{name} 8 bits": dicom(eight, name) for name in SYNTAXES}
    out |= {f"{name} signed": dicom(negative, name, bits=12) for name in set(SYNTAXES) - {"jpeg", "j2k_lossy"}}
    out |= {f"{name} colour": dicom(rgb, name) for name in ("explicit", "rle", "j2k", "jpeg")}
    for name in ("explicit", "implicit", "big", "j2k"):
        tags = {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": 800, "WindowWidth": 1500}
        out[f"{name} window"] = dicom(RAW, name, bits=12, PixelPaddingValue=500, **tags)
        out[f"{name} inverted"] = dicom(RAW, name, bits=12, PhotometricInterpretation="MONOCHROME1", **tags)
        out[f"{name} LUT"] = dicom(
            RAW, name, bits=12, VOILUTSequence=_lut(name), RescaleSlope=1, RescaleIntercept=-1024
        )
    return out


def _lut(syntax: str) -> list[Any]:
    from pydicom import Dataset

    item = Dataset()
    item.add_new("LUTDescriptor", "SS", [3000, -524, 16])
    item.add_new("LUTData", "OW", np.linspace(65535, 0, 3000).astype(">u2" if syntax == "big" else "<u2").tobytes())
    return [item]


@cache
def _pictures() -> dict[str, bytes]:
    gray = smooth(H, W)
    rgb = np.stack([gray, gray[::-1], 255 - gray], -1)
    deep, opaque = RAW, np.full_like(RAW, 65535)
    colour = np.stack([deep, deep[::-1], deep], -1)
    out = {f"{kind} gray": encoded(gray, kind) for kind in ("PNG", "JPEG", "BMP", "TIFF", "GIF")}
    out |= {f"{kind} colour": encoded(rgb, kind) for kind in ("PNG", "JPEG", "BMP", "TIFF")}
    out["JPEG progressive"] = encoded(rgb, "JPEG", progressive=True)
    out["MPO"] = encoded(gray, "MPO", save_all=True, append_images=[Image.fromarray(gray[::4, ::4])])
    for samples in (deep, colour, np.stack([deep, opaque], -1), np.concatenate([colour, opaque[..., None]], -1)):
        out[f"PNG 16 bits {samples.shape}"] = deep_png(samples)
    for order in "<>":
        for deflate in (False, True):
            for name, page, options in (
                ("u2", deep, {}), ("white", deep, {"photometric": 0}), ("i2", deep.astype(np.int16) - 900, {}), ("u1", gray, {"photometric": 0}),
                ("f4", deep.astype(np.float32), {}), ("u4", deep.astype(np.uint32) * 999_999, {}), ("colour", colour, {"photometric": 2}),
            ):  # fmt: skip
                out[f"TIFF {name} {order} {deflate}"] = tiff(page, order=order, deflate=deflate, **options)
    return out


# ---- changes


Change = Callable[[bytes, np.random.Generator], bytes]


def _flip(data: bytes, at: int, rng: np.random.Generator) -> bytes:
    if not data:
        return data
    body = bytearray(data)
    body[at % len(body)] ^= 1 << int(rng.integers(8))
    return bytes(body)


def _flip_anywhere(data: bytes, rng: np.random.Generator) -> bytes:
    return _flip(data, int(rng.integers(max(1, len(data)))), rng)


def _flip_head(data: bytes, rng: np.random.Generator) -> bytes:
    return _flip(data, int(rng.integers(120)), rng)


def _pixels_at(data: bytes) -> int:
    return max(data.find(b"\xe0\x7f\x10\0"), data.find(b"\x7f\xe0\0\x10"), 0)


def _flip_header(data: bytes, rng: np.random.Generator) -> bytes:
    """In a tag before the pixels."""
    return _flip(data, int(rng.integers(132, max(133, _pixels_at(data)))), rng)


def _flip_codestream(data: bytes, rng: np.random.Generator) -> bytes:
    """In the first bytes of the pixels, where codestreams have their header."""
    return _flip(data, _pixels_at(data) + int(rng.integers(130)), rng)


def _cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(len(data) + 1))]


def _cut_end(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: max(0, len(data) - int(rng.integers(1, 200)))]


def _append(data: bytes, rng: np.random.Generator) -> bytes:
    return data + rng.bytes(int(rng.integers(1, 400)))


def _edited(data: bytes, change: Callable[[Any], None]) -> bytes:
    from pydicom import config, dcmread

    try:
        with config.disable_value_validation():
            dataset = dcmread(io.BytesIO(data), force=True)
            change(dataset)
            dataset.save_as(file := io.BytesIO(), enforce_file_format=True)
    except Exception:  # pydicom does not read, or write, what an earlier change made
        return data
    return file.getvalue()


def _set_tag(data: bytes, rng: np.random.Generator) -> bytes:
    name = sorted(TAGS)[int(rng.integers(len(TAGS)))]
    value = TAGS[name][int(rng.integers(len(TAGS[name])))]
    return _edited(data, lambda dataset: setattr(dataset, name, value))


def _remove_tag(data: bytes, rng: np.random.Generator) -> bytes:
    name = sorted(TAGS)[int(rng.integers(len(TAGS)))]
    return _edited(data, lambda dataset: dataset.pop(name, None))


def _drop_preamble(data: bytes, rng: np.random.Generator) -> bytes:
    return data[132:] if data[128:132] == b"DICM" else data


def _other_syntax(data: bytes, rng: np.random.Generator) -> bytes:
    """Another transfer syntax of the same length: the pixels contradict it."""
    uids = [uid for uid in (*SYNTAXES.values(), "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81") if len(uid) == 22]
    now = next((uid for uid in uids if uid.encode() in data), None)
    return data if now is None else data.replace(now.encode(), uids[int(rng.integers(len(uids)))].encode(), 1)


def _png_header(data: bytes, rng: np.random.Generator) -> bytes:
    """Another width, depth, colour type or interlacing of a PNG, with a valid checksum."""
    if not data.startswith(b"\x89PNG") or len(data) < 33:
        return data
    fields = list(struct.unpack(">IIBBBBB", data[16:29]))
    at = int(rng.choice([0, 1, 2, 3, 6]))
    fields[at] = int(
        rng.choice({0: [1, W, W + 1, 10**6], 1: [1, H, H + 1], 2: [1, 2, 4, 8, 16], 3: [0, 2, 3, 4, 6], 6: [0, 1]}[at])
    )
    head = b"IHDR" + struct.pack(">IIBBBBB", *fields)
    return data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]


def _png_of_noise(data: bytes, rng: np.random.Generator) -> bytes:
    """A PNG of any depth and colour type over random bytes, which every filter accepts."""
    if not data.startswith(b"\x89PNG"):
        return data
    bits, kind = [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2), (8, 4), (16, 4), (8, 6), (16, 6)][
        int(rng.integers(11))
    ]
    stride = -(-W * bits * {0: 1, 2: 3, 4: 2, 6: 4}[kind] // 8)
    rows = b"".join(bytes([int(rng.integers(5))]) + rng.bytes(stride) for _ in range(H))
    return png(W, H, bits=bits, kind=kind, body=zlib.compress(rows))


_DICOM_CHANGES: tuple[Change, ...] = (
    _flip_anywhere, _flip_header, _flip_header, _flip_codestream, _flip_codestream, _cut, _cut_end, _append, _set_tag, _set_tag, _set_tag,
    _remove_tag, _drop_preamble, _other_syntax,
)  # fmt: skip
_PICTURE_CHANGES: tuple[Change, ...] = (
    _flip_anywhere, _flip_head, _flip_head, _cut, _cut_end, _append, _png_header, _png_header, _png_of_noise,
)  # fmt: skip
