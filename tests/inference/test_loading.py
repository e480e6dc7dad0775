"""The model and the predictor of a run or a file, with plugins; files are decoded as for the run's store."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cxr_ray import runs
from cxr_ray.data import store as stores
from cxr_ray.data import store_writer
from cxr_ray.errors import UserError
from cxr_ray.inference.loading import load_model, load_predictor
from cxr_ray.models.create import create_model
from cxr_ray.models.serialization import save_model
from cxr_ray.runs import ensemble
from cxr_ray.workflows.runs import train
from tests.fakes.store import fake_store


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> stores.Store:
    fake = fake_store(60, size=(36, 32))
    table = fake.index.drop(columns=["mean", "variance"])
    return store_writer.write(tmp_path_factory.mktemp("loading") / "shards", fake.pixels, table, fake.info)


def trained(store: stores.Store, output: Path, name: str, **settings: object) -> runs.Run:
    exact = {"train.precision": "fp32"}  # auto is bf16 on some processors, and the model alone computes in fp32
    small = {"data.shards": store, "data.image_size": [28, 28], "model.name": "lenet", "train.epochs": 1, **exact}
    return train({**small, "report.trackers": [], "output": output, "name": name, **settings}, log=quiet)


@pytest.fixture(scope="module")
def run(store: stores.Store) -> runs.Run:
    return trained(store, store.path.parent / "runs", "a")


def test_the_model_of_a_run_is_in_eval_mode(run: runs.Run, store: stores.Store) -> None:
    images = torch.from_numpy(store.images([3, 6]))
    model = load_model(run)
    assert isinstance(model, torch.nn.Module) and not model.training
    with torch.no_grad():
        expected = load_predictor(run, gpu=False)(images)
        for found in (model, load_model(run.path), load_model(str(run.weights))):
            assert np.allclose(found(images[:, None]).sigmoid().numpy(), expected, atol=1e-6)


def test_a_file_is_resized_as_for_the_store(run: runs.Run, store: stores.Store, tmp_path: Path) -> None:
    predictor = load_predictor(run.path, gpu=False)
    assert (predictor.image_format.size, predictor.image_size) == ((36, 32), (28, 28))
    Image.fromarray(store[4].image).save(tmp_path / "x.png")
    expected = predictor.rows(store, np.array([store[4].row]))
    for images in (tmp_path / "x.png", Image.open(tmp_path / "x.png"), store[4].image, [str(tmp_path / "x.png")]):
        assert np.array_equal(predictor(images), expected)
    assert predictor([]).shape == (0, 3)


def test_without_the_store_files_get_the_size_of_the_model(run: runs.Run, store: stores.Store, tmp_path: Path) -> None:
    moved = runs.Run(Path(shutil.copytree(run.path, tmp_path / "moved")))
    moved.update(store={**moved.info["store"], "path": str(tmp_path / "gone")})
    Image.fromarray(store[4].image).save(tmp_path / "x.png")
    with pytest.warns(UserWarning, match="the store of the run moved is not at .*gone: files are resized to 28 x 28"):
        assert load_predictor(moved, gpu=False)(tmp_path / "x.png").shape == (1, 3)


def test_a_float_image_of_zero_to_one_is_refused_but_not_in_a_store(run: runs.Run) -> None:
    predictor = load_predictor(run, gpu=False)
    dark = np.full((1, 36, 32), 0.5, np.float32)  # nearly black on the scale of a store
    with pytest.raises(UserError, match=r"value_range="):
        predictor(dark)
    assert predictor.probabilities(dark).shape == (1, 3)


def test_a_saved_model_of_another_range_reads_stores_too(store: stores.Store, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("lenet", 3, image_size=28, value_range=(0, 1)).eval()
    save_model(tmp_path / "m.safetensors", model, labels=store.labels)
    predictor, rows = load_predictor(tmp_path / "m.safetensors", gpu=False), np.array([3, 6, 9])
    images = store.images(rows)
    expected = model(torch.from_numpy(images)).sigmoid().detach().numpy()
    assert predictor.labels == store.labels and predictor.image_format.size == (28, 28)
    for found in (
        predictor(images),
        predictor(images / 255),
        predictor.rows(store, rows),
        predictor.probabilities(images.astype(np.float32)),
    ):
        assert np.allclose(found, expected, atol=1e-6)


def test_an_ensemble_has_a_predictor_and_no_model(run: runs.Run, store: stores.Store, tmp_path: Path) -> None:
    both = ensemble.make(tmp_path / "both", [run, trained(store, run.path.parent, "b", seed=1)])
    predictor, image = load_predictor(both, gpu=False), store[0].image
    mean = np.mean([load_predictor(member, gpu=False)(image) for member in both.members], axis=0)
    assert np.allclose(predictor(image), mean, atol=1e-6) and predictor.image_format.size == (36, 32)
    with pytest.raises(UserError, match=r"both is an ensemble.*load_predictor"):
        load_model(both)


def test_missing_runs_files_and_plugins_are_named(run: runs.Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a run folder.*did you mean 'a'"):
        load_model(run.path.parent / "aa")
    with pytest.raises(UserError, match=r"no model at .*none\.safetensors"):
        load_predictor(tmp_path / "none.safetensors")
    with pytest.raises(UserError, match="cannot import 'no_such_module'"):
        load_model(run, plugins=["no_such_module"])
