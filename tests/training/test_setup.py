"""Before a training starts: every mistake in the config is one line, and paths are absolute. Near duplicates: data/test_leakage.py."""

from pathlib import Path
from typing import Any

import pytest

from cxr_ray import config as cfg
from cxr_ray.errors import UserError
from cxr_ray.training import setup
from tests.fakes.store import fake_store
from tests.fakes.trainings import config, write_store


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("store") / "shards", fake_store(60))


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        ({"data": {"shards": None}}, "data.shards is not set"),
        ({"model": {"name": "resnet19"}}, "unknown model 'resnet19'; did you mean 'resnet18'"),
        ({"data": {"labels": ["Effusionn"]}}, "unknown label 'Effusionn'; did you mean 'Effusion'"),
        ({"train": {"monitor": "val/aurc/mean"}}, "unknown metric 'aurc'.*did you mean 'auroc'"),
        ({"loss": {"name": "cross_entropy"}}, "cross_entropy"),
        ({"data": {"image_size": [64, 64]}}, "the images have 28 x 28"),
        ({"report": {"thresholds": {"Edma": 0.2}}}, "unknown label 'Edma'"),
        ({"report": {"labels": ["Edma"]}}, "unknown label 'Edma'"),
        ({"model": {"weights": "nowhere.pth"}}, "nowhere.pth"),
        ({"seeds": 3}, "seeds is for `cxr-ray train`"),
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
