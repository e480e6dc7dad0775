"""One image as every kind of file, and the exact gray values that each must always give.

`tests/imaging/test_decode.py` and `test_dicom.py` compare decoding with its definitions. The numbers are here, so that another
version of a decoder, or of this code, cannot change a pixel unnoticed. The bytes of a store depend on them.
"""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from cxr_ray.imaging.decode import decode
from cxr_ray.imaging.pixels import Aspect
from tests.fakes.dicom import dicom
from tests.fakes.images import encoded

Y, X = np.mgrid[0:16, 0:24]
GRAY = (9 * Y + 5 * X).astype(np.uint8)  # 0 to 250, no symmetry
DEEP = (1000 + 150 * Y + 64 * X).astype(np.uint16)  # 1,000 to 4,722, of 13 bits
COLOUR = np.stack([GRAY, 255 - GRAY, GRAY // 2], -1)
ALPHA = (255 - 10 * X).astype(np.uint8)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def palette() -> Image.Image:
    image = Image.fromarray(GRAY).convert("P")
    image.putpalette([v for i in range(256) for v in (i, 255 - i, i // 3)])
    return image


PLAIN = [[32, 60, 90, 117], [65, 93, 123, 150], [101, 129, 159, 186], [133, 161, 191, 218]]
WIDE = [[33, 57, 83, 107], [70, 94, 120, 144], [111, 135, 161, 185], [148, 172, 198, 222]]
LUMA = [[142, 136, 129, 122], [135, 129, 122, 115], [127, 120, 113, 107], [119, 113, 106, 99]]

GOLDEN: dict[str, tuple[Callable[[], bytes], list[list[int]], int]] = {
    "PNG": (lambda: encoded(GRAY), PLAIN, 0),
    "PNG, 1 bit": (
        lambda: encoded(Image.fromarray(GRAY > 120)),
        [[0, 0, 12, 103], [0, 19, 132, 241], [35, 166, 249, 255], [200, 251, 255, 255]],
        0,
    ),
    "PNG, 16 bits": (lambda: encoded(DEEP), WIDE, 0),
    "PNG, RGB": (lambda: encoded(COLOUR), LUMA, 0),
    "PNG, RGBA": (
        lambda: encoded(np.dstack([COLOUR, ALPHA])),
        [[125, 91, 56, 27], [119, 86, 53, 25], [112, 80, 49, 24], [105, 76, 46, 22]],
        0,
    ),
    "PNG, gray and alpha": (
        lambda: encoded(np.dstack([GRAY, ALPHA])),
        [[28, 38, 38, 25], [56, 60, 52, 32], [88, 84, 67, 40], [116, 106, 81, 47]],
        0,
    ),
    "PNG, palette": (
        lambda: encoded(palette()),
        [[142, 135, 127, 120], [134, 127, 119, 112], [125, 118, 110, 103], [116, 110, 102, 95]],
        0,
    ),
    "PNG, palette with a transparent colour": (
        lambda: encoded(palette(), transparency=125),
        [[142, 135, 127, 120], [134, 127, 116, 111], [123, 114, 110, 103], [116, 109, 102, 95]],
        0,
    ),
    "PNG, rotated": (
        lambda: encoded(GRAY, exif=exif(6)),
        [[133, 101, 65, 32], [161, 129, 93, 60], [191, 159, 123, 90], [218, 186, 150, 117]],
        0,
    ),
    "BMP": (lambda: encoded(GRAY, "BMP"), PLAIN, 0),
    "GIF": (lambda: encoded(GRAY, "GIF"), PLAIN, 0),
    "TIFF, 16 bits": (lambda: encoded(DEEP, "TIFF"), WIDE, 0),
    "TIFF, float": (lambda: encoded(DEEP.astype(np.float32), "TIFF"), WIDE, 0),
    "JPEG": (lambda: encoded(GRAY, "JPEG", quality=100), PLAIN, 1),
    "JPEG, RGB": (lambda: encoded(COLOUR, "JPEG", quality=100, subsampling=0), LUMA, 1),
    "JPEG, CMYK": (lambda: encoded(Image.fromarray(COLOUR).convert("CMYK"), "JPEG", quality=100), LUMA, 2),
    "JPEG, rotated": (
        lambda: encoded(GRAY, "JPEG", quality=100, exif=exif(8)),
        [[118, 150, 186, 218], [90, 122, 158, 190], [60, 92, 128, 160], [33, 65, 101, 133]],
        1,
    ),
    "JPEG, draft": (lambda: encoded(np.kron(GRAY, np.ones((8, 8), np.uint8)), "JPEG", quality=100), PLAIN, 1),
    "WEBP": (lambda: encoded(GRAY, "WEBP", lossless=True), PLAIN, 0),
    "DICOM": (lambda: dicom(DEEP, bits=13), WIDE, 0),
    "DICOM, RLE": (lambda: dicom(DEEP, "rle", bits=13), WIDE, 0),
    "DICOM, JPEG lossless": (lambda: dicom(DEEP, "lossless", bits=13), WIDE, 0),
    "DICOM, MONOCHROME1": (
        lambda: dicom(DEEP, bits=13, PhotometricInterpretation="MONOCHROME1"),
        [[222, 198, 172, 148], [185, 161, 135, 111], [144, 120, 94, 70], [107, 83, 57, 33]],
        0,
    ),
    "DICOM, window": (
        lambda: dicom(DEEP, bits=13, WindowCenter=2500, WindowWidth=2000),
        [[12, 43, 91, 135], [67, 111, 160, 203], [143, 187, 229, 250], [211, 242, 254, 255]],
        0,
    ),
    "DICOM, window, MONOCHROME1": (
        lambda: dicom(DEEP, bits=13, WindowCenter=2500, WindowWidth=2000, PhotometricInterpretation="MONOCHROME1"),
        [[244, 212, 164, 120], [188, 144, 95, 52], [112, 68, 26, 5], [44, 13, 1, 0]],
        0,
    ),
    "DICOM, RGB": (lambda: dicom(COLOUR), LUMA, 0),
}


@pytest.mark.parametrize("kind", GOLDEN)
def test_the_pixels_are_the_golden_ones(kind: str) -> None:
    make, expected, tolerance = GOLDEN[kind]
    pixels = decode(make(), (4, 4)).pixels
    assert np.abs(pixels.astype(int) - expected).max() <= tolerance, pixels.tolist()


ASPECTS: dict[Aspect, list[list[int]]] = {
    "squash": PLAIN,
    "pad": [[0, 0, 0, 0], [53, 81, 111, 138], [112, 140, 170, 197], [0, 0, 0, 0]],
    "center_crop": [[45, 65, 85, 105], [78, 98, 118, 138], [114, 134, 154, 174], [146, 166, 186, 206]],
}


@pytest.mark.parametrize("aspect", ASPECTS)
def test_the_pixels_of_every_aspect_are_the_golden_ones(aspect: Aspect) -> None:
    assert decode(encoded(GRAY), (4, 4), aspect=aspect).pixels.tolist() == ASPECTS[aspect]


def test_a_large_jpeg_2000_has_the_golden_pixels() -> None:
    """The encoder of openjpeg needs more pixels than the others."""
    assert decode(dicom(np.kron(DEEP, np.ones((4, 4), np.uint16)), "j2k", bits=13), (4, 4)).pixels.tolist() == WIDE
