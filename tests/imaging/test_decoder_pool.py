"""A pool of decoders: each file as `decode` reads it, in order; a crash costs one file, wherever it is in a chunk."""

import signal
from pathlib import Path

import numpy as np
import pytest

from cxr_ray.imaging.decode import decode
from cxr_ray.imaging.decoder_pool import CHUNK, DecoderPool
from cxr_ray.imaging.files import Root
from cxr_ray.imaging.pixels import DecodedImage, ImageError
from tests.fakes import broken

OPTIONS = {"size": (24, 32), "aspect": "pad", "depth": 8, "exact_jpeg": False}


def write(folder: Path, bodies: dict[str, bytes]) -> list[str]:
    for name, body in bodies.items():
        (folder / name).write_bytes(body)
    return list(bodies)


def check(found: list[DecodedImage | ImageError], bodies: list[bytes], reasons: dict[int, str]) -> None:
    assert len(found) == len(bodies)
    for at, (image, body) in enumerate(zip(found, bodies, strict=True)):
        if at in reasons:
            assert isinstance(image, ImageError) and image.reason == reasons[at]
        else:
            assert isinstance(image, DecodedImage)
            np.testing.assert_array_equal(image.pixels, decode(body, (24, 32), aspect="pad").pixels)


def test_good_and_bad_files_in_order(tmp_path: Path) -> None:
    bad = {name: body for name, (body, _) in broken.broken().items()}
    bodies = {**broken.valid(), **bad}
    names = [*write(tmp_path, bodies), "gone.png"]
    reasons = {names.index(name): reason for name, (_, reason) in broken.broken().items()}
    reasons[len(names) - 1] = "file missing"
    with DecoderPool(2, OPTIONS) as pool:
        check(list(pool.decode_each(Root(tmp_path), names)), [*bodies.values(), b""], reasons)
        check(list(pool.decode_each(Root(tmp_path), names[:1])), [bodies[names[0]]], {})
        assert list(pool.decode_each(Root(tmp_path), [])) == []


def test_a_remote_root(s3: object, tmp_path: Path) -> None:
    bodies = dict(list(broken.valid().items())[:5])
    names = [*write(tmp_path, bodies), "gone.png"]
    url = s3.upload(tmp_path, "pool/files")  # type: ignore[attr-defined]
    with DecoderPool(2, OPTIONS) as pool:
        check(list(pool.decode_each(Root(url), names)), [*bodies.values(), b""], {5: "file missing"})


@pytest.mark.parametrize("places", [(0,), (1, 2), (CHUNK - 1, CHUNK), tuple(range(0, 3 * CHUNK, 7))])
def test_a_crash_costs_one_file(places: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "fakes" / "killer"))
    good, deadly = broken.valid()["gray.png"], f"die of {signal.SIGABRT:d} ".encode()
    bodies = [deadly if at in places else good for at in range(3 * CHUNK)]
    names = write(tmp_path, {f"{at:03d}": body for at, body in enumerate(bodies)})
    with DecoderPool(2, OPTIONS) as pool:
        check(list(pool.decode_each(Root(tmp_path), names)), bodies, dict.fromkeys(places, "the decoder crashed"))


def test_an_image_that_is_killed_among_others_is_decoded_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "fakes" / "killer"))
    good = broken.valid()["gray.png"]
    bodies = [good, f"die of {signal.SIGKILL:d} ".encode(), good]
    names = write(tmp_path, {str(at): body for at, body in enumerate(bodies)})
    with DecoderPool(2, OPTIONS) as pool:
        found = list(pool.decode_each(Root(tmp_path), names))
    check(found, bodies, {1: "too little memory to decode it"})


def test_an_abandoned_list_leaves_no_process(tmp_path: Path) -> None:
    names = write(tmp_path, {f"{at:03d}.png": broken.valid()["gray.png"] for at in range(100)})
    with DecoderPool(2, OPTIONS) as pool:
        images = pool.decode_each(Root(tmp_path), names)
        assert isinstance(next(images), DecodedImage)
        images.close()
        assert len(list(pool.decode_each(Root(tmp_path), names))) == 100
