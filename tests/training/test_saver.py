"""Checkpoints of a training: a run that was stopped, killed or damaged resumes, and ends bit-equal to one that was not."""

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from cxr_ray import runs
from cxr_ray.errors import UserError
from cxr_ray.runtime import polling
from cxr_ray.runtime.context import LocalContext
from cxr_ray.training import checkpoint as checkpoints
from tests.fakes.ranks import on_ranks
from tests.fakes.store import fake_store
from tests.fakes.trainings import (
    Killed,
    StopAfter,
    StopAfterPolls,
    assert_same_result,
    assert_same_weights_and_metrics,
    assert_val_predictions_are_the_models,
    checkpoint_of,
    config,
    final_weights,
    fit,
    rows_in_order,
)


def test_a_stopped_run_resumes_and_ends_bit_equal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = fake_store(90)
    hyperparameters = {
        "model": {"name": "covid_cnn"},
        "train": {"epochs": 4},
        "optim": {"schedule": "cosine", "warmup_epochs": 0.5},
    }
    whole = fit(config(tmp_path, name="whole", **hyperparameters), store)
    stopped = fit(config(tmp_path, name="resumed", **hyperparameters), store, StopAfter(2))
    assert stopped.info["status"] == "stopped" and stopped.info["epochs"] == 2
    capsys.readouterr()
    resumed = fit(config(tmp_path, name="resumed", **hyperparameters), store, LocalContext())
    assert_same_weights_and_metrics(whole, resumed)
    assert capsys.readouterr().out.startswith("resuming after epoch 2 of 4 (step-")


# -- damaged checkpoints -----------------------------------------------------------------------------------------


