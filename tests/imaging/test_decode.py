"""Decoding: every pixel kind and every broken file, against slow definitions."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cxr_ray.imaging import decode as images
from cxr_ray.imaging import files, pixels
from cxr_ray.imaging.decode import decode
from cxr_ray.imaging.files import read
from cxr_ray.imaging.phash import perceptual_hash
from cxr_ray.imaging.pixels import ImageError


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A gray picture without symmetry: uint8 [height, width]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    field = 110 + 60 * np.sin(5 * x + rng.uniform(0, 3)) + 50 * np.cos(7 * y * (1 + x)) + 20 * x
    return np.clip(field, 0, 255).astype(np.uint8)


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def resized(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(plane).resize(size[::-1], Image.Resampling.BILINEAR))


def reason(data: bytes, **options: object) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data, (16, 16), **options)  # type: ignore[arg-type]
    return caught.value.reason


# ---- pixel kinds


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF"])
def test_gray_of_every_lossless_format_is_a_plain_resize(kind: str) -> None:
    plane = smooth(60, 90)
    got = decode(encoded(plane, kind), (32, 24))
    assert got.pixels.dtype == np.uint8 and got.pixels.flags.c_contiguous
    np.testing.assert_array_equal(got.pixels, resized(plane, (32, 24)))
    assert (got.height, got.width, got.window) == (60, 90, None)
    assert got.transform == (32 / 60, 24 / 90, 0, 0)


def test_same_size_keeps_every_pixel() -> None:
    plane = smooth(40, 50)
    np.testing.assert_array_equal(decode(encoded(plane), (40, 50)).pixels, plane)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_formats_are_near(kind: str) -> None:
    plane = smooth(120, 100)
    got = decode(encoded(plane, kind, quality=95), (60, 50)).pixels.astype(int)
    assert np.abs(got - resized(plane, (60, 50))).max() <= 6


def test_shrinking_is_antialiased() -> None:
    stripes = np.zeros((256, 256), np.uint8)
    stripes[:, ::2] = 255  # without antialiasing: all black or all white
    middle = decode(encoded(stripes), (32, 32)).pixels[4:-4, 4:-4]
    assert abs(float(middle.mean()) - 127.5) < 3 and middle.std() < 4


def test_colour_becomes_luma() -> None:
    rgb = np.stack([smooth(30, 40, s) for s in (1, 2, 3)], -1)
    luma = rgb @ np.array([0.299, 0.587, 0.114])
    assert np.abs(decode(encoded(rgb), (30, 40)).pixels - luma).max() <= 1


def test_see_through_pixels_lie_on_black() -> None:
    plane, alpha = smooth(20, 30), smooth(20, 30, 5)
    wanted = plane.astype(float) * alpha / 255
    for image in (
        Image.merge("LA", [Image.fromarray(plane), Image.fromarray(alpha)]),
        Image.merge("RGBA", [Image.fromarray(plane)] * 3 + [Image.fromarray(alpha)]),
    ):
        assert np.abs(decode(encoded(image), (20, 30)).pixels - wanted).max() <= 1.5, image.mode


def test_palette_is_looked_up_and_its_transparency_kept() -> None:
    index = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = Image.fromarray(index).convert("P")
    image.putpalette([v for i in range(256) for v in (255 - i, 255 - i, 255 - i)])
    np.testing.assert_array_equal(decode(encoded(image), (3, 4)).pixels, 255 - index)
    clear = decode(encoded(image, transparency=5), (3, 4)).pixels
    assert clear[1, 1] == 0 and clear[0, 0] == 255


def test_one_bit_and_cmyk() -> None:
    bits = np.eye(8, dtype=bool)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(bits)), (8, 8)).pixels, bits * 255)
    cmyk = Image.fromarray(smooth(64, 64)).convert("RGB").convert("CMYK")
    got = decode(encoded(cmyk, "JPEG", quality=95), (64, 64)).pixels.astype(int)
    assert np.abs(got - smooth(64, 64)).max() <= 8


def test_sixteen_bits_are_windowed_by_their_own_range() -> None:
    raw = np.linspace(1000, 5095, 24 * 24).reshape(24, 24).round().astype(np.uint16)
    got = decode(encoded(raw), (24, 24))
    wanted = np.rint((raw.astype(float) - raw.min()) / (int(raw.max()) - int(raw.min())) * 255)
    np.testing.assert_array_equal(got.pixels, wanted)
    assert got.window == (1000, 5095) and len(np.unique(got.pixels)) > 200  # convert("L") leaves one value: 255
    big_endian = decode(encoded(Image.fromarray(raw.astype(">u2")), "TIFF"), (24, 24))
    np.testing.assert_array_equal(big_endian.pixels, wanted)


def test_flat_deep_picture_is_black_and_float_pictures_are_windowed() -> None:
    assert decode(encoded(np.full((8, 8), 300, np.uint16)), (8, 8)).pixels.max() == 0
    values = np.linspace(-2, 3, 64, dtype=np.float32).reshape(8, 8)
    got = decode(encoded(values, "TIFF"), (8, 8))
    np.testing.assert_array_equal(got.pixels, np.rint((values + 2.0) / 5 * 255))
    values[0, 0] = np.nan
    assert reason(encoded(values, "TIFF")) == "values not finite"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_exif_turns_the_picture(orientation: int, kind: str) -> None:
    upright = smooth(48, 80)
    undo = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.T,
            6: lambda a: np.rot90(a), 7: lambda a: np.rot90(a, 2).T, 8: lambda a: np.rot90(a, -1)}  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(undo[orientation](upright))
    got = decode(encoded(stored, kind, exif=exif, **({"quality": 98} if kind == "JPEG" else {})), (24, 20))
    assert (got.height, got.width) == (48, 80)
    assert got.transform == (24 / 48, 20 / 80, 0, 0)
    assert np.abs(got.pixels.astype(int) - resized(upright, (24, 20))).max() <= (4 if kind == "JPEG" else 1)


@pytest.mark.parametrize(
    ("orientation", "shape"),
    [(1, (1163, 1417)), (3, (1163, 1417)), (6, (1163, 1417)), (8, (1163, 1417)), (1, (2320, 2828))],
)
def test_draft_decoding_is_within_two_gray_values(orientation: int, shape: tuple[int, int]) -> None:
    plane = smooth(*shape)  # odd sizes: the drafted picture covers a fraction of a pixel more
    plane = np.clip(plane + np.random.default_rng(0).normal(0, 3, plane.shape), 0, 255).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(plane, "JPEG", quality=90, exif=exif)
    full = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
    full = np.ascontiguousarray({1: full, 3: np.rot90(full, 2), 6: np.rot90(full, -1), 8: np.rot90(full)}[orientation])
    for size in ((64, 96), (96, 64)):
        difference = np.abs(decode(data, size).pixels.astype(int) - resized(full, size))
        assert difference.max() <= 2 and difference.mean() < 0.5


# ---- aspect


@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (50, 50), (13, 200)])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_pad_keeps_the_whole_picture_between_black_bars(shape: tuple[int, int], size: tuple[int, int]) -> None:
    got = decode(encoded(np.full(shape, 200, np.uint8)), size, aspect="pad")
    t = got.transform
    top, bottom = int(t.top), round(t.top + t.scale_y * shape[0])
    left, right = int(t.left), round(t.left + t.scale_x * shape[1])
    inside = np.zeros(size, bool)
    inside[top:bottom, left:right] = True
    np.testing.assert_array_equal(got.pixels, np.where(inside, 200, 0))
    assert (bottom - top, right - left) in {(size[0], right - left), (bottom - top, size[1])}
    shrink = min(size[0] / shape[0], size[1] / shape[1])
    assert abs((bottom - top) - shape[0] * shrink) <= 1 and abs((right - left) - shape[1] * shrink) <= 1


@pytest.mark.parametrize("shape", [(60, 90), (90, 61), (50, 50), (33, 200), (20, 17)])
def test_center_crop_is_torchvisions(shape: tuple[int, int]) -> None:
    from torchvision.transforms import v2

    plane = smooth(*shape)
    wanted = v2.Compose([v2.Resize(32), v2.CenterCrop(32)])(Image.fromarray(plane))
    np.testing.assert_array_equal(decode(encoded(plane), (32, 32), aspect="center_crop").pixels, np.asarray(wanted))


@pytest.mark.parametrize("aspect", ["squash", "pad", "center_crop"])
def test_transform_says_where_a_pixel_went(aspect: pixels.Aspect) -> None:
    plane = np.zeros((200, 300), np.uint8)
    plane[80:90, 160:170] = 255  # centre at (85, 165)
    got = decode(encoded(plane), (100, 100), aspect=aspect)
    y, x = np.average(np.mgrid[0:100, 0:100].reshape(2, -1) + 0.5, axis=1, weights=got.pixels.reshape(-1).astype(float))
    t = got.transform
    assert abs(85 * t.scale_y + t.top - y) < 0.5 and abs(165 * t.scale_x + t.left - x) < 0.5


# ---- what is refused


def png_header(width: int, height: int, data: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF"])
def test_cut_files_are_refused_at_any_length(kind: str) -> None:
    data = encoded(smooth(64, 64), kind)
    allowed = {"truncated", "damaged", "not an image", "empty file"}
    # the last bytes of a file may be an end mark that no decoder needs
    for length in [0, 1, 4, 8, 20, *range(40, len(data) - 64, max(1, len(data) // 40))]:
        assert reason(data[:length]) in allowed, length
    assert reason(b"") == "empty file"
    assert reason(data[: len(data) // 2]) == "truncated"


def test_not_an_image() -> None:
    assert reason(b"patient,finding\n1,none\n") == "not an image"
    assert reason(b"%PDF-1.7 and so on") == "not an image"
    assert reason(b"\x89PNG\r\n\x1a\n" + b"\0" * 50) == "damaged"
    assert reason(encoded(Image.fromarray(smooth(8, 8)), "PPM")) == "not an image"  # not on the list of formats


def test_several_frames_are_refused() -> None:
    frames = [Image.fromarray(smooth(8, 8, s)) for s in range(3)]
    for kind in ("GIF", "TIFF", "PNG", "WEBP"):
        file = io.BytesIO()
        frames[0].save(file, kind, save_all=True, append_images=frames[1:])
        assert reason(file.getvalue()) == "several frames", kind


def test_pixel_cap_is_read_from_the_header_and_nothing_is_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # the files are a hundred bytes; where their pixels were looked for, they would be truncated
        assert reason(png_header(60_000, 60_000)) == "over the pixel cap"
        assert reason(png_header(13_343, 13_342)) == "over the pixel cap"  # over ours, under Pillow's own error
        assert reason(png_header(13_000, 13_000)) == "truncated"
        assert reason(png_header(101, 100), max_pixels=10_000) == "over the pixel cap"
    assert decode(png_header(100, 100, b"\0" * 101 * 100), (4, 4), max_pixels=10_000).pixels.max() == 0


@given(data=st.binary(max_size=300), head=st.sampled_from([b"", *images.SIGNATURES, encoded(smooth(16, 16))[:60]]))
@settings(max_examples=200, deadline=None)
def test_any_bytes_end_in_a_picture_or_a_reason(data: bytes, head: bytes) -> None:
    try:
        assert decode(head + data, (8, 8)).pixels.shape == (8, 8)
    except ImageError as error:
        assert error.reason


@given(at=st.integers(0, 10_000), bit=st.integers(0, 7), kind=st.sampled_from(["PNG", "JPEG", "TIFF", "GIF", "BMP"]))
@settings(max_examples=150, deadline=None)
def test_flipped_bits_end_in_a_picture_or_a_reason(at: int, bit: int, kind: str) -> None:
    data = bytearray(encoded(smooth(32, 32), kind))
    data[at % len(data)] ^= 1 << bit
    try:
        assert decode(bytes(data), (8, 8)).pixels.shape == (8, 8)
    except ImageError as error:
        assert error.reason


# ---- files


def test_read_stays_below_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "a" / "x.png").write_bytes(b"inside")
    (tmp_path / "secret").write_bytes(b"outside")
    (tmp_path / "root2").mkdir()
    (tmp_path / "root2" / "y.png").write_bytes(b"a neighbour whose name begins alike")
    (root / "link.png").symlink_to(tmp_path / "secret")
    (root / "good_link.png").symlink_to(root / "a" / "x.png")
    (root / "b").symlink_to(tmp_path / "root2")  # a folder that leads out
    (root / "c").symlink_to(root / "a")
    (root / "dead.png").symlink_to(root / "none.png")
    (root / "loop.png").symlink_to(root / "loop.png")
    assert (
        read(root, "a/x.png")
        == b"inside"
        == read(root, "good_link.png")
        == read(root, "c/x.png")
        == read(root, "c/../a/x.png")
    )
    for image in (
        "../secret",
        "link.png",
        str(tmp_path / "secret"),
        "a/../../secret",
        "../root2/y.png",
        "b/y.png",
        "..",
        ".",
    ):
        with pytest.raises(ImageError, match="outside the root"):
            read(root, image)
    again = files.Root(root)  # what it remembers of a folder changes no answer
    for _ in range(2):
        assert again.read("a/x.png") == b"inside"
        with pytest.raises(ImageError, match="outside the root"):
            again.read("b/y.png")
    for image in ("dead.png", "loop.png"):
        with pytest.raises(ImageError, match=r"file missing|file unreadable"):
            read(root, image)
    with pytest.raises(ImageError, match="file missing"):
        read(root, "a/none.png")
    with pytest.raises(ImageError, match="file missing"):
        read(root, "a/x.png/none.png")
    with pytest.raises(ImageError, match="file missing"):
        read(root, "a\0b.png")
    with pytest.raises(ImageError, match="not a regular file"):
        read(root, "a")


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="not a regular file"):
        read(tmp_path, "pipe.png")


# ---- perceptual hash


def slow_hash(picture: np.ndarray) -> int:
    height, width = picture.shape
    blocks = np.empty((32, 32))
    for i in range(32):
        for j in range(32):
            top, left = i * height // 32, j * width // 32
            bottom, right = max((i + 1) * height // 32, top + 1), max((j + 1) * width // 32, left + 1)
            blocks[i, j] = picture[top:bottom, left:right].mean()
    low = scipy.fft.dctn(blocks, type=2)[:8, :8].reshape(-1)
    median = np.median(low)
    return sum(1 << (63 - k) for k, value in enumerate(low) if value > median)


@pytest.mark.parametrize("shape", [(224, 224), (64, 96), (320, 256)])
def test_hash_is_the_dct_hash(shape: tuple[int, int]) -> None:
    pictures = np.stack([smooth(*shape, seed) for seed in range(6)])
    pictures = np.clip(pictures + np.random.default_rng(1).normal(0, 20, pictures.shape), 0, 255).astype(np.uint8)
    got = perceptual_hash(pictures)
    assert got.dtype == np.uint64 and got.shape == (6,)
    for value, picture in zip(got.tolist(), pictures, strict=True):
        assert (value ^ slow_hash(picture)).bit_count() <= 4  # block means in whole gray values: bits near the median


def test_hash_is_near_for_near_pictures_and_far_for_others() -> None:
    rng = np.random.default_rng(0)
    one = np.clip(smooth(224, 224) + rng.normal(0, 30, (7, 7)).repeat(32, 0).repeat(32, 1), 0, 255)
    near = np.clip(one * 1.04 + rng.normal(0, 2, one.shape), 0, 255)
    others = [
        np.clip(smooth(224, 224, s) + rng.normal(0, 30, (7, 7)).repeat(32, 0).repeat(32, 1), 0, 255)
        for s in range(1, 5)
    ]
    a, b, *rest = perceptual_hash(np.stack([one, near, *others]).astype(np.uint8)).tolist()
    assert (a ^ b).bit_count() <= 6
    assert min((a ^ other).bit_count() for other in rest) >= 10
    assert perceptual_hash(np.zeros((0, 224, 224), np.uint8)).shape == (0,)
