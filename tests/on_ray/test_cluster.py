"""A Ray session: the error if no cluster answers."""

from pathlib import Path
from typing import Any

import pytest
import ray

from cxr_ray import config as cfg
from cxr_ray.datasets.phantom import generate
from cxr_ray.errors import UserError
from cxr_ray.on_ray import cluster
from cxr_ray.on_ray.train import train
from cxr_ray.on_ray.tune import tune
from cxr_ray.runtime import machine
from cxr_ray.workflows.ingest import ingest
from tests.fakes.store import fake_store
from tests.fakes.trainings import config, write_store


@pytest.mark.parametrize(("address", "fix"), [("there:6379", "leave --address out"), (None, "unset RAY_ADDRESS")])
def test_a_cluster_that_does_not_answer_is_named_with_the_fix(
    address: str | None, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --address the cluster is that of RAY_ADDRESS, as in every Ray job: leaving --address out does not help then."""

    def refuse(**options: Any) -> None:
        raise ConnectionError(f"no answer from {options['address']}")

    monkeypatch.setenv("RAY_ADDRESS", "there:6379")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(UserError, match=f"no Ray cluster answers at there:6379.*{fix}"), cluster.session(address):
        pass


def test_a_ray_that_does_not_start_in_time_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray raises the base class, with a message that says neither why nor what to do."""

    def slow(**options: Any) -> None:
        raise Exception(
            "The current node timed out during startup. This could happen because some of the raylet failed"
        )

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", slow)
    with pytest.raises(UserError, match=r"too busy.*run the same command again"), cluster.session():
        pass


def test_more_than_fits_here_is_refused_before_ray_starts_and_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training, a sweep and an ingest without a cluster."""

    def started(**options: Any) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", started)
    monkeypatch.setattr(machine, "cores", lambda: 2)
    store = write_store(tmp_path / "shards", fake_store(60))
    made = config(tmp_path / "runs", data={"shards": str(store)}, train={"workers": 99})
    with pytest.raises(UserError, match="99 workers need 99 CPUs, but this machine has 2; lower"):
        train(made, log=lambda line: None)
    with pytest.raises(UserError, match="99 workers need 99 CPUs, but this machine has 2; lower"):
        tune(
            made.model_copy(update={"tune": cfg.Tune(space={"optim.lr": {"loguniform": [1e-4, 1e-2]}}, trials=2)}),
            log=lambda line: None,
        )
    assert not (tmp_path / "runs").exists()
    root = generate.write(tmp_path / "raw", patients=1, size=32)
    with pytest.raises(UserError, match="99 cores are asked for, but this machine has 2"):
        ingest("phantom", root, tmp_path / "out", cpus=99)
    assert not (tmp_path / "out").exists()
