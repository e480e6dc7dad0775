"""A store that changes during a training: the run ends before it keeps an epoch, and continues once the bytes are right."""

from pathlib import Path

import pytest

from cxr_ray import runs
from cxr_ray.data import plan as plans
from cxr_ray.data import store as stores
from cxr_ray.errors import UserError
from cxr_ray.runtime.context import LocalContext
from cxr_ray.training import setup, trainer
from tests.data.test_store_check import flip
from tests.fakes.store import fake_store
from tests.fakes.trainings import config, write_store


def train(output: Path, store: stores.Store, **data: object) -> runs.Run:
    settings = config(output, data={"shards": store.origin, **data})
    plan = plans.build(store, settings.data, seed=settings.seed)
    run = setup.open_run(settings, store, plan)
    trainer.fit(settings, plan, store, LocalContext(quiet=True), run)
    return run


def test_changed_bytes_end_the_run_before_an_epoch_is_kept(tmp_path: Path) -> None:
    store = stores.open(write_store(tmp_path / "store", fake_store(40)))
    shard = store.path / next(name for name in store.manifest.files if name.endswith(".arrow"))
    flip(shard, 1000)
    with pytest.raises(UserError, match=r"images-00000-of-\d+\.arrow \(rows \d+ to .*checksum differs"):
        train(tmp_path / "runs", store)
    run = runs.load(tmp_path / "runs" / "run")
    assert set(run.metrics["epoch"]) == {0}
    flip(shard, 1000)
    resumed = train(tmp_path / "runs", store)
    clean = train(tmp_path / "clean", store)
    assert resumed.info["status"] == "finished"
    assert resumed.metrics.equals(clean.metrics)


def test_manifest_alone_does_not_read_the_bytes(tmp_path: Path) -> None:
    store = stores.open(write_store(tmp_path / "store", fake_store(40)))
    flip(store.path / next(name for name in store.manifest.files if name.endswith(".arrow")), 1000)
    assert train(tmp_path / "runs", store, verify="manifest").info["status"] == "finished"


def test_what_is_verified_does_not_change_the_experiment(tmp_path: Path) -> None:
    """A run of an earlier version, whose default was `manifest`, is resumed and found by its default name."""
    one, other = (config(tmp_path, data={"verify": verify}) for verify in ("manifest", "background"))
    assert one.digest() == other.digest()
    store = stores.open(write_store(tmp_path / "store", fake_store(40)))
    train(tmp_path / "runs", store, verify="manifest")
    with pytest.raises(UserError, match="is finished"):
        train(tmp_path / "runs", store, verify="background")
