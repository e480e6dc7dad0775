"""A Ray Train worker whose driver is gone must not write beside the next start of its run."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray.train
import ray.train.torch
import torch

from cxr_ray import config as cfg
from cxr_ray import runs
from cxr_ray.on_ray.context import TrainContext
from cxr_ray.storage.lease import Lease


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> runs.Run:
    def end(code: int) -> None:
        raise SystemExit(code)

    worker = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    monkeypatch.setattr(ray.train, "get_context", lambda: worker)
    monkeypatch.setattr(ray.train.torch, "get_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(os, "_exit", end)
    (tmp_path / "config.yaml").write_text(cfg.Config().to_yaml(), encoding="utf-8")
    return runs.Run(tmp_path)


def test_a_worker_ends_at_once_when_another_start_has_the_run(run: runs.Run) -> None:
    with Lease(run.path) as lease:
        context = TrainContext(run, lease.holder)
        assert not context.should_stop()
    assert not context.should_stop()  # nobody has it: the driver has ended, and nobody else has begun
    with Lease(run.path), pytest.raises(SystemExit):
        context.should_stop()


def test_a_worker_that_starts_late_belongs_to_the_start_that_launched_it(run: runs.Run) -> None:
    with Lease(run.path) as lease:
        launched_by = lease.holder
    with Lease(run.path), pytest.raises(SystemExit):
        TrainContext(run, launched_by).should_stop()
