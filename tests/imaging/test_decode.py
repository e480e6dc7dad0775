"""Decoding: every pixel kind and every broken file, against slow definitions."""

import io
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cxr_ray.imaging.decode import DRAFT_BOUNDS, SIGNATURES, decode, from_pillow
from cxr_ray.imaging.pixels import ONE_GRAY, Aspect, Depth, ImageError
from tests.fakes.dicom import dicom
from tests.fakes.images import encoded, png, smooth

EMPTY = zlib.compress(b"")


def resized(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(plane).resize(size[::-1], Image.Resampling.BILINEAR))


def reason(data: bytes, **options: object) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data, (16, 16), **options)  # type: ignore[arg-type]
    return caught.value.reason


# ---- pixel kinds


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF"])
def test_a_gray_image_of_every_lossless_format_is_only_resized(kind: str) -> None:
    plane = smooth(60, 90)
    decoded = decode(encoded(plane, kind), (32, 24))
    assert decoded.pixels.dtype == np.uint8 and decoded.pixels.flags.c_contiguous
    np.testing.assert_array_equal(decoded.pixels, resized(plane, (32, 24)))
    assert (decoded.height, decoded.width, decoded.window) == (60, 90, None)
    assert decoded.transform == (32 / 60, 24 / 90, 0, 0)


def test_same_size_keeps_every_pixel() -> None:
    plane = smooth(40, 50)
    np.testing.assert_array_equal(decode(encoded(plane), (40, 50)).pixels, plane)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_formats_are_close(kind: str) -> None:
    plane = smooth(120, 100)
    pixels = decode(encoded(plane, kind, quality=95), (60, 50)).pixels.astype(int)
    assert np.abs(pixels - resized(plane, (60, 50))).max() <= 6


def test_shrinking_is_antialiased() -> None:
    stripes = np.zeros((256, 256), np.uint8)
    stripes[:, ::2] = 255  # without antialiasing: all black or all white
    middle = decode(encoded(stripes), (32, 32)).pixels[4:-4, 4:-4]
    assert abs(float(middle.mean()) - 127.5) < 3 and middle.std() < 4


def test_colour_becomes_luma() -> None:
    rgb = np.stack([smooth(30, 40, s) for s in (1, 2, 3)], -1)
    luma = rgb @ np.array([0.299, 0.587, 0.114])
    assert np.abs(decode(encoded(rgb), (30, 40)).pixels - luma).max() <= 1


def test_transparent_pixels_are_composited_on_black() -> None:
    plane, alpha = smooth(20, 30), smooth(20, 30, 5)
    expected = plane.astype(float) * alpha / 255
    for image in (
        Image.merge("LA", [Image.fromarray(plane), Image.fromarray(alpha)]),
        Image.merge("RGBA", [Image.fromarray(plane)] * 3 + [Image.fromarray(alpha)]),
    ):
        assert np.abs(decode(encoded(image), (20, 30)).pixels - expected).max() <= 1.5, image.mode


def test_palette_colours_and_their_transparency_are_used() -> None:
    index = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = Image.fromarray(index).convert("P")
    image.putpalette([v for i in range(256) for v in (255 - i, 255 - i, 255 - i)])
    np.testing.assert_array_equal(decode(encoded(image), (3, 4)).pixels, 255 - index)
    transparent = decode(encoded(image, transparency=5), (3, 4)).pixels
    assert transparent[1, 1] == 0 and transparent[0, 0] == 255


def test_one_bit_and_cmyk() -> None:
    bits = np.eye(8, dtype=bool)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(bits)), (8, 8)).pixels, bits * 255)
    cmyk = Image.fromarray(smooth(64, 64)).convert("RGB").convert("CMYK")
    pixels = decode(encoded(cmyk, "JPEG", quality=95), (64, 64)).pixels.astype(int)
    assert np.abs(pixels - smooth(64, 64)).max() <= 8


