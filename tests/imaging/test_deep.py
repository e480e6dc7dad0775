"""Images of more than 8 bits per sample: every kind is read exactly or refused, whatever Pillow makes of it."""

import io
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cxr_ray.imaging import deep
from cxr_ray.imaging.decode import decode, from_pillow
from cxr_ray.imaging.pixels import Depth, ImageError
from tests.fakes.images import deep_png, encoded, png, smooth, tiff

H, W = 12, 15
RNG = np.random.default_rng(0)
WHITE: dict[Depth, int] = {8: 255, 16: 65535}


def random_samples(dtype: str, shape: tuple[int, ...] = (H, W)) -> np.ndarray:
    """12 bits in 16, else the range of the type."""
    if dtype[0] == "f":
        return RNG.normal(0, 100, shape).astype(dtype)
    info = np.iinfo(dtype)
    high = 4095 if dtype == "u2" else info.max
    return RNG.integers(info.min, high, shape, endpoint=True).astype(dtype)


def expected(gray: np.ndarray, alpha: np.ndarray | float = 1.0, *, inverted: bool = False) -> np.ndarray:
    """From the minimum to the maximum of what is visible, 0 to 1, on black."""
    value = gray.astype(np.float64)
    seen = value[np.broadcast_to(alpha, value.shape) > 0]
    shade = np.clip((value - seen.min()) / (seen.max() - seen.min()), 0, 1)
    return (1 - shade if inverted else shade) * alpha


def luma(rgb: np.ndarray) -> np.ndarray:
    return np.rint(rgb[..., :3].astype(np.float64) @ np.array([0.299, 0.587, 0.114]))


def check(data: bytes, shade: np.ndarray, *, colour: bool = False) -> None:
    """At both depths, and as an opened Pillow image. Luma may be rounded another way: by one of the file's 3,000 or more steps."""
    for depth, white in WHITE.items():
        found = decode(data, (H, W), depth=depth).pixels
        assert np.abs(found - shade * white).max() <= 0.51 + colour * white / 3000
        with Image.open(io.BytesIO(data)) as image:
            np.testing.assert_array_equal(from_pillow(image, (H, W), depth=depth).pixels, found)


def reason(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data, (H, W))
    return caught.value.reason


# ---- PNG


@pytest.mark.parametrize("samples", [1, 2, 3, 4])
def test_all_bits_of_a_16_bit_png_count(samples: int) -> None:
    values = random_samples("u2", (H, W, samples))
    alpha: np.ndarray | float = 1.0
    if samples in (2, 4):
        values[..., -1] = RNG.choice([0, 20_000, 65535], (H, W))
        alpha = values[..., -1] / 65535
    gray = values[..., 0] if samples < 3 else luma(values)
    check(deep_png(values), expected(gray, alpha), colour=samples > 2)


def test_equal_channels_are_the_gray_png() -> None:
    """A 12-bit ramp that was saved as colour is the ramp, and no channel is rounded."""
    ramp = np.tile(np.linspace(0, 4095, W).astype(np.uint16), (H, 1))
    opaque = np.full_like(ramp, 65535)
    for depth in WHITE:
        plain = decode(deep_png(ramp), (H, W), depth=depth)
        assert plain.pixels.max() == WHITE[depth] and plain.window == (0, 4095)
        for channels in ([ramp] * 3, [ramp, opaque], [ramp] * 3 + [opaque]):
            other = decode(deep_png(np.stack(channels, -1)), (H, W), depth=depth)
            np.testing.assert_array_equal(other.pixels, plain.pixels)
            assert other.window == plain.window


@pytest.mark.parametrize("samples", [1, 3])
def test_the_transparent_colour_of_a_deep_png_is_black_and_outside_the_range(samples: int) -> None:
    values = random_samples("u2", (H, W, samples))
    values[:3] = 60_000
    data = deep_png(values, chunks=((b"tRNS", (60_000).to_bytes(2, "big") * samples),))
    alpha = np.ones((H, W))
    alpha[:3] = 0
    check(data, expected(values[..., 0] if samples == 1 else luma(values), alpha), colour=samples == 3)


def test_an_interlaced_deep_png_is_read_like_any_other() -> None:
    """Adam7 (PNG specification 8.2), no filter, 16-bit RGB."""
    values = random_samples("u2", (H, W, 3))
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    body = b"".join(
        b"\0" + row.astype(">u2").tobytes() for y, x, dy, dx in passes for row in values[y::dy, x::dx] if row.size
    )
    data = png(W, H, bits=16, kind=2, body=zlib.compress(body), interlaced=True)
    check(data, expected(luma(values)), colour=True)


# ---- TIFF


@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"])
def test_gray_tiffs_are_exact_or_refused(dtype: str, deflate: bool, order: str, photometric: int) -> None:
    values = random_samples(dtype)
    data = tiff(values, order=order, deflate=deflate, photometric=photometric)
    read = {"u1", "u2", "i2", "u4", "i4", "f4"} if photometric == 1 else {"u1", "u2", "f4"}
    if order == ">":
        read -= {"u4"} | ({"u2"} if photometric == 0 else set()) | ({"i2", "i4", "f4"} if deflate else set())
    if dtype not in read:
        assert reason(data) == "unsupported pixel kind"
    elif dtype == "u1":  # not windowed
        np.testing.assert_array_equal(decode(data, (H, W)).pixels, values if photometric else 255 - values)
    else:
        check(data, expected(values, inverted=photometric == 0))
        window = (float(values.min()), float(values.max()))
        assert decode(data, (H, W)).window == (window if photometric else window[::-1])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("extra", [None, 0, 1, 2])
