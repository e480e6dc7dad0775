"""A folder of valid image files of every kind, and of damaged, foreign and hostile files with the expected reason."""

import io
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from tests.fakes.dicom import dicom
from tests.fakes.images import encoded, png

SIDE = (40, 56)


def gray(seed: int = 0) -> np.ndarray:
    """A gray image with structure: uint8 of `SIDE`."""
    y, x = np.mgrid[0 : SIDE[0], 0 : SIDE[1]]
    return (3 * y + 2 * x + np.random.default_rng(seed).integers(0, 20, SIDE)).astype(np.uint8)


def valid() -> dict[str, bytes]:
    """Files that can be used."""
    one = gray()
    deep = one.astype(np.uint16) * 100
    colour = np.dstack([one, 255 - one, one // 2])
    turned = Image.Exif()
    turned[0x0112] = 6
    jpeg = encoded(one, "JPEG")
    out = {
        "gray.png": encoded(one), "one_bit.png": encoded(Image.fromarray(one > 120)), "deep.png": encoded(deep),
        "rgb.png": encoded(colour), "rgba.png": encoded(np.dstack([colour, one])),
        "palette.png": encoded(Image.fromarray(colour).quantize(64)), "gray.jpg": jpeg, "rgb.jpg": encoded(colour, "JPEG"),
        "cmyk.jpg": encoded(Image.fromarray(colour).convert("CMYK"), "JPEG"), "turned.jpg": encoded(one, "JPEG", exif=turned),
        "progressive.jpg": encoded(one, "JPEG", progressive=True), "gray.bmp": encoded(one, "BMP"),
        "still.gif": encoded(one, "GIF"), "deep.tif": encoded(deep, "TIFF"), "float.tif": encoded(deep.astype(np.float32), "TIFF"),
        "gray.webp": encoded(one, "WEBP"), "a jpeg called.png": jpeg, "no_extension": encoded(one), "ünïcode 胸.png": encoded(one),
        "more_behind_it.jpg": jpeg + b"trailing bytes of a careless download" * 20,
        "flat.png": encoded(np.zeros(SIDE, np.uint8)), "one_pixel.png": encoded(np.array([[7]], np.uint8)),
        "thin.png": encoded(np.arange(200, dtype=np.uint8)[None]),
    }  # fmt: skip
    for syntax in ("explicit", "implicit", "big", "rle", "j2k", "lossless", "jpegls"):
        out[f"{syntax}.dcm"] = dicom(deep, syntax)
    return out | {"inverted.dcm": dicom(deep, PhotometricInterpretation="MONOCHROME1"), "jpeg.dcm": dicom(one, "jpeg")}


def broken() -> dict[str, tuple[bytes, str]]:
    """Files that are rejected, with the reason."""
    one = gray()
    deep = one.astype(np.uint16)
    intact, jpeg, tiff = encoded(one), encoded(one, "JPEG"), encoded(one, "TIFF")
    frames = {"save_all": True, "append_images": [Image.fromarray(gray(1))]}
    wrong_sum = bytearray(intact)
    wrong_sum[intact.index(b"IDAT") + 20] ^= 0x10
    nan = deep.astype(np.float32)
    nan[3, 3] = np.nan
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("gray.png", intact)
    bomb = zlib.compress(bytes(12_000_000), 9)  # 12 KB
    text = (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000), 9))
    deflated = dicom(None).replace(b"UI\x14\x001.2.840.10008.1.2.1\0", b"UI\x16\x001.2.840.10008.1.2.1.99")
    return {
        "empty.png": (b"", "empty file"),
        "page.png": (b"<!DOCTYPE html><title>404 Not Found</title>", "not an image"),
        "table.csv.png": (b"patient,finding\n1,none\n", "not an image"),
        "paper.pdf": (b"%PDF-1.7\n" + bytes(300), "not an image"),
        "archive.zip": (archive.getvalue(), "not an image"),
        "pointer.jpg": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "not an image"),
        "noise.png": (np.random.default_rng(0).bytes(5000), "not an image"),
        "zeros.dcm": (bytes(5000), "not an image"),
        "._gray.png": (b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(100), "not an image"),
        "drawing.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not an image"),
        "cut.png": (intact[: len(intact) // 2], "truncated"),
        "cut.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
        "cut.tif": (tiff[: len(tiff) // 2], "truncated"),
        "head_only.png": (intact[:33], "damaged"),
        "head_only.jpg": (jpeg[:20], "damaged"),
        "signature_only.png": (intact[:8], "damaged"),
        "wrong_sum.png": (bytes(wrong_sum), "damaged"),
        "nan.tif": (encoded(nan, "TIFF"), "values not finite"),
        "no_width.png": (png(0, 40), "damaged"),
        "moving.gif": (encoded(one, "GIF", **frames), "several frames"),
        "moving.png": (encoded(one, "PNG", **frames), "several frames"),
        "moving.webp": (encoded(one, "WEBP", **frames), "several frames"),
        "pages.tif": (encoded(one, "TIFF", **frames), "several frames"),
        "gigapixel.png": (png(40_000, 40_000, bits=1, body=bomb), "over the pixel cap"),
        "terapixel.png": (png(2**31 - 1, 2**31 - 1, body=bomb), "over the pixel cap"),
        "comment_of_100_mb.png": (png(56, 40, body=zlib.compress(bytes(57 * 40)), chunks=(text,)), "damaged"),
        "frames.dcm": (dicom(np.tile(deep, (2, 1)), Rows=SIDE[0], NumberOfFrames=2), "several frames"),
        "report.dcm": (dicom(None, Modality="SR"), "no pixels"),
        "gigapixel.dcm": (dicom(deep, Rows=40_000, Columns=40_000), "over the pixel cap"),
        "cut.dcm": (dicom(deep)[:-1000], "truncated"),
        "deflated.dcm": (deflated, "unsupported transfer syntax"),
        "palette.dcm": (dicom(deep, PhotometricInterpretation="PALETTE COLOR"), "unsupported pixel kind"),
    }  # fmt: skip


def write(root: Path) -> tuple[list[str], dict[str, str]]:
    """Write all files to `root`. Returns the names of the valid files, and the reason for each rejected file."""
    root.mkdir(parents=True)
    good, bad = valid(), broken()
    for name, body in good.items():
        (root / name).write_bytes(body)
    for name, (body, _) in bad.items():
        (root / name).write_bytes(body)
    reasons = {name: reason for name, (_, reason) in bad.items()}
    (root / "folder.png").mkdir()
    os.mkfifo(root / "pipe.png")
    (root.parent / "outside.png").write_bytes(good["gray.png"])
    (root / "link_out.png").symlink_to(root.parent / "outside.png")
    (root / "dead_link.png").symlink_to(root / "nowhere.png")
    (root / "link_in.png").symlink_to(root / "gray.png")
    special = {"folder.png": "not a regular file", "pipe.png": "not a regular file", "link_out.png": "outside the root"}
    special |= {
        "dead_link.png": "file missing",
        "listed_but_absent.png": "file missing",
        "../outside.png": "outside the root",
    }
    return [*good, "link_in.png"], reasons | special
