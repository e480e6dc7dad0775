"""16-bit stores: golden pixels, the definition they follow, and the same gray values 0 to 255 for every reader."""

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pytest

from cxr_ray import config as cfg
from cxr_ray.data import store as stores
from cxr_ray.data import store_format, store_writer
from cxr_ray.data.info import DatasetInfo
from cxr_ray.evaluation import baselines
from cxr_ray.imaging.decode import decode
from cxr_ray.imaging.pixels import Aspect
from cxr_ray.on_ray import train as on_ray
from cxr_ray.workflows import evaluations
from tests.fakes.images import encoded
from tests.fakes.store import fake_store
from tests.integration.test_golden_pixels import ASPECTS, DEEP, GOLDEN, GRAY

WIDE = [[8469, 14578, 21339, 27447], [17996, 24105, 30866, 36974], [28561, 34669, 41430, 47539], [38088, 44196, 50957, 57066]]  # fmt: skip
DEEP_GOLDEN: dict[str, list[list[int]]] = {
    "PNG, 16 bits": WIDE,
    "TIFF, 16 bits": WIDE,
    "TIFF, float": WIDE,
    "DICOM": WIDE,
    "DICOM, RLE": WIDE,
    "DICOM, MONOCHROME1": [
        [57066, 50957, 44196, 38088], [47539, 41430, 34669, 28561], [36974, 30866, 24105, 17996], [27447, 21339, 14578, 8469]
    ],
    "DICOM, window": [
        [2975, 11081, 23340, 34713], [17190, 28489, 41073, 52164], [36786, 48051, 58784, 64215], [54296, 62256, 65272, 65534]
    ],
    "PNG": [[8335, 15301, 23011, 29976], [16678, 23644, 31354, 38320], [25930, 32896, 40606, 47572], [34274, 41239, 48949, 55915]],
    "DICOM, RGB": [[36530, 34932, 33151, 31533], [34615, 33005, 31222, 29615], [32482, 30866, 29083, 27477], [30545, 28934, 27154, 25543]],
}  # fmt: skip


@pytest.mark.parametrize("kind", DEEP_GOLDEN)
def test_the_pixels_are_the_golden_ones(kind: str) -> None:
    pixels = decode(GOLDEN[kind][0](), (4, 4), depth=16).pixels
    assert pixels.dtype == np.uint16
    assert np.abs(pixels.astype(int) - DEEP_GOLDEN[kind]).max() <= 1, pixels.tolist()


@pytest.mark.parametrize("kind", GOLDEN)
def test_both_depths_give_the_same_image(kind: str) -> None:
    deep, flat = (decode(GOLDEN[kind][0](), (4, 4), depth=depth) for depth in (16, 8))
    assert np.abs(deep.pixels / 257 - flat.pixels).max() <= 1.01  # the 8-bit one was rounded before resizing
    expected = (flat.window, flat.transform, flat.height, flat.width)
    assert (deep.window, deep.transform, deep.height, deep.width) == expected


@pytest.mark.parametrize("aspect", ASPECTS)
def test_every_aspect_is_the_same_in_both_depths(aspect: Aspect) -> None:
    pixels = decode(encoded(GRAY), (4, 4), aspect=aspect, depth=16).pixels
    assert pixels.dtype == np.uint16 and np.abs(pixels / 257 - ASPECTS[aspect]).max() <= 1.01


def triangle_filter(length: int, target: int) -> npt.NDArray[np.float64]:
    """Weights [target, length] of a bilinear filter whose support widens when it shrinks, by definition."""
    scale = length / target
    weights = np.zeros((target, length))
    for i in range(target):
        centre = (i + 0.5) * scale
        x = np.arange(max(0, int(centre - scale + 0.5)), min(length, int(centre + scale + 0.5)))
        weights[i, x] = np.maximum(0, 1 - np.abs((x - centre + 0.5) / scale))
    return weights / weights.sum(axis=1, keepdims=True)


