"""The training loop under `LocalContext`, alone and on two gloo ranks: what it learns, how it ends, how it stops."""

import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cxr_ray
from cxr_ray import runs
from cxr_ray.errors import UserError
from cxr_ray.models import serialization
from cxr_ray.runtime import polling
from cxr_ray.runtime.context import LocalContext
from cxr_ray.runtime.progress import Progress, text
from cxr_ray.training import checkpoint as checkpoints
from cxr_ray.training import export, learner, trainer
from tests.fakes.ranks import on_ranks
from tests.fakes.store import fake_store
from tests.fakes.trainings import (
    Killed,
    StopAfter,
    StopAfterPolls,
    TimeLimit,
    assert_same_result,
    assert_val_predictions_are_the_models,
    checkpoint_of,
    config,
    final_weights,
    fit,
    killed,
    record_epochs,
    write_store,
)


def test_it_learns_and_writes_the_run_folder(tmp_path: Path) -> None:
    store = fake_store(240)
    run = fit(config(tmp_path, train={"epochs": 8}), store)
    table = run.metrics
    val = table[(table["part"] == "val") & (table["metric"] == "auroc") & (table["label"] == "mean")]
    auroc = val.set_index("epoch")["value"]
    assert auroc[8] > 0.95 > auroc[0] + 0.1  # epoch 0 evaluates the untrained model
    train = table[(table["part"] == "train") & (table["metric"] == "loss") & (table["label"] == "")]
    loss = train["value"].to_numpy(float)
    assert len(loss) == 8 and loss[-1] < 0.5 * loss[0]
    assert run.info["status"] == "finished" and run.info["epochs"] == 8 and run.info["test_looks"] == 0
    assert {p.name for p in run.path.iterdir()} >= {
        "config.yaml",
        "environment.json",
        "plan.parquet",
        "metrics.csv",
        "model.safetensors",
    }
    assert list(run.path.glob("events.out.tfevents.*"))
    assert {p.name for p in (run.path / "checkpoints").glob("*.json")} == {"best.json", "last.json"}
    model = serialization.read(run.weights)
    assert model.labels == store.labels and model.task == "multilabel"
    assert runs.load(run.path).config == run.config


