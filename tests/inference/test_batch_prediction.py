"""Batches: refused inputs leave the others as they are, whatever the batch, the threads and the source of the images."""

import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

import cxr_ray
from cxr_ray.data.store_format import ImageFormat
from cxr_ray.imaging.decode import decode
from cxr_ray.imaging.pixels import ImageError
from cxr_ray.inference import batch_prediction
from cxr_ray.inference.batch_prediction import (
    DecodedBatch,
    collect,
    predict,
    predict_among_decoders,
    read_rows,
    slices,
)
from tests.fakes.explained import store, trained
from tests.fakes.images import deep_png, encoded


@pytest.fixture(scope="module")
def predictor() -> cxr_ray.Predictor:
    return cxr_ray.load_predictor(trained(), gpu=False)


def test_refused_inputs_are_nan_and_move_nothing(predictor: cxr_ray.Predictor) -> None:
    images = store().images([3, 6, 9])
    batch = DecodedBatch(np.arange(10, 15), images, ("bad", None, None, "worse", None), np.ones(3))
    found = predict(predictor, batch)
    assert found.positions.tolist() == list(range(10, 15)) and found.refused == batch.refused
    np.testing.assert_allclose(found.probabilities[[1, 2, 4]], predictor(images), atol=1e-6)
    assert np.isnan(found.probabilities[[0, 3]]).all() and np.isnan(found.scores[[0, 3]]).all()
    none = predict(predictor, DecodedBatch(np.arange(2), images[:0], ("bad", "bad"), np.ones(0)))
    assert np.isnan(none.probabilities).all() and none.probabilities.shape == (2, 3)


def test_rows_of_a_store_in_any_slices() -> None:
    rows = store().index["row"].to_numpy()[::-1].copy()
    batches = slices(np.array([0, 3, 1, 59, 2]), 2)
    found = list(read_rows(store(), rows, batches))
    assert [each.positions.tolist() for each in found] == [[0, 3], [1, 59], [2]]
    np.testing.assert_array_equal(
        np.concatenate([each.grays for each in found]), store().images(rows[[0, 3, 1, 59, 2]])
    )


def test_files_are_as_a_store_would_have_them() -> None:
    deep = (np.arange(1200, dtype=np.uint16) * 50).reshape(30, 40)
    image = decode(deep_png(deep), (28, 28), depth=16)
    found = collect(np.arange(2), [ImageError("bad"), image], ImageFormat((28, 28), depth=16))
    np.testing.assert_array_equal(found.grays[0], np.float32(image.pixels) / np.float32(257))
    assert found.refused == ("bad", None) and found.aspects.tolist() == [30 / 40]
    plain = decode(encoded(np.zeros((20, 10), np.uint8)), (28, 28))
    assert collect(np.arange(1), [plain], ImageFormat((28, 28))).grays.dtype == np.uint8


@pytest.mark.parametrize("slow", ["decoders", "model"])
def test_a_model_gets_all_threads_if_decoders_wait_for_it(
    slow: str, predictor: cxr_ray.Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = store().images([3, 6])
    threads: list[int] = []

    def computed(one: cxr_ray.Predictor, batch: DecodedBatch) -> batch_prediction.PredictedBatch:
        threads.append(torch.get_num_threads())
        time.sleep(0.05 if slow == "model" else 0)
        return predict(one, batch)

    def decoded() -> Iterator[DecodedBatch]:
        for at in range(8):
            time.sleep(0.05 if slow == "decoders" else 0)
            yield DecodedBatch(np.array([2 * at, 2 * at + 1]), images, (None, None), np.ones(2))

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        monkeypatch.setattr(batch_prediction, "predict", computed)
        found = list(predict_among_decoders(predictor, decoded()))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert threads == ([1] * 5 + [2] * 3 if slow == "model" else [1] * 8)
    for each in found:
        np.testing.assert_allclose(each.probabilities, predictor(images), atol=1e-6)
