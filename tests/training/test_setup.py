"""Before a training starts: every mistake in the config is one line, and paths are absolute. Near duplicates: data/test_leakage.py."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from cxr_ray import config as cfg
from cxr_ray import models
from cxr_ray.data import store_writer
from cxr_ray.data.info import DatasetInfo
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


def official_store(path: Path, val: list[float], labels: tuple[str, ...] = ("Edema",)) -> Path:
    """A store of 20 train images, half of them positive, and of val images with these targets of the first label."""
    truth = np.zeros((20 + len(val), len(labels)), np.float32)
    truth[:20:2, 0], truth[20:, 0] = 1.0, val
    table = pd.DataFrame(truth, columns=list(labels)).assign(split=["train"] * 20 + ["val"] * len(val))
    info = DatasetInfo(labels=labels, task="binary" if len(labels) == 1 else "multiclass", default_labels=labels)
    if len(labels) > 1:  # the others are of the last class
        table[labels[-1]] = 1.0 - table[labels[0]]
    pixels = np.random.default_rng(0).integers(0, 256, (len(truth), 28, 28), dtype=np.uint8)
    return store_writer.write(path, pixels, table, info).path


@pytest.mark.parametrize(
    ("val", "monitor", "undefined"),
    [
        ([1.0, 1.0], "val/auroc/Edema", True),
        ([0.0, 0.0], "val/auroc/mean", True),
        ([0.0, np.nan], "val/recall/mean", True),
        ([1.0, np.nan], "val/specificity/mean", True),
        ([np.nan], "val/loss", True),
        ([np.nan], "val/accuracy", True),
        ([0.0, 1.0], "val/auroc/mean", False),
        ([1.0, 1.0], "val/recall/mean", False),
        ([0.0, 0.0], "val/precision/mean", False),
        ([0.0, 0.0], "val/f1/mean", False),
        ([0.0, 0.0], "val/npv/mean", False),
        ([1.0], "val/loss", False),
        ([1.0, np.nan], "train/auroc/mean", False),
    ],
)
def test_a_monitor_that_val_leaves_undefined_is_warned_of(
    tmp_path: Path, val: list[float], monitor: str, undefined: bool
) -> None:
    """Whatever the model predicts: precision is undefined only if nothing is predicted to be positive."""
    path = official_store(tmp_path / "store", val)
    split = {"val": "official", "test": 0, "near_duplicates": None}
    settings = config(
        tmp_path,
        data={"shards": str(path), "split": split, "balance_warning": 1.0, "blank": "ignore"},
        train={"monitor": monitor, "patience": 2},
    )
    warnings = setup.prepare(settings)[1].warnings
    assert len(warnings) == undefined, warnings
    for line in warnings:
        assert line.startswith(f"train.monitor: {monitor} is undefined in every epoch, because val lacks")
        assert "the last epoch is kept" in line and "train.patience cannot end the training" in line


@pytest.mark.parametrize(("label", "undefined"), [("A", False), ("B", True), ("C", False)])
def test_a_class_that_val_lacks_has_no_recall(tmp_path: Path, label: str, undefined: bool) -> None:
    path = official_store(tmp_path / "store", [0.0, 1.0], ("A", "B", "C"))
    data = {"shards": str(path), "split": {"val": "official", "test": 0, "near_duplicates": None}}
    for metric, expected in (("recall", undefined), ("precision", False)):
        plan = setup.prepare(config(tmp_path, data=data, train={"monitor": f"val/{metric}/{label}"}))[1]
        assert any("is undefined in every epoch" in line for line in plan.warnings) == expected


def test_nothing_is_warned_of_that_nothing_depends_on(tmp_path: Path) -> None:
    path = official_store(tmp_path / "store", [1.0])
    data = {"shards": str(path), "split": {"val": "official", "test": 0}}
    for changes in ({"train": {"select": "last"}}, {"train": {"select": "last"}, "optim": {"schedule": "plateau"}}):
        settings = config(tmp_path, **cfg.merge({"data": data, "train": {"monitor": "val/auroc/mean"}}, changes))
        found = [line for line in setup.prepare(settings)[1].warnings if "train.monitor" in line]
        assert len(found) == ("optim" in changes) and all("plateau never lowers" in line for line in found)


def test_val_without_rows_leaves_every_monitor_undefined(shards: Path, tmp_path: Path) -> None:
    settings = config(tmp_path, data={"shards": str(shards), "split": {"val": 0, "test": 0}})
    assert [line for line in setup.prepare(settings)[1].warnings if "because val has no rows" in line]