def test_16_bit_images_are_windowed_to_their_own_range() -> None:
    raw = np.linspace(1000, 5095, 24 * 24).reshape(24, 24).round().astype(np.uint16)
    decoded = decode(encoded(raw), (24, 24))
    expected = np.rint((raw.astype(float) - raw.min()) / (int(raw.max()) - int(raw.min())) * 255)
    np.testing.assert_array_equal(decoded.pixels, expected)
    assert decoded.window == (1000, 5095) and len(np.unique(decoded.pixels)) > 200  # convert("L") gives one value: 255
    big_endian = decode(encoded(Image.fromarray(raw.astype(">u2")), "TIFF"), (24, 24))
    np.testing.assert_array_equal(big_endian.pixels, expected)


def test_a_constant_deep_image_is_black_and_float_images_are_windowed() -> None:
    assert decode(encoded(np.full((8, 8), 300, np.uint16)), (8, 8)).pixels.max() == 0
    values = np.linspace(-2, 3, 64, dtype=np.float32).reshape(8, 8)
    decoded = decode(encoded(values, "TIFF"), (8, 8))
    np.testing.assert_array_equal(decoded.pixels, np.rint((values + 2.0) / 5 * 255))
    values[0, 0] = np.nan
    assert reason(encoded(values, "TIFF")) == "values not finite"


def test_an_image_of_8_bits_is_only_scaled_at_a_depth_of_16() -> None:
    plane = smooth(40, 50)
    decoded = decode(encoded(plane), (40, 50), depth=16)
    assert decoded.pixels.dtype == np.uint16 and decoded.window is None
    np.testing.assert_array_equal(decoded.pixels, plane.astype(int) * 257)
    for aspect in ("squash", "pad", "center_crop"):
        deep = decode(encoded(plane), (16, 24), aspect=aspect, depth=16).pixels / 257
        flat = decode(encoded(plane), (16, 24), aspect=aspect).pixels
        assert np.abs(deep - flat).max() <= 1, aspect  # resized without rounding to 8 bits


@pytest.mark.parametrize(
    ("low", "high", "dtype", "kind"),
    [
        (0, 65535, np.uint16, "PNG"), (1000, 5000, np.uint16, "PNG"), (0, 65535, np.int32, "TIFF"),
        (0, 65536, np.int32, "TIFF"), (0, 70_000, np.int32, "TIFF"), (-5, 3000, np.int32, "TIFF"), (-5, 70_000, np.int32, "TIFF"),
        (-2.5, 3, np.float32, "TIFF"),
    ],
)  # fmt: skip
def test_deep_images_keep_their_gray_levels_at_a_depth_of_16(low: float, high: float, dtype: type, kind: str) -> None:
    raw: np.ndarray = np.linspace(low, high, 48 * 48).astype(dtype).reshape(48, 48)
    shade = (raw.astype(float) - low) / (high - low)
    depths: tuple[tuple[Depth, int], ...] = ((8, 255), (16, 65535))
    for depth, white in depths:
        decoded = decode(encoded(raw, kind), (48, 48), depth=depth)
        assert decoded.window == (low, high)
        assert np.abs(decoded.pixels - shade * white).max() <= 0.51
        constant = decode(encoded(np.full((8, 8), high, dtype), kind), (8, 8), depth=depth)
        assert not constant.pixels.any() and constant.window == (high, high)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_exif_orientation_rotates_the_image(orientation: int, kind: str) -> None:
    upright = smooth(48, 80)
    undo = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.T,
            6: lambda a: np.rot90(a), 7: lambda a: np.rot90(a, 2).T, 8: lambda a: np.rot90(a, -1)}  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(undo[orientation](upright))
    decoded = decode(encoded(stored, kind, exif=exif, **({"quality": 98} if kind == "JPEG" else {})), (24, 20))
    assert (decoded.height, decoded.width) == (48, 80)
    assert decoded.transform == (24 / 48, 20 / 80, 0, 0)
    assert np.abs(decoded.pixels.astype(int) - resized(upright, (24, 20))).max() <= (4 if kind == "JPEG" else 1)