def test_the_backward_pass_is_near_the_surface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the public function to `loss.backward()` a reader follows at most six functions."""
    shards, package = write_store(tmp_path / "store", fake_store(40)), Path(cxr_ray.__file__).parent
    monkeypatch.delenv("RAY_ADDRESS", raising=False)  # with it, even one worker trains on Ray
    backward, stacks = torch.Tensor.backward, []

    def recorded(self: torch.Tensor, *args: Any, **options: Any) -> None:
        frames = [frame for frame in traceback.extract_stack() if Path(frame.filename).is_relative_to(package)]
        stacks.append([frame.name for frame in frames])
        backward(self, *args, **options)

    monkeypatch.setattr(torch.Tensor, "backward", recorded)
    settings = config(tmp_path, data={"shards": str(shards)}, train={"epochs": 1})
    assert cxr_ray.train(settings, log=lambda line: None).info["status"] == "finished"
    assert stacks and all(stack[0] == "train" and len(stack) <= 6 for stack in stacks), stacks[:1]


def test_a_started_run_resumes_only_with_the_same_config(tmp_path: Path) -> None:
    store = fake_store(60)
    fit(config(tmp_path, train={"epochs": 1}), store, StopAfter(0))
    with pytest.raises(UserError, match=r"started with another config \(optim.lr: was 0.003, is 0.5\)"):
        fit(config(tmp_path, train={"epochs": 1}, optim={"lr": 0.5}), store)
    fit(config(tmp_path, train={"epochs": 1}), store)
    with pytest.raises(UserError, match=r"the run run in .* is finished"):
        fit(config(tmp_path, train={"epochs": 1}), store)


def test_one_seed_gives_bit_equal_weights_and_another_does_not(tmp_path: Path) -> None:
    store = fake_store(60)
    a, b, c = (final_weights(fit(config(tmp_path, name=n, seed=s), store)) for n, s in (("a", 1), ("b", 1), ("c", 2)))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not all(torch.equal(a[k], c[k]) for k in a)


# -- the end of a training ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("select", ["best", "last"])
@pytest.mark.parametrize("step", [2, 7])
def test_a_time_limit_within_an_epoch_ends_it_there_and_evaluates_it(
    tmp_path: Path,
    poll_every_step: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    step: int,
    select: str,
) -> None:
    """Also within the first epoch: the saved model is trained, and the predictions are its own."""
    store = fake_store(90)
    train = {"epochs": 50, "max_time": 60, "select": select, "monitor": "train/loss", "monitor_mode": "min"}
    TimeLimit(monkeypatch, step)
    run = fit(config(tmp_path, model={"name": "covid_cnn"}, train=train), store, LocalContext())
    steps = -(-len(run.plan.query("part == 'train'")) // 16)
    epoch, batch = 1 + (step - 1) // steps, 1 + (step - 1) % steps
    message = f"train.max_time: the limit of 60 minutes is reached after batch {batch} of {steps} in epoch {epoch}, which ends here"
    assert message in capsys.readouterr().out
    assert run.info["status"] == "finished" and run.info["ended"] == "max_time" and run.info["epochs"] == epoch
    assert run.info["kept"] == {"epoch": epoch, "step": step}
    rows = run.metrics.query("epoch == @epoch and part == 'train' and metric == 'loss' and label == ''")["rows"]
    assert rows.tolist() == [batch * 16]
    assert_val_predictions_are_the_models(run, store)


def test_a_run_that_died_after_its_shortened_epoch_trains_no_more(
    tmp_path: Path, poll_every_step: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = fake_store(90)
    train = {"epochs": 50, "max_time": 60}
    with monkeypatch.context() as patch:
        TimeLimit(patch, 7)
        patch.setattr(export, "save_model", killed)
        with pytest.raises(Killed):
            fit(config(tmp_path, train=train), store)
    context = LocalContext(quiet=True)
    run = fit(config(tmp_path, train=train), store, context)
    assert run.info["ended"] == "max_time" and run.info["kept"]["step"] <= 7 and not context.history


def test_a_time_limit_too_short_for_one_step_is_a_warning(
    tmp_path: Path, poll_every_step: None, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit(config(tmp_path, train={"epochs": 50, "max_time": 1e-6}), fake_store(90), LocalContext())
    assert run.info["status"] == "finished" and run.info["ended"] == "max_time" and run.info["kept"]["epoch"] == 0
    assert "warning: the training ended before its first step: the saved model is untrained" in (
        capsys.readouterr().out
    )


NO_PROGRESS = {"optim": {"lr": 1e-12}, "train": {"epochs": 50, "patience": 2, "monitor": "val/recall/mean"}}


def test_patience_ends_a_training(tmp_path: Path) -> None:
    run = fit(config(tmp_path, **NO_PROGRESS), fake_store(90))
    assert run.info["ended"] == "patience" and run.info["epochs"] == run.info["best"]["epoch"] + 2


def test_patience_says_that_it_cannot_act_on_an_undefined_metric(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = fake_store(60, labels=("Edema",), task="binary")
    store.index["split"] = np.where(np.arange(60) < 40, "train", "val")
    store.index.loc[store.index["split"] == "val", "Edema"] = 1.0
    changes = {
        "train": {"epochs": 3, "patience": 1, "monitor": "val/auroc/mean"},
        "data": {"split": {"val": "official"}},
    }
    run = fit(config(tmp_path, **changes), store, LocalContext())
    shown = capsys.readouterr().out
    assert shown.count("train.patience: val/auroc/mean is undefined in every epoch so far") == 1
    assert "model of the last (3), because val/auroc/mean is undefined in every epoch" in shown
    assert run.info["ended"] is None and run.info["best"]["value"] is None and run.info["kept"]["epoch"] == 3


def test_patience_is_checked_again_after_a_resume(tmp_path: Path) -> None:
    """A kill between an epoch's checkpoint and the check of patience does not cause another epoch."""
    store = fake_store(90)
    whole = fit(config(tmp_path, name="whole", **NO_PROGRESS), store)

    class KilledAfterLast(LocalContext):
        def report(self, metrics: Any, checkpoint: Path | None) -> None:
            if metrics["epoch"] == whole.info["epochs"]:
                killed()

    with pytest.raises(Killed):
        fit(config(tmp_path, name="resumed", **NO_PROGRESS), store, KilledAfterLast(quiet=True))
    context = LocalContext(quiet=True)
    resumed = fit(config(tmp_path, name="resumed", **NO_PROGRESS), store, context)
    assert resumed.info["ended"] == "patience" and not context.history
    assert_same_result(whole, resumed)