def test_windowing_and_resizing_preserve_the_gray_levels() -> None:
    rng = np.random.default_rng(0)
    raw = rng.integers(300, 4400, (97, 113), dtype=np.uint16)
    shade = (raw.astype(float) - raw.min()) * 65535 / (float(raw.max()) - raw.min())
    expected = triangle_filter(97, 40) @ shade @ triangle_filter(113, 50).T
    pixels = decode(encoded(raw), (40, 50), depth=16).pixels
    assert np.abs(pixels - expected).max() < 0.6 and len(np.unique(pixels)) > 1000
    assert len(np.unique(decode(encoded(DEEP), DEEP.shape, depth=16).pixels)) == len(np.unique(DEEP)) > 256 / 2


def test_a_constant_image_is_black_and_extremes_are_black_and_white() -> None:
    assert not decode(encoded(np.full((4, 4), 700, np.uint16)), (4, 4), depth=16).pixels.any()
    extremes = decode(encoded(np.array([[0, 65535]], np.uint16)), (1, 2), depth=16)
    assert extremes.pixels.tolist() == [[0, 65535]] and extremes.window == (0, 65535)


def deep_store(folder: Path, rows: int = 90) -> tuple[stores.Store, npt.NDArray[np.uint16]]:
    fake = fake_store(rows, size=(32, 32))
    pixels = fake.pixels.astype(np.uint16) * 257 + np.random.default_rng(1).integers(
        0, 200, fake.pixels.shape, dtype=np.uint16
    )
    table = fake.index.drop(columns=["mean", "variance"])
    return store_writer.write(
        folder, pixels, table, DatasetInfo(labels=fake.labels, task="multilabel"), shard_rows=20
    ), pixels


def test_a_16_bit_store_gives_gray_values_and_records_its_depth(tmp_path: Path) -> None:
    store, pixels = deep_store(tmp_path / "s")
    assert (store.depth, store.manifest.format_version) == (16, 3) and store_format.verify(tmp_path / "s") == []
    rows = store.index["row"].to_numpy()[::-1]
    grays = store.images(rows)
    np.testing.assert_array_equal(grays, pixels[::-1].astype(np.float32) / np.float32(257))
    assert grays.dtype == np.float32 and grays.min() >= 0 and grays.max() <= 255
    out = np.empty_like(grays)
    assert store.images(rows, out) is out and (out == grays).all()
    with pytest.raises(ValueError, match="needed is float32"):
        store.images(rows, np.empty(grays.shape, np.uint8))
    np.testing.assert_array_equal(store.pictures(rows), np.rint(grays).astype(np.uint8))
    for i, image in enumerate(pixels):
        line = store.index.iloc[i]
        assert line["mean"] == pytest.approx((image / 257).mean(), rel=1e-12)
        assert line["variance"] == pytest.approx((image / 257).var(), rel=1e-9)
        assert line["pixels_sha256"] == hashlib.sha256(image.tobytes()).hexdigest()
    batch = pa.ipc.open_file(tmp_path / "s" / "images-00000-of-00005.arrow").get_batch(0)
    assert batch.schema.field("image").type == pa.fixed_shape_tensor(pa.uint16(), [32, 32])
    blank = pd.DataFrame({"A": np.zeros(len(pixels))})
    flat = store_writer.write(tmp_path / "flat", store.pictures(rows), blank, DatasetInfo(labels=("A",), task="binary"))
    assert flat.manifest.format_version == 3 and flat.images([0]).dtype == np.uint8
    np.testing.assert_allclose(
        baselines.thumbnails(store.images(rows)), baselines.thumbnails(store.pictures(rows)), atol=0.51
    )


def test_it_trains_and_is_evaluated_like_an_8_bit_store(tmp_path: Path) -> None:
    store, _ = deep_store(tmp_path / "s", rows=160)
    hyperparameters = {
        "output": str(tmp_path / "runs"), "name": "deep", "data": {"shards": str(store.path), "split": {"val": 0.2, "test": 0.2}},
        "model": {"name": "lenet"}, "optim": {"lr": 2e-3}, "train": {"epochs": 2, "batch_size": 16}, "report": {"bootstrap": 20},
    }  # fmt: skip
    run = on_ray.train(cfg.validate(hyperparameters), log=lambda line: None)
    result = evaluations.evaluate(run.path, log=lambda line: None)
    assert run.info["status"] == "finished" and result.report.exists()