@pytest.mark.parametrize(
    ("orientation", "shape"),
    [(1, (1163, 1417)), (3, (1163, 1417)), (6, (1163, 1417)), (8, (1163, 1417)), (1, (2320, 2828))],
)
def test_draft_decoding_is_within_two_gray_values(orientation: int, shape: tuple[int, int]) -> None:
    plane = smooth(*shape)  # odd sizes: the draft image covers a fraction of a pixel more
    plane = np.clip(plane + np.random.default_rng(0).normal(0, 3, plane.shape), 0, 255).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(plane, "JPEG", quality=90, exif=exif)
    full = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
    full = np.ascontiguousarray({1: full, 3: np.rot90(full, 2), 6: np.rot90(full, -1), 8: np.rot90(full)}[orientation])
    for size in ((64, 96), (96, 64)):
        difference = np.abs(decode(data, size).pixels.astype(int) - resized(full, size))
        assert difference.max() <= 2 and difference.mean() < 0.5


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("size", [(64, 128), (128, 64)])
def test_the_same_jpeg_with_another_orientation_gives_the_rotated_pixels(
    orientation: int, size: tuple[int, int]
) -> None:
    """Rotating commutes with drafting and resizing. The odd sides differ so much that a draft for the wrong side is coarser, and
    the pattern is so fine that a shift by a fraction of a draft pixel shows."""
    rotate = {2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.T,
              6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).T, 8: lambda a: np.rot90(a)}[orientation]  # fmt: skip
    y, x = np.mgrid[0:515, 0:2061]
    plane = 128 + 60 * np.sin(y / 9) + 60 * np.sin(x / 23) + np.random.default_rng(0).normal(0, 3, y.shape)
    exif = Image.Exif()
    exif[0x0112] = orientation
    files = [encoded(plane.clip(0, 255).astype(np.uint8), "JPEG", quality=90, **more) for more in ({}, {"exif": exif})]
    plain = decode(files[0], size[::-1] if orientation >= 5 else size).pixels
    rotated = decode(files[1], size)
    assert (rotated.height, rotated.width) == ((2061, 515) if orientation >= 5 else (515, 2061))
    assert np.abs(rotated.pixels.astype(int) - rotate(plain.astype(int))).max() <= 1