def test_the_seconds_of_a_stopped_epoch_count(
    tmp_path: Path, poll_every_step: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr(trainer.time, "perf_counter", lambda: float(next(clock)))  # each call a second later
    polls = 6  # two of epoch 0, then steps
    run = fit(config(tmp_path), fake_store(90), StopAfterPolls(polls))
    last = checkpoints.load(checkpoint_of(run.path, "last"))
    assert last.state["batches"] > 0 and run.info["seconds"] >= last.state["seconds"]


def test_a_stop_during_evaluation_is_followed_by_the_evaluation_after_the_resume(
    tmp_path: Path, poll_every_step: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = fake_store(90)
    hyperparameters = {"model": {"name": "covid_cnn"}, "train": {"epochs": 2, "batch_size": 8}}
    whole = fit(config(tmp_path, name="whole", **hyperparameters), store)
    steps = -(-len(whole.plan.query("part == 'train'")) // 8)
    eval_batches = -(-len(whole.plan.query("part == 'val'")) // 8)
    assert eval_batches > 1
    for name, polls in (("zero", 1), ("one", eval_batches + 1 + steps + 1)):
        stopped = fit(config(tmp_path, name=name, **hyperparameters), store, StopAfterPolls(polls))
        last = checkpoints.load(checkpoint_of(stopped.path, "last"))
        assert stopped.info["status"] == "stopped" and not last.state["judged"] and not last.state["batches"]
        assert last.state["epoch"] == (name == "one") and stopped.info["epochs"] == last.state["epoch"] - 1
        with monkeypatch.context() as patch:
            epochs = record_epochs(patch)
            assert_same_result(whole, fit(config(tmp_path, name=name, **hyperparameters), store))
        assert epochs.count(1) == (0 if name == "one" else steps)


def _stop_during_evaluation(output: str) -> None:
    """21 val rows in batches of 5: one rank has 11 and polls three times, the other 10 and two batches."""
    polling.POLL_S = 0.0
    hyperparameters = {
        "data": {"split": {"by": "image", "val": 21 / 80, "test": 0}},
        "train": {"epochs": 2, "micro_batch": 5},
    }
    store = fake_store(80, images_a_patient=1)
    whole = fit(config(Path(output), name="whole", **hyperparameters), store)
    assert len(whole.plan.query("part == 'val'")) == 21
    for polls in (2, 3 + 1 + 4 + 2):  # at the last poll of the evaluation of epoch 0, and of epoch 1
        name = f"stopped-{polls}"
        fit(config(Path(output), name=name, **hyperparameters), store, StopAfterPolls(polls))
        torch.distributed.barrier()
        last = checkpoint_of(Path(output) / name, "last")
        assert not checkpoints.load(last).state["judged"]
        torch.distributed.barrier()
        fit(config(Path(output), name=name, **hyperparameters), store)


def test_two_ranks_stop_together_during_evaluation(tmp_path: Path) -> None:
    on_ranks(2, tmp_path, _stop_during_evaluation, str(tmp_path))
    for polls in (2, 10):
        assert_same_result(runs.load(tmp_path / "whole"), runs.load(tmp_path / f"stopped-{polls}"))


# -- speed -------------------------------------------------------------------------------------------------------


def test_the_speed_counts_the_images_that_this_start_trained(
    tmp_path: Path, poll_every_step: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock that does not move, an epoch takes the shortest time that is measured, 1 ns."""
    images: list[int] = []

    def recorded(_config: Any, _plan: Any, _epoch: int, _values: Any, speed: float, _seconds: float) -> list[str]:
        images.append(round(speed * 1e-9))
        return []

    monkeypatch.setattr(trainer.epoch_metrics, "epoch_lines", recorded)
    monkeypatch.setattr(trainer.time, "perf_counter", lambda: 5.0)
    store = fake_store(90)
    whole = fit(config(tmp_path, name="whole"), store)
    count = len(whole.plan.query("part == 'train'"))
    assert count % 16 and images == [0, count, count]
    stopped = fit(config(tmp_path, name="resumed"), store, StopAfterPolls(5))
    batches = checkpoints.load(checkpoint_of(stopped.path, "last")).state["batches"]
    assert batches > 0
    del images[:]
    fit(config(tmp_path, name="resumed"), store)
    assert images == [count - 16 * batches, count]
    del images[:]
    TimeLimit(monkeypatch, 2)
    fit(config(tmp_path, name="limited", train={"max_time": 60}), store)
    assert images == [0, 2 * 16]


def test_progress_within_an_epoch_shows_its_share_rate_and_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every step takes two seconds; a line is due after three, and none after the last step, which the epoch's own line follows."""
    done, step = [0], learner.Learner.step

    def counted(self: learner.Learner, batch: Any, **options: Any) -> Any:
        done[0] += 1
        return step(self, batch, **options)

    monkeypatch.setattr(learner.Learner, "step", counted)
    monkeypatch.setattr(
        LocalContext, "progress",
        lambda self, what: Progress(what, log=self.log, after_s=3.0, every=(3.0, 0.0), clock=lambda: 2.0 * done[0]),
    )  # fmt: skip
    settings = config(tmp_path, train={"epochs": 1, "batch_size": 8})

    def lines() -> list[str]:
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch 1/1: ")]

    def expected(first: int) -> list[str]:
        return [text("epoch 1/1", 8 * k, count, "images", rate=4.0) for k in range(first + 2, steps, 2)]

    run = fit(settings, fake_store(90), LocalContext())
    count = len(run.plan.query("part == 'train'"))
    steps = -(-count // 8)
    assert steps > 6 and lines() == expected(0)
    resumed = settings.model_copy(update={"name": "resumed"})
    with monkeypatch.context() as patch:
        patch.setattr(polling, "POLL_S", 0.0)
        stopped = fit(resumed, fake_store(90), StopAfterPolls(7))
    first = checkpoints.load(checkpoint_of(stopped.path, "last")).state["batches"]
    assert first > 1 and lines() == []
    fit(resumed, fake_store(90), LocalContext())
    assert lines() == expected(first)


def test_the_time_limit_is_for_all_starts_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[float | None] = []

    class Recorded(polling.Poller):
        def __init__(self, context: LocalContext, *, save_minutes: float | None, left_s: float | None = None) -> None:
            left.append(left_s)
            super().__init__(context, save_minutes=save_minutes, left_s=left_s)

    clock = iter(range(10**6))
    monkeypatch.setattr(trainer, "Poller", Recorded)
    monkeypatch.setattr(trainer.time, "perf_counter", lambda: float(next(clock)))
    store, train = fake_store(60), {"epochs": 2, "max_time": 60}
    stopped = fit(config(tmp_path, train=train), store, StopAfter(1))
    last = checkpoints.load(checkpoint_of(stopped.path, "last"))
    assert last.state["seconds"] > 1
    fit(config(tmp_path, train=train), store)
    assert left == [3600.0, 3600.0 - last.state["seconds"]]
    fit(config(tmp_path, name="unlimited"), store)
    assert left[2:] == [None]
    monkeypatch.setattr(trainer.time, "perf_counter", lambda: 10_000.0 * next(clock))
    stopped = fit(config(tmp_path, name="late", train=train), store, StopAfter(0))
    assert stopped.info["status"] == "stopped" and stopped.info["seconds"] > 3600
    context = LocalContext(quiet=True)
    ended = fit(config(tmp_path, name="late", train=train), store, context)
    assert left[3:] == [3600.0, 0.0] and ended.info["ended"] == "max_time" and not context.history
    assert ended.info["epochs"] == 0 and ended.info["status"] == "finished"


def test_without_val_there_are_no_predictions_of_val(tmp_path: Path) -> None:
    data, train = {"split": {"val": 0, "test": 0}}, {"epochs": 1, "monitor": "train/loss"}
    run = fit(config(tmp_path, data=data, train=train, report={"keep_predictions": True}), fake_store(40))
    written = sorted(p.relative_to(run.path).as_posix() for p in run.path.rglob("predictions/**/*.parquet"))
    assert written == ["predictions/epochs/0001-train.parquet"]
