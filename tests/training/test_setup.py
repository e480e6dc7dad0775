"""Before a training starts: every mistake in the config is one line, and paths are absolute. Near duplicates: data/test_leakage.py."""

from pathlib import Path
from typing import Any

import pytest
import torch

from cxr_ray import config as cfg
from cxr_ray import models
from cxr_ray.errors import UserError
from cxr_ray.models import serialization
from cxr_ray.training import setup
from tests.fakes.store import fake_store
from tests.fakes.trainings import config, write_store


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("store") / "shards", fake_store(60))


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        ({"data": {"shards": None}}, "no store is given: set data.shards"),
        ({"model": {"name": "resnet19"}}, "unknown model 'resnet19'; did you mean 'resnet18'"),
        ({"data": {"labels": ["Effusionn"]}}, "unknown label 'Effusionn'; did you mean 'Effusion'"),
        ({"train": {"monitor": "val/aurc/mean"}}, "unknown metric 'aurc'.*did you mean 'auroc'"),
        ({"loss": {"name": "cross_entropy"}}, "cross_entropy"),
        ({"data": {"image_size": [64, 64]}}, "the images have 28 x 28"),
        ({"report": {"thresholds": {"Edma": 0.2}}}, "unknown label 'Edma'"),
        ({"report": {"labels": ["Edma"]}}, "unknown label 'Edma'"),
        ({"model": {"weights": "nowhere.pth"}}, "nowhere.pth"),
        ({"data": {"split": {"fold": 2}}}, "data.split.fold is 2, but there are no folds; set data.split.folds"),
        ({"seeds": 3}, "seeds is for `cxr-ray train`"),
        ({"seeds": 2}, "seeds is for `cxr-ray train`"),
        ({"loss": {"name": "auc_margin"}, "augment": {"mixup": 0.2}}, "set augment.mixup to 0"),
        ({"loss": {"name": "auc_margin"}, "train": {"micro_batch": 8}}, "set train.micro_batch to null"),
    ],
)
def test_a_mistake_is_one_line(shards: Path, tmp_path: Path, hyperparameters: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        setup.prepare(config(tmp_path, **cfg.merge({"data": {"shards": str(shards)}}, hyperparameters)))
    assert "\n" not in str(caught.value)


def test_paths_become_absolute(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers, and a repeat from the run's own config, may run in another folder."""
    monkeypatch.chdir(shards.parent)
    _, _, resolved = setup.prepare(config(tmp_path, data={"shards": shards.name, "cache": "copies"}))
    assert resolved.data.shards == str(shards) and resolved.data.cache == str(shards.parent / "copies")
    assert resolved.model.weights == "none"


def test_the_run_records_the_store_and_the_plan(shards: Path, tmp_path: Path) -> None:
    store, plan, resolved = setup.prepare(config(tmp_path, data={"shards": str(shards)}))
    run = setup.open_run(resolved, store, plan, sweep={"name": "s"})
    info = run.info
    assert info["store"] == {
        "path": str(shards), "fingerprint": store.fingerprint, "source": "arrays", "rows": 60, "notes": [], "groups": {}
    }  # fmt: skip
    assert info["labels"] == ["Edema", "Mass", "Effusion"] and info["task"] == "multilabel"
    assert info["sweep"] == {"name": "s"} and set(info["prevalence"]) == {"train", "val", "test"}
    assert run.plan["row"].tolist() == plan.table()["row"].tolist()


def test_a_loss_of_whole_batches_is_accepted_without_mixup_and_micro_batches(shards: Path, tmp_path: Path) -> None:
    settings = config(tmp_path, data={"shards": str(shards)}, loss={"name": "auc_margin"}, augment={"mixup": 0.0})
    _, _, resolved = setup.prepare(settings)
    assert resolved.loss.name == "auc_margin"


def test_weights_and_the_cache_become_absolute_unless_they_are_names(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = models.build(cfg.Model(name="lenet"), outputs=3, image_size=(28, 28), mean=0.2, deviation=0.2)
    serialization.write(
        tmp_path / "first.safetensors", model, model.state_dict(), labels="abc", task="multilabel", precision="fp32"
    )
    data = {"shards": str(shards)}
    _, _, resolved = setup.prepare(config(tmp_path, data=data, model={"weights": "first.safetensors"}))
    assert resolved.model.weights == str(tmp_path / "first.safetensors")
    for cache in ("auto", "none"):
        _, _, resolved = setup.prepare(config(tmp_path, data={**data, "cache": cache}))
        assert resolved.data.cache == cache and resolved.model.weights == "none"