def test_deep_colour_tiffs_are_exact_or_refused(extra: int | None, deflate: bool, order: str) -> None:
    """Extra sample 0 means nothing, 1 is premultiplied alpha, 2 alpha."""
    values = random_samples("u2", (H, W, 3 if extra is None else 4))
    options: dict[str, Any] = {"photometric": 2, "order": order, "deflate": deflate}
    if extra is not None:
        values[..., 3] = RNG.choice([0, 65535], (H, W))
        options["extra"] = (extra,)
    data = tiff(values, **options)
    if extra == 1:
        assert reason(data) == "unsupported pixel kind"
    else:
        check(data, expected(luma(values), values[..., 3] / 65535 if extra == 2 else 1.0), colour=True)
    assert reason(tiff(values, planar=True, **options)) == "unsupported pixel kind"
    if extra is not None:  # whether the fourth sample is opacity is not said
        assert reason(tiff(values, **{**options, "extra": ()})) == "unsupported pixel kind"


@pytest.mark.parametrize(("photometric", "samples"), [(1, 2), (5, 4), (3, 1), (8, 3), (6, 3)])
def test_other_deep_tiffs_are_refused(photometric: int, samples: int) -> None:
    values = random_samples("u2", (H, W, samples) if samples > 1 else (H, W))
    assert reason(tiff(values, photometric=photometric)) == "unsupported pixel kind"


def test_a_deep_tiff_is_rotated_by_its_orientation() -> None:
    values = random_samples("u2", (W, H, 3))
    turned = tiff(values, photometric=2, tags={274: 6})
    check(turned, expected(np.rot90(luma(values), -1)), colour=True)


def test_white_is_zero_at_every_lower_depth() -> None:
    """Pillow's own: 1, 2, 4 and 8 bits."""
    plane = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for kind in ("raw", "tiff_deflate", "packbits"):
        data = encoded(plane, "TIFF", compression=kind)
        turned = data.replace(b"\x06\x01\x03\0\x01\0\0\0\x01\0", b"\x06\x01\x03\0\x01\0\0\0\0\0")
        assert turned != data
        np.testing.assert_array_equal(decode(turned, (16, 16)).pixels, 255 - plane, err_msg=kind)
    bits = np.eye(16, dtype=bool)
    data = encoded(Image.fromarray(bits), "TIFF", compression="group4")
    np.testing.assert_array_equal(decode(data, (16, 16)).pixels, bits * 255)


def test_damage_is_distinguished_from_an_unsupported_kind() -> None:
    data = tiff(random_samples("f8"))
    assert deep.has_tiff_directory(data) and not deep.has_tiff_directory(encoded(smooth(4, 4)))
    assert reason(data) == "unsupported pixel kind" and reason(data[: len(data) - 200]) == "damaged"
    with Image.open(io.BytesIO(tiff(random_samples("u2", (H, W, 3)), photometric=2))) as image:
        image.load()  # Pillow has dropped the low bytes
        with pytest.raises(ImageError, match="unsupported pixel kind"):
            from_pillow(image, (H, W))


# ---- several frames


def test_previews_are_no_frames() -> None:
    """The first picture of an MPO, and the page of a TIFF whose others are reduced copies (bit 0 of NewSubfileType) or masks (bit 2)."""
    plane = smooth(64, 80)
    small = Image.fromarray(plane).resize((20, 16))
    mpo = encoded(plane, "MPO", save_all=True, append_images=[small])
    plain = encoded(plane, "JPEG")
    for size in ((64, 80), (16, 20)):
        np.testing.assert_array_equal(decode(mpo, size).pixels, decode(plain, size).pixels)
    pages = (plane, plane[::4, ::4], plane[::8, ::8])
    np.testing.assert_array_equal(decode(tiff(*pages, subfiles=(0, 1, 5)), (64, 80)).pixels, plane)
    deep_page = plane.astype(np.uint16) * 16
    np.testing.assert_array_equal(
        decode(tiff(deep_page, plane[::4, ::4], subfiles=(0, 1)), (64, 80)).pixels,
        decode(tiff(deep_page), (64, 80)).pixels,
    )
    for subfiles in ((0, 0, 1), (0, 1, 0), (2, 2, 2)):
        assert reason(tiff(*pages, subfiles=subfiles)) == "several frames"


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_flipped_bits_of_deep_files_give_an_image_or_a_reason(data: st.DataObject) -> None:
    body = bytearray(data.draw(st.sampled_from(DEEP_FILES)))
    for at in data.draw(st.lists(st.integers(0, 10_000), min_size=1, max_size=3)):
        body[at % len(body)] ^= 1 << data.draw(st.integers(0, 7))
    try:
        assert decode(bytes(body), (8, 8)).pixels.shape == (8, 8)
    except ImageError as error:
        assert error.reason


DEEP_FILES = [
    deep_png(random_samples("u2", (H, W, 3))),
    deep_png(random_samples("u2", (H, W, 2))),
    tiff(random_samples("u2", (H, W, 3)), photometric=2, deflate=True),
    tiff(random_samples("u2"), photometric=0),
    tiff(random_samples("f4"), order=">"),
]