def _damage(path: Path, *, truncate: bool) -> None:
    """Truncate the model's file to half, or flip one bit."""
    body = bytearray((path / "model.safetensors").read_bytes())
    body[len(body) // 2] ^= 1
    (path / "model.safetensors").write_bytes(body[: len(body) // 2] if truncate else body)


# The monitored loss is maximised and falls from epoch 1 on, so that the best epoch remains 1.
BEST_IS_FIRST = {"train": {"epochs": 4, "monitor": "val/loss", "monitor_mode": "max", "checkpoint_minutes": None}}


@pytest.mark.parametrize("truncate", [True, False], ids=["truncated", "flipped"])
def test_if_the_last_checkpoint_is_damaged_it_resumes_from_the_best(
    tmp_path: Path, truncate: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    store = fake_store(60)
    whole = fit(config(tmp_path, name="whole", **BEST_IS_FIRST), store)
    run = fit(config(tmp_path, name="resumed", **BEST_IS_FIRST), store, StopAfter(3))
    best, last = checkpoint_of(run.path, "best"), checkpoint_of(run.path, "last")
    assert best != last
    _damage(last, truncate=truncate)
    context = LocalContext()
    run = fit(config(tmp_path, name="resumed", **BEST_IS_FIRST), store, context)
    log = capsys.readouterr().out
    assert f"the last checkpoint ({last.name}) is damaged: resuming from {best.name}, the newest" in log
    assert len(context.history) == 3  # epochs 2 to 4
    assert_same_result(whole, run)


def test_if_no_checkpoint_is_valid_the_error_names_the_fix(tmp_path: Path) -> None:
    store = fake_store(60)
    run = fit(config(tmp_path, train={"epochs": 3}), store, StopAfter(1))
    folder = run.path / "checkpoints"
    for path in folder.glob("step-*"):
        _damage(path, truncate=True)
    with pytest.raises(UserError, match=r"no checkpoint in .*checkpoints is valid.*delete that folder"):
        fit(config(tmp_path, train={"epochs": 3}), store)
    for path in [*folder.iterdir()]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert fit(config(tmp_path, train={"epochs": 3}), store).info["status"] == "finished"


def test_if_the_best_is_lost_the_last_epoch_is_evaluated_again_and_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = fake_store(60)
    run = fit(config(tmp_path, **BEST_IS_FIRST), store, StopAfter(4))  # stopped after the last epoch, before finishing
    run.update(status="stopped")
    _damage(checkpoint_of(run.path, "best"), truncate=True)
    before = run.metrics
    run = fit(config(tmp_path, **BEST_IS_FIRST), store, LocalContext())
    assert "the checkpoint of the best epoch (1) is damaged or missing" in capsys.readouterr().out
    assert run.info["best"]["epoch"] == run.info["kept"]["epoch"] == 4
    pd.testing.assert_frame_equal(before, run.metrics)
    assert_val_predictions_are_the_models(run, store)


# -- checkpoints within an epoch ---------------------------------------------------------------------------------


def _train_whole_and_interrupted(output: str, hyperparameters: dict[str, Any], polls: int) -> None:
    polling.POLL_S = 0.0
    fit(config(Path(output), name="whole", **hyperparameters), fake_store(90))
    fit(config(Path(output), name="resumed", **hyperparameters), fake_store(90), StopAfterPolls(polls))
    fit(config(Path(output), name="resumed", **hyperparameters), fake_store(90))


@pytest.mark.parametrize("world", [1, 2])
def test_a_run_stopped_within_an_epoch_resumes_at_the_next_step_and_ends_bit_equal(
    tmp_path: Path, world: int, poll_every_step: None
) -> None:
    """Weights, optimiser, each rank's running statistics, and the epoch's train metrics."""
    hyperparameters = {
        "model": {"name": "shufflenet_v2_x0_5", "dropout": 0.2},  # batch norm, and random numbers per rank
        "train": {"epochs": 2, "batch_size": 16, "log_rows": True},
        "optim": {"schedule": "cosine"},
    }
    on_ranks(world, tmp_path, _train_whole_and_interrupted, str(tmp_path), hyperparameters, 3)
    whole, resumed = runs.load(tmp_path / "whole"), runs.load(tmp_path / "resumed")
    assert_same_weights_and_metrics(whole, resumed)
    assert rows_in_order(whole) == rows_in_order(resumed)  # every step once


def test_a_checkpoint_within_an_epoch_is_written_when_due_and_replaced_at_its_end(
    tmp_path: Path, poll_every_step: None
) -> None:
    store = fake_store(90)
    hyperparameters = {"train": {"epochs": 1, "batch_size": 16, "checkpoint_minutes": 1e-9}}
    written: list[tuple[int, bool]] = []

    class Recorded(checkpoints.CheckpointWriter):
        def __init__(self, folder: Path, step: int, **contents: Any) -> None:
            written.append((step, bool(contents.get("within"))))
            super().__init__(folder, step, **contents)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cxr_ray.training.saver.CheckpointWriter", Recorded)
        run = fit(config(tmp_path, **hyperparameters), store)
    steps = -(-len(run.plan.query("part == 'train'")) // 16)
    assert written == [(0, False), *[(s, True) for s in range(1, steps + 1)]]
    assert len(list((run.path / "checkpoints").glob("step-*"))) <= 2


def test_a_stop_within_an_epoch_saves_the_model_of_the_existing_predictions(
    tmp_path: Path, poll_every_step: None
) -> None:
    store = fake_store(90)
    hyperparameters = {"model": {"name": "covid_cnn"}, "train": {"epochs": 3, "select": "last"}}
    run = fit(config(tmp_path, **hyperparameters), store, StopAfterPolls(2 + 1 + 2))
    last = checkpoint_of(run.path, "last")
    assert checkpoints.load(last).state["batches"] > 0
    assert run.info["kept"]["epoch"] == run.info["epochs"] == 0
    assert_val_predictions_are_the_models(run, store)


# -- kills and full disks ----------------------------------------------------------------------------------------


def test_a_run_killed_at_any_write_resumes_from_a_complete_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training is killed at every write, rename and sync of its two epochs in turn; each leaves a partial file."""
    store = fake_store(60)
    hyperparameters = {"train": {"epochs": 2}, "report": {"trackers": []}}
    expected = final_weights(fit(config(tmp_path, name="whole", **hyperparameters), store))
    fsync = os.fsync
    kill_at, was_killed = 0, True
    while was_killed:
        kill_at += 1
        count = 0

        def dying_fsync(descriptor: int, kill_at: int = kill_at) -> None:
            nonlocal count
            count += 1
            if count == kill_at:
                raise Killed
            fsync(descriptor)

        was_killed = False
        name = f"killed-{kill_at}"
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", dying_fsync)
            try:
                fit(config(tmp_path, name=name, **hyperparameters), store)
            except Killed:
                was_killed = True
        path = tmp_path / name
        if was_killed and (path / "run.json").exists():
            if runs.load(path).info["status"] != "finished":  # else it was killed after its last rename
                fit(config(tmp_path, name=name, **hyperparameters), store)
            weights = final_weights(runs.load(path))
            assert all(torch.equal(expected[k], weights[k]) for k in expected), kill_at
    assert kill_at > 40  # three checkpoints of four files, their pointers, tables and predictions


def test_on_a_full_disk_the_previous_checkpoint_remains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = fake_store(60)
    write = checkpoints.write_atomic

    def full(path: Path, body: Any, **options: Any) -> Any:
        if path.parent.name.startswith("step-") and path.parent.name != "step-00000000":
            raise UserError(f"no space left to write {path}; free some and run the same command again")
        return write(path, body, **options)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_atomic", full)
        with pytest.raises(UserError, match=r"no space left to write .*model\.safetensors"):
            fit(config(tmp_path, train={"epochs": 2}), store)
    folder = tmp_path / "run" / "checkpoints"
    assert checkpoints.load(checkpoint_of(folder.parent, "last")).state["epoch"] == 0
    assert [p.name for p in folder.glob("step-*")] == ["step-00000000"]
    assert fit(config(tmp_path, train={"epochs": 2}), store).info["status"] == "finished"


def test_slow_storage_delays_a_stop_and_changes_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a network disk that other jobs use: every file takes long to reach it."""
    store = fake_store(60)
    waits: list[int] = []
    whole = fit(config(tmp_path, name="whole"), store)
    fsync = os.fsync

    def slow(file: int) -> None:
        waits.append(file)
        time.sleep(0.05)
        fsync(file)

    monkeypatch.setattr(os, "fsync", slow)
    monkeypatch.setattr(polling, "POLL_S", 0.0)
    stopped = fit(config(tmp_path, name="slow"), store, StopAfterPolls(4))
    assert stopped.info["status"] == "stopped" and checkpoints.pointer_target(stopped.path / "checkpoints", "last")
    assert_same_result(whole, fit(config(tmp_path, name="slow"), store))
    assert len(waits) > 20
