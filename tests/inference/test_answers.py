"""Answers of the service: those of the predictor, and a reason for every file that cannot be used."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxr_ray.data.store_format import ImageFormat
from cxr_ray.imaging.pixels import ImageError
from cxr_ray.inference import predictor
from cxr_ray.inference.answers import NO_MEMORY, Decoders, answers
from cxr_ray.inference.decisions import Decisions
from tests.fakes import trainings
from tests.fakes.pictures import gigapixel_png
from tests.fakes.store import fake_store

MIB = 2**20


def png(side: int, depth: int = 8) -> bytes:
    """A PNG with noise."""
    pixels = np.random.default_rng(side).integers(0, 2**depth - 1, (side, side), dtype=np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(pixels if depth == 16 else pixels.astype(np.uint8)).save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    with Decoders(1, ImageFormat((28, 28)), memory=256 * MIB) as found:
        yield found


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"hello", "not an image"),
        (png(64)[:-900], "truncated"),
        (gigapixel_png(), "over the pixel cap"),
        (b"\0" * 128 + b"DICM", "(?s).+"),
    ],
    ids=["text", "half a PNG", "1.6 gigapixels", "an empty DICOM"],
)
def test_what_cannot_be_used_has_a_reason(decoders: Decoders, body: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        decoders.decode(body)
    assert decoders.decode(png(28))[0].shape == (28, 28)


def test_an_image_that_takes_too_much_memory_costs_its_own_answer() -> None:
    with Decoders(1, ImageFormat((28, 28)), memory=24 * MIB) as small:
        with pytest.raises(ImageError, match=NO_MEMORY):
            small.decode(png(4096))
        assert small.decode(png(28))[0].shape == (28, 28)


def test_16_bits_are_gray_values_to_255() -> None:
    with Decoders(1, ImageFormat((32, 32), depth=16), memory=256 * MIB) as deep:
        grays, aspect = deep.decode(png(32, 16))
    assert grays.dtype == np.float32 and 200 < grays.max() <= 255 and aspect == 1


def test_answers_are_those_of_the_predictor(decoders: Decoders, tmp_path: Path) -> None:
    found = predictor.load(trainings.fit(trainings.config(tmp_path), fake_store()))
    files = []
    for side in (28, 40, 64):
        file = tmp_path / f"{side}.png"
        file.write_bytes(png(side))
        files.append(file)
    with pytest.warns(UserWarning, match="the store of the run"):
        wanted = found(files)
    thresholds = {label: float(np.sort(wanted[:, j])[1]) for j, label in enumerate(found.labels)}
    decisions = Decisions(
        found.labels, found.task, thresholds, "given", calibration="halves", calibrate=lambda p: p.astype(float) / 2
    )
    results = answers(found, decisions, [decoders.decode(file.read_bytes()) for file in files])
    assert json.loads(json.dumps(results)) == results
    for one, prob_L in zip(results, wanted, strict=True):
        assert list(one["probabilities"]) == list(found.labels)
        np.testing.assert_allclose(list(one["probabilities"].values()), prob_L, atol=1e-6)
        np.testing.assert_allclose(list(one["calibrated"].values()), prob_L / 2, atol=1e-6)
        assert one["decisions"] == {k: one["probabilities"][k] >= thresholds[k] for k in found.labels}
        assert one["unusual"] is None and one["unusual_score"] is None  # this run has no check
    plain = Decisions(found.labels, found.task, thresholds, "given")
    assert answers(found, plain, [decoders.decode(png(28))])[0]["calibrated"] is None