@pytest.mark.parametrize("size", [(64, 64), (65, 64), (64, 65), (40, 128), (100, 300), (300, 300)])
@pytest.mark.parametrize("shape", [(512, 512), (515, 2061), (1023, 601)])
def test_a_jpeg_is_decoded_at_the_smallest_scale_of_twice_the_size(
    shape: tuple[int, int], size: tuple[int, int]
) -> None:
    """1/8, 1/4, 1/2 or in full, the first that has at least twice the size in both directions."""
    noise = np.random.default_rng(0).normal(0, 20, shape)
    data = encoded(np.clip(smooth(*shape) + noise, 0, 255).astype(np.uint8), "JPEG", quality=90)
    fits = [
        scale
        for scale in (8, 4, 2)
        if all(side // scale >= 2 * target for side, target in zip(shape, size, strict=True))
    ]
    scale = fits[0] if fits else 1
    image = Image.open(io.BytesIO(data))
    image.draft(
        "L", (-(-shape[1] // scale), -(-shape[0] // scale)) if scale == 1 else (shape[1] // scale, shape[0] // scale)
    )
    assert image.size == (-(-shape[1] // scale), -(-shape[0] // scale))
    box = (0, 0, shape[1] / scale, shape[0] / scale)
    expected = image.resize(size[::-1], Image.Resampling.BILINEAR, box=box)
    np.testing.assert_array_equal(decode(data, size).pixels, np.asarray(expected))


def test_a_draft_of_an_odd_size_is_not_stretched() -> None:
    """The last block of a draft covers fewer pixels of the file. If it counted in full, the pattern would shift at the far edges."""
    y, x = np.mgrid[0:1161, 0:1417]
    plane = (128 + 60 * np.sin(y / 45) + 60 * np.sin(x / 45)).astype(np.uint8)
    data = encoded(plane, "JPEG", quality=98)
    full = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
    difference = np.abs(decode(data, (64, 64)).pixels.astype(int) - resized(full, (64, 64)))
    assert difference[:-1, :-1].max() <= 2  # the last block is mostly the padding that the encoder made up


@pytest.mark.parametrize("aspect", ["squash", "pad", "center_crop"])
def test_a_dicom_is_resized_from_edge_to_edge(aspect: Aspect) -> None:
    plane = np.arange(240, dtype=np.uint8).reshape(12, 20)
    plane[0, 0] = 255  # from 0 to 255: the window changes nothing
    plane[0, 1] = 0
    for size in ((12, 20), (6, 5), (24, 30)):
        one, two = decode(dicom(plane), size, aspect=aspect), decode(encoded(plane), size, aspect=aspect)
        np.testing.assert_array_equal(one.pixels, two.pixels)
        assert (one.height, one.width, one.transform) == (12, 20, two.transform) and one.window == (0, 255)


# ---- aspect


@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (50, 50), (13, 200)])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_pad_shows_the_complete_image_between_black_bars(shape: tuple[int, int], size: tuple[int, int]) -> None:
    decoded = decode(encoded(np.full(shape, 200, np.uint8)), size, aspect="pad")
    t = decoded.transform
    top, bottom = int(t.top), round(t.top + t.scale_y * shape[0])
    left, right = int(t.left), round(t.left + t.scale_x * shape[1])
    inside = np.zeros(size, bool)
    inside[top:bottom, left:right] = True
    np.testing.assert_array_equal(decoded.pixels, np.where(inside, 200, 0))
    assert (bottom - top, right - left) in {(size[0], right - left), (bottom - top, size[1])}
    shrink = min(size[0] / shape[0], size[1] / shape[1])
    assert abs((bottom - top) - shape[0] * shrink) <= 1 and abs((right - left) - shape[1] * shrink) <= 1


@pytest.mark.parametrize("shape", [(60, 90), (90, 61), (50, 50), (33, 200), (20, 17)])
def test_center_crop_equals_torchvision(shape: tuple[int, int]) -> None:
    from torchvision.transforms import v2

    plane = smooth(*shape)
    expected = v2.Compose([v2.Resize(32), v2.CenterCrop(32)])(Image.fromarray(plane))
    np.testing.assert_array_equal(decode(encoded(plane), (32, 32), aspect="center_crop").pixels, np.asarray(expected))


@pytest.mark.parametrize("size", [(24, 40), (40, 24), (31, 20)])
@pytest.mark.parametrize("shape", [(60, 90), (90, 61), (50, 50), (33, 200)])
def test_a_center_crop_that_is_not_square_covers_its_size(shape: tuple[int, int], size: tuple[int, int]) -> None:
    """The image is resized until it just covers the size, then torchvision's CenterCrop cuts it."""
    from torchvision.transforms import v2

    plane = smooth(*shape)
    by_height = size[0] / shape[0] >= size[1] / shape[1]
    cover = (size[0], size[0] * shape[1] // shape[0]) if by_height else (size[1] * shape[0] // shape[1], size[1])
    expected = v2.CenterCrop(size)(Image.fromarray(resized(plane, cover)))
    decoded = decode(encoded(plane), size, aspect="center_crop")
    np.testing.assert_array_equal(decoded.pixels, np.asarray(expected))


@pytest.mark.parametrize("turn", [False, True])
def test_a_line_is_one_pixel_wide_if_it_would_vanish(turn: bool) -> None:
    line = np.full((1, 1000) if turn else (1000, 1), 200, np.uint8)
    pixels = decode(encoded(line), (32, 32), aspect="pad").pixels
    assert ((pixels.T if turn else pixels) == np.where(np.arange(32) == 15, 200, 0)).all()


@pytest.mark.parametrize("size", [(100, 100), (60, 120), (120, 60)])
@pytest.mark.parametrize("aspect", ["squash", "pad", "center_crop"])
def test_transform_maps_original_to_stored_pixels(aspect: Aspect, size: tuple[int, int]) -> None:
    plane = np.zeros((200, 300), np.uint8)
    plane[80:90, 160:170] = 255  # centre at (85, 165)
    decoded = decode(encoded(plane), size, aspect=aspect)
    y, x = np.average(
        np.mgrid[0 : size[0], 0 : size[1]].reshape(2, -1) + 0.5,
        axis=1,
        weights=decoded.pixels.reshape(-1).astype(float),
    )
    t = decoded.transform
    assert abs(85 * t.scale_y + t.top - y) < 0.5 and abs(165 * t.scale_x + t.left - x) < 0.5


# ---- rejected files


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF"])
def test_files_truncated_at_any_length_are_rejected(kind: str) -> None:
    data = encoded(smooth(64, 64), kind)
    allowed = {"truncated", "damaged", "not an image", "empty file"}
    # the last bytes of a file may be an end marker that no decoder needs
    for length in [0, 1, 4, 8, 20, *range(40, len(data) - 64, max(1, len(data) // 40))]:
        assert reason(data[:length]) in allowed, length
    assert reason(b"") == "empty file"
    assert reason(data[: len(data) // 2]) == "truncated"


def test_not_an_image() -> None:
    assert reason(b"patient,finding\n1,none\n") == "not an image"
    assert reason(b"%PDF-1.7 and so on") == "not an image"
    assert reason(b"\x89PNG\r\n\x1a\n" + b"\0" * 50) == "damaged"
    assert reason(encoded(Image.fromarray(smooth(8, 8)), "PPM")) == "not an image"  # not one of FORMATS


def test_several_frames_are_rejected() -> None:
    frames = [Image.fromarray(smooth(8, 8, s)) for s in range(3)]
    for kind in ("GIF", "TIFF", "PNG", "WEBP"):
        file = io.BytesIO()
        frames[0].save(file, kind, save_all=True, append_images=frames[1:])
        assert reason(file.getvalue()) == "several frames", kind


def test_pixel_cap_is_checked_in_the_header_without_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # the files are a hundred bytes: decoding would find them truncated
        assert reason(png(60_000, 60_000, body=EMPTY)) == "over the pixel cap"
        # over our cap, below the limit of Pillow
        assert reason(png(13_343, 13_342, body=EMPTY)) == "over the pixel cap"
        assert reason(png(17_800, 10_000, body=EMPTY)) == "truncated"  # exactly the cap of 178,000,000
        assert reason(png(178_000_001, 1, body=EMPTY)) == "over the pixel cap"
        assert reason(png(17_800, 10_000, body=EMPTY), max_pixels=10**9) == "truncated"
        assert reason(png(178_000_001, 1, body=EMPTY), max_pixels=10**9) == "over the pixel cap"
        assert reason(png(13_000, 13_000, body=EMPTY)) == "truncated"
        assert reason(png(101, 100, body=EMPTY), max_pixels=10_000) == "over the pixel cap"
    assert decode(png(100, 100, body=zlib.compress(bytes(101 * 100))), (4, 4), max_pixels=10_000).pixels.max() == 0


@given(data=st.binary(max_size=300), head=st.sampled_from([b"", *SIGNATURES, encoded(smooth(16, 16))[:60]]))
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_an_image_or_a_reason(data: bytes, head: bytes) -> None:
    try:
        assert decode(head + data, (8, 8)).pixels.shape == (8, 8)
    except ImageError as error:
        assert error.reason


@given(at=st.integers(0, 10_000), bit=st.integers(0, 7), kind=st.sampled_from(["PNG", "JPEG", "TIFF", "GIF", "BMP"]))
@settings(max_examples=150, deadline=None)
def test_flipped_bits_give_an_image_or_a_reason(at: int, bit: int, kind: str) -> None:
    data = bytearray(encoded(smooth(32, 32), kind))
    data[at % len(data)] ^= 1 << bit
    try:
        assert decode(bytes(data), (8, 8)).pixels.shape == (8, 8)
    except ImageError as error:
        assert error.reason


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16", "1", "P"])
@pytest.mark.parametrize("aspect", ["squash", "pad", "center_crop"])
def test_a_pillow_image_is_decoded_like_its_file(mode: str, aspect: Aspect) -> None:
    plane = smooth(40, 30)
    image = Image.fromarray(plane.astype(np.uint16) * 100) if mode == "I;16" else Image.fromarray(plane).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    body = io.BytesIO()
    image.save(body, format="PNG", exif=exif)
    for depth in (8, 16):
        expected = decode(body.getvalue(), (20, 24), aspect=aspect, depth=depth)
        with Image.open(io.BytesIO(body.getvalue())) as opened:
            actual = from_pillow(opened, (20, 24), aspect=aspect, depth=depth)
        assert np.array_equal(actual.pixels, expected.pixels)
        assert (actual.height, actual.width, actual.transform) == (expected.height, expected.width, expected.transform)


def test_a_damaged_pillow_image_is_refused() -> None:
    body = encoded(Image.fromarray(smooth(40, 30)), "PNG")
    with Image.open(io.BytesIO(body[: len(body) // 2])) as image, pytest.raises(ImageError, match=r"truncated|damaged"):
        from_pillow(image, (8, 8))


@pytest.mark.parametrize("aspect", ["squash", "pad", "center_crop"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_an_exact_jpeg_is_the_full_decode(orientation: int, aspect: Aspect) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise = np.random.default_rng(0).integers(0, 256, (515, 700, 3), dtype=np.uint8)
    data = encoded(noise, "JPEG", exif=exif)
    with Image.open(io.BytesIO(data)) as opened:
        expected = from_pillow(opened, (32, 40), aspect=aspect)
    exact = decode(data, (32, 40), aspect=aspect, exact_jpeg=True)
    np.testing.assert_array_equal(exact.pixels, expected.pixels)
    assert exact.transform == expected.transform == decode(data, (32, 40), aspect=aspect).transform


@pytest.mark.parametrize(("side", "bound"), DRAFT_BOUNDS.items())
def test_the_documented_bound_of_drafts_holds_on_real_jpegs(side: int, bound: int, shared_data: Path) -> None:
    files = [file for file in sorted((shared_data / "covid").iterdir()) if file.is_file()]
    found = [
        np.abs(decode(data, (side, side)).pixels.astype(int) - decode(data, (side, side), exact_jpeg=True).pixels)
        for data in (file.read_bytes() for file in files)
        if data.startswith(b"\xff\xd8\xff")
    ]
    assert len(found) == 60 and max(int(gap.max()) for gap in found) == bound
    assert max(float(gap.mean()) for gap in found) <= 0.45


def test_a_picture_that_is_lost_is_refused_and_one_that_is_blank_is_not() -> None:
    """By its palette, by its opacity, by equal luma: the stored values vary, the grays do not."""
    index = Image.fromarray(smooth(16, 16)).convert("P")
    index.putpalette([7] * 768)
    clear = Image.merge("LA", [Image.fromarray(smooth(16, 16)), Image.new("L", (16, 16), 0)])
    for image in (index, clear):
        for depth in (8, 16):
            assert reason(encoded(image), depth=depth) == ONE_GRAY
    for plane in (
        np.full((16, 16), 9, np.uint8),
        np.full((16, 16), 900, np.uint16),
        np.full((16, 16, 3), 80, np.uint8),
    ):
        assert np.ptp(decode(encoded(plane), (8, 8)).pixels) == 0
    stripes = np.zeros((64, 64), np.uint8)
    stripes[::2] = 255  # gray only because it is shrunk
    assert np.ptp(decode(encoded(stripes), (1, 1)).pixels) == 0
