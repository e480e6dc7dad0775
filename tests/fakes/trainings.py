"""Small trainings by the trainer itself on a store in memory, without Ray; ways to stop them; comparisons of runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from cxr_ray import config as cfg
from cxr_ray import runs
from cxr_ray.data import plan as plans
from cxr_ray.data import store_writer
from cxr_ray.data.store import Store
from cxr_ray.models import serialization
from cxr_ray.runtime import polling
from cxr_ray.runtime.context import LocalContext
from cxr_ray.training import checkpoint, learner, trainer
from tests.fakes.store import FakeStore

STORE = {"path": "memory", "fingerprint": "f", "source": "fake", "rows": 0, "notes": []}


def config(output: Path, **sections: Any) -> cfg.Config:
    base = {
        "name": "run",
        "output": str(output),
        "data": {"split": {"val": 0.25, "test": 0}},
        "model": {"name": "lenet"},
        "optim": {"lr": 3e-3},
        "train": {"epochs": 2, "batch_size": 16, "precision": "fp32"},
    }
    return cfg.validate(cfg.merge(base, sections))


def fit(config: cfg.Config, store: FakeStore | Store, context: LocalContext | None = None) -> runs.Run:
    """Start or resume the run of `config` and train it; every rank calls it."""
    context = context or LocalContext(quiet=True)
    plan = plans.build(store, config.data, seed=config.seed, pos_weight_power=config.loss.pos_weight_power)
    if context.rank == 0:
        runs.create(
            config.for_task(plan.task),
            store=STORE,
            plan=plan.table(),
            about={"labels": list(plan.labels), "task": plan.task},
        )
    if context.world > 1:
        torch.distributed.barrier()
    run = runs.load(Path(config.output) / str(config.name))
    trainer.fit(config, plan, store, context, run)
    return run


def write_store(path: Path, store: FakeStore) -> Path:
    """Write a store in memory to `path`."""
    table = store.index.drop(columns=["mean", "variance"])  # computed again
    return store_writer.write(path, store.pixels, table, store.info).path


def checkpoint_of(run: Path, name: str) -> Path:
    """The checkpoint that the pointer `name` of the run in this folder points to."""
    target = checkpoint.pointer_target(run / "checkpoints", name)
    assert target is not None, f"{run} has no {name} checkpoint"
    return target


class StopAfter(LocalContext):
    """Asks to stop after so many epochs."""

    def __init__(self, epochs: int) -> None:
        super().__init__(quiet=True)
        self.left = epochs + 1

    def report(self, metrics: Any, checkpoint: Path | None) -> None:
        super().report(metrics, checkpoint)
        self.left -= 1

    def should_stop(self) -> bool:
        return self.left <= 0


class StopAfterPolls(LocalContext):
    """Asks to stop once it was polled so many times."""

    def __init__(self, polls: int) -> None:
        super().__init__(quiet=True)
        self.left = polls

    def should_stop(self) -> bool:
        self.left -= 1
        return self.left < 0


class TimeLimit:
    """Reaches `train.max_time` at the n-th step of the training."""

    def __init__(self, patch: pytest.MonkeyPatch, step: int) -> None:
        poll, record_loss = polling.Poller.poll, polling.Poller.record_loss
        self.step = 0

        def counted(own: polling.Poller, step: int, loss: torch.Tensor) -> None:
            self.step = step
            record_loss(own, step, loss)

        patch.setattr(polling.Poller, "record_loss", counted)
        patch.setattr(polling.Poller, "poll", lambda own: poll(own)._replace(time_over=self.step >= step))


class Killed(BaseException):
    """As a kill: nothing catches it."""


def killed(*_: Any, **__: Any) -> None:
    raise Killed


def record_epochs(patch: pytest.MonkeyPatch) -> list[int]:
    """The epoch of every optimiser step from now on."""
    step = learner.Learner.step
    epochs: list[int] = []

    def recorded(self: learner.Learner, batch: Any, **options: Any) -> Any:
        epochs.append(options["epoch"])
        return step(self, batch, **options)

    patch.setattr(learner.Learner, "step", recorded)
    return epochs


def final_weights(run: runs.Run) -> dict[str, torch.Tensor]:
    return load_file(run.weights)


def rows_in_order(run: runs.Run) -> list[tuple[int, int, list[int]]]:
    """(epoch, step, rows of all ranks in rank order) of the run's row log."""
    logs = [
        pd.read_csv(p, names=["epoch", "step", "rank", "rows"], keep_default_na=False, dtype={"rows": str})
        for p in sorted((run.path / "rows").iterdir())
    ]
    table = pd.concat(logs).sort_values(["epoch", "step", "rank"], kind="stable")
    return [
        (int(str(e)), int(str(s)), [int(r) for text in g["rows"] for r in text.split()])
        for (e, s), g in table.groupby(["epoch", "step"])
    ]


def assert_same_weights_and_metrics(a: runs.Run, b: runs.Run) -> None:
    """Both finished with bit-equal weights and the same metrics."""
    assert a.info["status"] == b.info["status"] == "finished"
    one, two = final_weights(a), final_weights(b)
    assert all(torch.equal(one[k], two[k]) for k in one)
    pd.testing.assert_frame_equal(a.metrics, b.metrics)


def assert_same_result(a: runs.Run, b: runs.Run) -> None:
    """Bit-equal weights, the same metrics, selected epoch and predictions of val."""
    assert_same_weights_and_metrics(a, b)
    assert a.info["kept"] == b.info["kept"]
    pd.testing.assert_frame_equal(a.predictions("val"), b.predictions("val"))


def assert_val_predictions_are_the_models(run: runs.Run, store: FakeStore) -> None:
    """`predictions/val.parquet` is what `model.safetensors` predicts."""
    table = run.predictions("val")
    with torch.inference_mode():
        prob = serialization.read(run.weights).model(torch.from_numpy(store.images(table["row"]))).sigmoid().numpy()
    np.testing.assert_allclose(table[[f"prob/{k}" for k in store.labels]].to_numpy(), prob, atol=1e-6)
