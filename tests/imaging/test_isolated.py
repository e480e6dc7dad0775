"""A decoder that kills its process: the caller goes on, and the others decode as without it."""

import signal
from pathlib import Path

import numpy as np
import pytest

from cxr_ray.imaging.decode import decode
from cxr_ray.imaging.isolated import DecoderCrash, IsolatedDecoder
from cxr_ray.imaging.pixels import ImageError
from tests.fakes import broken

KILLER = Path(__file__).parents[1] / "fakes" / "killer"
SIZE = (24, 32)


@pytest.fixture
def killer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that are started here have a decoder that may kill them."""
    monkeypatch.syspath_prepend(str(KILLER))


@pytest.mark.parametrize("depth", [8, 16])
def test_every_file_is_decoded_or_rejected_as_without_a_second_process(depth: int) -> None:
    with IsolatedDecoder() as decoder:
        for name, data in broken.valid().items():
            alone = decoder.decode(data, SIZE, aspect="pad", depth=depth)
            plain = decode(data, SIZE, aspect="pad", depth=depth)  # type: ignore[arg-type]
            assert alone.pixels.dtype == plain.pixels.dtype, name
            np.testing.assert_array_equal(alone.pixels, plain.pixels, name)
            others = [{k: v for k, v in vars(image).items() if k != "pixels"} for image in (alone, plain)]
            assert others[0] == others[1] and type(alone.transform) is type(plain.transform), name
        for name, (data, reason) in broken.broken().items():
            with pytest.raises(ImageError) as caught:
                decoder.decode(data, SIZE)
            assert caught.value.reason == reason, name


@pytest.mark.usefixtures("killer")
@pytest.mark.parametrize(
    ("number", "own_fault"), [(signal.SIGABRT, True), (signal.SIGSEGV, True), (signal.SIGKILL, False)]
)
def test_a_crash_is_an_exception_and_the_next_image_is_decoded(number: signal.Signals, own_fault: bool) -> None:
    good = broken.valid()["gray.png"]
    with IsolatedDecoder() as decoder:
        for _ in range(2):
            with pytest.raises(DecoderCrash) as caught:
                decoder.decode(f"die of {number:d} ".encode(), SIZE)
            assert caught.value.own_fault == own_fault
            np.testing.assert_array_equal(decoder.decode(good, SIZE).pixels, decode(good, SIZE).pixels)


@pytest.mark.usefixtures("killer")
def test_an_image_that_needs_more_than_the_allowed_memory_is_no_fault_of_the_decoder() -> None:
    good = broken.valid()["gray.png"]
    with IsolatedDecoder(memory=300 << 20) as decoder:
        with pytest.raises(DecoderCrash) as caught:
            decoder.decode(b"eat 900 ", SIZE)
        assert not caught.value.own_fault
        with pytest.raises(ImageError, match="not an image"):
            decoder.decode(b"eat 100 ", SIZE)
        np.testing.assert_array_equal(decoder.decode(good, SIZE).pixels, decode(good, SIZE).pixels)
