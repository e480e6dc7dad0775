"""Losses and weights that are not finite: the batch is named, and no checkpoint is replaced."""

from pathlib import Path
from typing import Any

import pytest
import torch

from cxr_ray import runs
from cxr_ray.data import plan as plans
from cxr_ray.errors import UserError
from cxr_ray.runtime import polling
from cxr_ray.runtime.context import LocalContext
from cxr_ray.training import checkpoint as checkpoints
from cxr_ray.training import learner
from tests.fakes.ranks import on_ranks
from tests.fakes.store import fake_store
from tests.fakes.trainings import (
    checkpoint_of,
    config,
    fit,
    rows_in_order,
)


def test_a_loss_that_is_noticed_at_the_end_of_the_epoch_names_its_own_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "POLL_S", 1e9)  # only after the first and the last step of an epoch
    monkeypatch.setattr(learner.Learner, "step", corrupt_loss())
    settings = config(tmp_path, train={"epochs": 3, "batch_size": 8, "log_rows": True})
    with pytest.raises(UserError, match=r"the loss of step \d+ \(epoch 2\) is not a number"):
        fit(settings, fake_store(90))
    run = runs.load(tmp_path / "run")
    logged = rows_in_order(run)
    steps = sum(epoch == 1 for epoch, _, _ in logged)
    assert len(logged) == 2 * steps > 8
    rows = next(rows for epoch, number, rows in logged if (epoch, number) == (2, 1))
    assert run.info["diverged"] == {"epoch": 2, "step": steps + 2, "rows": rows}


@pytest.mark.parametrize("when", ["within", "end"])
def test_weights_that_are_not_finite_replace_no_checkpoint(
    tmp_path: Path, poll_every_step: None, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The loss of the step was finite, its update was not, and no later loss shows it."""
    store = fake_store(90)
    split = {"split": {"val": 0.25 if when == "within" else 0, "test": 0}}
    hyperparameters = {"train": {"epochs": 3, "checkpoint_minutes": 1e-9, "monitor": "train/loss", "log_rows": True}}
    plan = plans.build(store, config(tmp_path, data=split).data, seed=0)
    steps = -(-int(plan.repeats.sum()) // 16)
    batch = 1 if when == "within" else steps - 1
    step = learner.Learner.step

    def corrupted(self: learner.Learner, given: Any, *, epoch: int, drops: int) -> Any:
        outputs = step(self, given, epoch=epoch, drops=drops)
        if (epoch, given.step) == (2, batch):
            with torch.no_grad():
                next(self.model.parameters()).view(-1)[0] = float("inf")
        return outputs

    monkeypatch.setattr(learner.Learner, "step", corrupted)
    with pytest.raises(UserError, match=rf"the weights after step {steps + batch + 1} \(epoch 2\) are not all numbers"):
        fit(config(tmp_path, data=split, **hyperparameters), store)
    run = runs.load(tmp_path / "run")
    assert run.info["diverged"]["rows"] == next(r for e, s, r in rows_in_order(run) if (e, s) == (2, batch))
    for path in (run.path / "checkpoints").glob("step-*"):
        assert all(torch.isfinite(t).all() for t in checkpoints.load(path).model.values())
    last = checkpoints.load(checkpoint_of(run.path, "last"))
    assert last.state["step"] == steps + batch


def corrupt_loss(rank: int = 0) -> Any:
    """A `Learner.step` that returns NaN as the loss of the second batch of epoch 2 on `rank`."""
    step = learner.Learner.step

    def corrupted(self: learner.Learner, batch: Any, *, epoch: int, drops: int) -> Any:
        logits, loss = step(self, batch, epoch=epoch, drops=drops)
        is_bad = (epoch, batch.step) == (2, 1) and LocalContext().rank == rank
        return logits, loss * float("nan") if is_bad else loss

    return corrupted


def test_a_loss_that_is_not_a_number_names_its_batch_and_leaves_the_last_checkpoint(
    tmp_path: Path, poll_every_step: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = fake_store(90)
    monkeypatch.setattr(learner.Learner, "step", corrupt_loss())
    with pytest.raises(
        UserError, match=r"the loss of step \d+ \(epoch 2\) is not a number.*lower optim\.lr.*last good"
    ) as caught:
        fit(config(tmp_path, train={"epochs": 3, "log_rows": True}), store)
    run = runs.load(tmp_path / "run")
    rows = next(rows for epoch, number, rows in rows_in_order(run) if (epoch, number) == (2, 1))
    assert run.info["diverged"]["rows"] == rows and f"rows {rows[0]}, " in str(caught.value)
    last = checkpoints.load(checkpoint_of(run.path, "last"))
    assert last.state["epoch"] == 1 and all(torch.isfinite(t).all() for t in last.model.values())


def _diverge(output: str) -> None:
    polling.POLL_S = 0.0
    context = LocalContext(quiet=True)
    learner.Learner.step = corrupt_loss(rank=1)  # the loss of rank 0 is a number
    try:
        fit(config(Path(output), train={"epochs": 3, "log_rows": True}), fake_store(90), context)
    except UserError as error:
        (Path(output) / f"error-{context.rank}.txt").write_text(str(error))


def test_a_loss_that_is_not_a_number_on_one_rank_ends_both(tmp_path: Path) -> None:
    on_ranks(2, tmp_path, _diverge, str(tmp_path))
    run = runs.load(tmp_path / "run")
    rows = next(rows for epoch, number, rows in rows_in_order(run) if (epoch, number) == (2, 1))
    assert len(rows) == 16 and run.info["diverged"]["rows"] == rows  # of both ranks
    for rank in (0, 1):
        assert f"rows {rows[0]}, {rows[1]}, " in (tmp_path / f"error-{rank}.txt").read_text()


def test_a_training_that_diverges_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"diverged: lower optim\.lr"):
        fit(config(tmp_path, optim={"name": "sgd", "lr": 1e30}, train={"epochs": 3}), fake_store(60))
