"""Predictions of a trained run: probabilities of its model, rows of a store in order. Ensembles: tests/runs/test_ensemble.py."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cxr_ray import runs
from cxr_ray.data import store_writer
from cxr_ray.errors import UserError
from cxr_ray.inference import embedding, predictor, unusual
from cxr_ray.models import serialization
from cxr_ray.models.create import create_model
from tests.fakes import embedded
from tests.fakes.store import FakeStore, fake_store
from tests.fakes.trainings import config, fit


@pytest.fixture(scope="module", params=["multilabel", "multiclass"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[runs.Run, FakeStore]:
    store = fake_store(40, task=request.param)
    return fit(config(tmp_path_factory.mktemp("runs"), train={"epochs": 1}), store), store


def test_it_gives_the_probabilities_of_the_model(trained: tuple[runs.Run, FakeStore]) -> None:
    run, store = trained
    images = store.images(store.index["row"].to_numpy()[:5])
    model = predictor.load(run.path, gpu=False)
    prob = model(images)
    with torch.inference_mode():
        logits = serialization.read(run.weights).model(torch.from_numpy(images))
    expected = logits.softmax(dim=1) if store.task == "multiclass" else logits.sigmoid()
    assert prob.dtype == np.float32 and np.allclose(prob, expected.numpy(), atol=1e-6)
    assert (model.labels, model.task) == (store.labels, store.task)


def test_rows_are_predicted_in_their_order(trained: tuple[runs.Run, FakeStore]) -> None:
    run, store = trained
    rows = store.index["row"].to_numpy()[::-1][:7]
    model = predictor.load(run, gpu=False)
    one_by_one = np.concatenate([model(store.images([row])) for row in rows])
    assert np.allclose(model.rows(store, rows, batch_size=3), one_by_one, atol=1e-6)
    assert model.rows(store, rows[:0]).shape == (0, len(store.labels))


def test_non_contiguous_images_are_taken(trained: tuple[runs.Run, FakeStore]) -> None:
    run, store = trained
    images = store.images(store.index["row"].to_numpy()[:3])
    model = predictor.load(run, gpu=False)
    assert np.array_equal(model(images[:, :, ::-1]), model(np.ascontiguousarray(images[:, :, ::-1])))


def test_a_batch_holds_at_least_one_image(trained: tuple[runs.Run, FakeStore]) -> None:
    with pytest.raises(UserError, match="batch_size must be at least 1"):
        predictor.load(trained[0])(np.zeros((2, 64, 64), np.uint8), batch_size=0)


def test_a_run_without_a_model_is_refused(trained: tuple[runs.Run, FakeStore], tmp_path: Path) -> None:
    run, _ = trained
    (tmp_path / "run.json").write_text((run.path / "run.json").read_text())
    (tmp_path / "config.yaml").write_text((run.path / "config.yaml").read_text())
    with pytest.raises(UserError, match=r"has no model yet \(status: \w+\); continue it with `cxr-ray train --resume "):
        predictor.load(tmp_path)


def test_a_run_on_features_measures_its_images_as_its_network_does(tmp_path: Path) -> None:
    """Of 16 bits, by a network that takes 0 to 1: `measure` is of gray values 0 to 255, whatever the network takes."""
    fake = fake_store(60, size=(28, 28))
    table = fake.index.drop(columns=["mean", "variance"])
    store = store_writer.write(tmp_path / "shards", fake.pixels.astype(np.uint16) * 200, table, fake.info)
    network = create_model("lenet", len(store.labels), image_size=28, value_range=(0, 1)).eval()
    saved = serialization.SavedModel(network, store.labels, store.task, "fp32")
    features = embedding.embed(saved, store, tmp_path / "features", device=embedded.CPU)
    made = embedded.Embedded(store, runs.Run(tmp_path / "runs" / "none"), features)
    model = predictor.load(fit(embedded.head(made), store), gpu=False)
    rows = store.index["row"].to_numpy()[5:20]
    images = store.images(rows)
    assert images.dtype == np.float32 and images.max() > 100
    expected = {**unusual.measure(torch.from_numpy(images)), "features": features.vectors(rows)}
    prob, measured = model.measured(images)
    of_rows = model.measured_rows(store, rows, batch_size=4)
    for name, value in expected.items():
        np.testing.assert_allclose(of_rows[name], value, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(measured[name], value, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(model.rows(store, rows, batch_size=4), prob, atol=1e-5)


def test_large_images_go_through_a_cpu_in_parts_and_small_ones_together() -> None:
    for side, parts in ((224, [16, 5]), (64, [21])):
        model = create_model("lenet", num_outputs=2, image_size=(side, side))
        made = predictor.Predictor(
            serialization.SavedModel(model, ("a", "b"), "multilabel", "fp32"), torch.device("cpu")
        )
        seen: list[int] = []
        model.register_forward_pre_hook(lambda _module, inputs, seen=seen: seen.append(len(inputs[0])))
        images = np.random.default_rng(0).integers(0, 256, (21, side, side), dtype=np.uint8)
        prob_NL = made.probabilities(images)
        assert seen == parts
        one_by_one = np.concatenate([made.probabilities(image[None]) for image in images])
        np.testing.assert_allclose(prob_NL, one_by_one, atol=1e-6)
        again_NL, values = made.measured(images)
        np.testing.assert_allclose(again_NL, prob_NL, atol=1e-6)
        assert {name: len(of_N) for name, of_N in values.items()} == dict.fromkeys(values, 21)
