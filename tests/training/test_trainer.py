"""The engine under `LocalContext`, alone and on two gloo ranks: what is learnt, written, resumed, and exactly equal."""

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from cxr_ray import config as cfg
from cxr_ray import metrics, runs
from cxr_ray.data import loader
from cxr_ray.data import plan as plans
from cxr_ray.errors import UserError
from cxr_ray.models import serialization
from cxr_ray.runtime import distributed, polling
from cxr_ray.runtime.context import LocalContext
from cxr_ray.training import checkpoint as checkpoints
from cxr_ray.training import export, learner, trainer
from tests.fakes.ranks import on_ranks
from tests.fakes.store import FakeStore, fake_store

STORE = {"path": "memory", "fingerprint": "f", "source": "fake", "rows": 0, "notes": []}


def config(output: Path, **sections) -> cfg.Config:
    base = {
        "name": "run",
        "output": str(output),
        "data": {"split": {"val": 0.25, "test": 0}},
        "model": {"name": "lenet"},
        "optim": {"lr": 3e-3},
        "train": {"epochs": 2, "batch_size": 16, "precision": "fp32"},
    }
    return cfg.validate(cfg.merge(base, sections))


def fit(config: cfg.Config, store: FakeStore, context: LocalContext | None = None) -> runs.Run:
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


def final_weights(run: runs.Run) -> dict[str, torch.Tensor]:
    return load_file(run.weights)


def test_it_learns_and_writes_the_run_folder(tmp_path):
    store = fake_store(240)
    run = fit(config(tmp_path, train={"epochs": 8}), store)
    table = run.metrics
    val = table[(table["part"] == "val") & (table["metric"] == "auroc") & (table["label"] == "mean")].set_index(
        "epoch"
    )["value"]
    assert val[8] > 0.95 > val[0] + 0.1  # epoch 0 judges the untrained model
    loss = table[(table["part"] == "train") & (table["metric"] == "loss") & (table["label"] == "")]["value"].to_numpy(
        float
    )
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


def test_smooth_targets_move_the_loss_and_not_what_judges(tmp_path, capsys):
    store = fake_store(120, uncertain=0.3)
    report = {"keep_predictions": True, "labels": "mine", "thresholds": {"mine": 0.0}}
    hyperparameters = {"report": report, "optim": {"lr": 1e-9}, "train": {"epochs": 1}}
    found = {}
    for policy in ("smooth", "ones"):
        data = {"uncertain": policy, "groups": {"mine": ["Edema", "Mass"]}}
        run = fit(config(tmp_path / policy, data=data, **hyperparameters), store, LocalContext(quiet=False))
        table = run.metrics.query("part == 'train'").set_index(["metric", "label"])["value"].astype(float)
        found[policy] = table[~table.index.duplicated()]
        said = capsys.readouterr().out
        assert "Edema " in said and "Mass " in said and "Effusion " not in said  # the group, and nothing else
        assert found[policy]["recall", "Edema"] == found[policy]["recall", "Mass"] == 1  # its threshold, for both
    assert found["smooth"]["loss", ""] != pytest.approx(found["ones"]["loss", ""], abs=1e-3)
    for name in [
        ("positives", "Edema"),
        ("auroc", "mean"),
        ("recall", "Effusion"),
    ]:  # at a rate of nothing the model stays
        assert found["smooth"][name] == pytest.approx(found["ones"][name], abs=1e-6)


def test_val_predictions_are_those_of_the_kept_checkpoint_and_give_its_metrics(tmp_path):
    store = fake_store(120, unknown=0.1)
    run = fit(config(tmp_path, train={"epochs": 3}, data={"blank": "ignore"}), store)
    table = run.predictions("val")
    model = serialization.read(run.weights).model
    with torch.inference_mode():
        prob = model(torch.from_numpy(store.images(table["row"]))).sigmoid().numpy()
    np.testing.assert_allclose(table[[f"prob/{k}" for k in store.labels]].to_numpy(), prob, atol=1e-6)
    truth = table[[f"true/{k}" for k in store.labels]].to_numpy()
    again = metrics.compute_metrics(
        truth,
        table[[f"prob/{k}" for k in store.labels]].to_numpy(),
        labels=store.labels,
        task="multilabel",
        thresholds_L=np.full(3, 0.5),
    )
    held = run.metrics.query(f"epoch == {run.info['best']['epoch']} and part == 'val'").set_index(["metric", "label"])[
        "value"
    ]
    for v in again:
        assert held[(v.metric, v.label)] == pytest.approx(v.value, abs=1e-12)
    assert run.info["best"]["value"] == held[("auroc", "mean")]


def test_select_last_keeps_the_last_epoch(tmp_path):
    store = fake_store(80)
    run = fit(
        config(tmp_path, train={"epochs": 3, "select": "last", "monitor": "val/loss", "monitor_mode": "max"}), store
    )
    assert run.info["kept"]["epoch"] == 3
    assert run.info["best"]["epoch"] == 1  # the worst loss of a trained model: the untrained one is not kept


@pytest.mark.parametrize("task", ["multiclass", "binary"])
def test_classes_and_one_label(tmp_path, task):
    labels = ("COVID", "Normal", "Viral Pneumonia") if task == "multiclass" else ("COVID",)
    store = fake_store(150, labels, task=task)
    run = fit(config(tmp_path, train={"epochs": 6}), store)
    assert run.config.train.monitor == ("val/accuracy" if task == "multiclass" else "val/auroc/mean")
    last = run.metrics.query("epoch == 6 and part == 'val'").set_index(["metric", "label"])["value"]
    assert last[("accuracy", "")] > 0.9
    table = run.predictions("val")
    prob = table[[f"prob/{k}" for k in labels]].to_numpy()
    if task == "multiclass":  # the epoch's confusion matrix, against a count one row at a time
        best = run.metrics.query(f"epoch == {run.info['best']['epoch']} and part == 'val' and metric == 'confusion'")
        said = [labels[i] for i in prob.argmax(axis=1)]
        true = [labels[i] for i in table[[f"true/{k}" for k in labels]].to_numpy().argmax(axis=1)]
        pairs = [f"{a} > {b}" for a, b in zip(true, said, strict=True)]
        assert best.set_index("label")["value"].to_dict() == {
            f"{a} > {b}": pairs.count(f"{a} > {b}") for a in labels for b in labels
        }
    assert np.allclose(prob.sum(axis=1), 1, atol=1e-5) if task == "multiclass" else prob.shape[1] == 1


def test_a_label_without_positives_in_val_is_absent_and_left_out_of_the_mean(tmp_path):
    store = fake_store(100)
    plan = plans.build(store, config(tmp_path).data, seed=0)
    here = store.index["row"].isin(plan.rows["val"])
    store.index["split"] = np.where(here, "val", "train")
    store.index.loc[here, "Mass"] = 0.0
    run = fit(config(tmp_path, data={"split": {"val": "official"}}, train={"epochs": 1}), store)
    found = run.metrics.query("epoch == 1 and part == 'val' and metric == 'auroc'").set_index("label")["value"]
    assert "Mass" not in found.index
    assert found["mean"] == pytest.approx((found["Edema"] + found["Effusion"]) / 2)


class StopAfter(LocalContext):
    def __init__(self, epochs: int) -> None:
        super().__init__(quiet=True)
        self.left = epochs + 1

    def report(self, metrics, checkpoint) -> None:
        super().report(metrics, checkpoint)
        self.left -= 1

    def should_stop(self) -> bool:
        return self.left <= 0


def test_a_stopped_run_goes_on_and_ends_bit_equal(tmp_path):
    store = fake_store(90)
    hyperparameters = {
        "model": {"name": "covid_cnn"},
        "train": {"epochs": 4},
        "optim": {"schedule": "cosine", "warmup_epochs": 0.5},
    }
    whole = fit(config(tmp_path, name="whole", **hyperparameters), store)
    part = fit(config(tmp_path, name="part", **hyperparameters), store, StopAfter(2))
    assert part.info["status"] == "stopped" and part.info["epochs"] == 2
    part = fit(config(tmp_path, name="part", **hyperparameters), store)
    assert part.info["status"] == "finished"
    a, b = final_weights(whole), final_weights(part)
    assert all(torch.equal(a[k], b[k]) for k in a)
    pd.testing.assert_frame_equal(whole.metrics, part.metrics)


def _damage(place: Path, *, cut: bool) -> None:
    """Half of the model's file, or one bit of it flipped."""
    body = bytearray((place / "model.safetensors").read_bytes())
    body[len(body) // 2] ^= 1
    (place / "model.safetensors").write_bytes(body[: len(body) // 2] if cut else body)


def _same_end(a: runs.Run, b: runs.Run) -> None:
    """Finished alike: bit-equal weights, the same metrics and the same predictions of val."""
    assert a.info["status"] == b.info["status"] == "finished" and a.info["kept"] == b.info["kept"]
    one, two = final_weights(a), final_weights(b)
    assert all(torch.equal(one[k], two[k]) for k in one)
    pd.testing.assert_frame_equal(a.metrics, b.metrics)
    pd.testing.assert_frame_equal(a.predictions("val"), b.predictions("val"))


# Worst by the monitor from epoch 1 on, so that the best stays epoch 1's.
FALLING = {"train": {"epochs": 4, "monitor": "val/loss", "monitor_mode": "max", "checkpoint_minutes": None}}


@pytest.mark.parametrize("cut", [True, False], ids=["cut", "flipped"])
def test_a_damaged_last_checkpoint_leaves_the_best_one_to_go_on_from(tmp_path, cut, capsys):
    store = fake_store(60)
    whole = fit(config(tmp_path, name="whole", **FALLING), store)
    run = fit(config(tmp_path, name="part", **FALLING), store, StopAfter(3))
    folder = run.path / "checkpoints"
    best, last = checkpoints.pointed(folder, "best"), checkpoints.pointed(folder, "last")
    assert best != last
    _damage(last, cut=cut)
    context = LocalContext()
    run = fit(config(tmp_path, name="part", **FALLING), store, context)
    said = capsys.readouterr().out
    assert f"the last checkpoint ({last.name}) is damaged: going on from {best.name}, the newest" in said
    assert len(context.history) == 3  # epochs 2 to 4
    _same_end(whole, run)


def test_no_sound_checkpoint_is_refused_with_the_mend(tmp_path):
    store = fake_store(60)
    run = fit(config(tmp_path, train={"epochs": 3}), store, StopAfter(1))
    folder = run.path / "checkpoints"
    for place in folder.glob("step-*"):
        _damage(place, cut=True)
    with pytest.raises(UserError, match=r"no checkpoint in .*checkpoints is sound.*delete that folder"):
        fit(config(tmp_path, train={"epochs": 3}), store)
    for place in [*folder.iterdir()]:
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    assert fit(config(tmp_path, train={"epochs": 3}), store).info["status"] == "finished"


def test_where_the_best_is_lost_the_last_epoch_is_judged_again_and_kept(tmp_path, capsys):
    store = fake_store(60)
    run = fit(config(tmp_path, **FALLING), store, StopAfter(4))  # stopped after the last epoch: only finishing is left
    run.update(status="stopped")
    _damage(checkpoints.pointed(run.path / "checkpoints", "best"), cut=True)
    before = run.metrics
    run = fit(config(tmp_path, **FALLING), store, LocalContext())
    assert "the checkpoint of the best epoch (1) is damaged or missing" in capsys.readouterr().out
    assert run.info["best"]["epoch"] == run.info["kept"]["epoch"] == 4
    pd.testing.assert_frame_equal(before, run.metrics)
    _predictions_are_the_model_s(run, store)


def _predictions_are_the_model_s(run: runs.Run, store: FakeStore) -> None:
    table = run.predictions("val")
    with torch.inference_mode():
        prob = serialization.read(run.weights).model(torch.from_numpy(store.images(table["row"]))).sigmoid().numpy()
    np.testing.assert_allclose(table[[f"prob/{k}" for k in store.labels]].to_numpy(), prob, atol=1e-6)


class Killed(BaseException):
    """As a kill: nothing catches it."""


def _killed(*_, **__):
    raise Killed


@pytest.fixture
def every_step(monkeypatch):
    """Look up, and save where a checkpoint is due, after every step."""
    monkeypatch.setattr(polling, "POLL_S", 0.0)


class StopAfterSteps(LocalContext):
    """Asks to stop at the n-th look; every rank asks after every step."""

    def __init__(self, looks: int) -> None:
        super().__init__(quiet=True)
        self.left = looks

    def should_stop(self) -> bool:
        self.left -= 1
        return self.left < 0


def _whole_and_in_two_pieces(output: str, hyperparameters: dict, looks: int) -> None:
    polling.POLL_S = 0.0
    fit(config(Path(output), name="whole", **hyperparameters), fake_store(90))
    fit(config(Path(output), name="part", **hyperparameters), fake_store(90), StopAfterSteps(looks))
    fit(config(Path(output), name="part", **hyperparameters), fake_store(90))


@pytest.mark.parametrize("world", [1, 2])
def test_a_run_cut_within_an_epoch_goes_on_at_the_next_step_and_ends_bit_equal(tmp_path, world, every_step):
    """Weights, optimiser, batch norm's statistics of each rank, and the epoch's train metrics."""
    hyperparameters = {
        "model": {"name": "shufflenet_v2_x0_5", "dropout": 0.2},  # batch norm, and draws of the rank's own
        "train": {"epochs": 2, "batch_size": 16, "log_rows": True},
        "optim": {"schedule": "cosine"},
    }
    on_ranks(world, tmp_path, _whole_and_in_two_pieces, str(tmp_path), hyperparameters, 3)
    whole, part = runs.load(tmp_path / "whole"), runs.load(tmp_path / "part")
    assert part.info["status"] == "finished"
    a, b = final_weights(whole), final_weights(part)
    assert all(torch.equal(a[k], b[k]) for k in a)
    pd.testing.assert_frame_equal(whole.metrics, part.metrics)
    assert _rows_in_order(whole) == _rows_in_order(part)  # no step twice, none left out


def test_a_checkpoint_within_an_epoch_is_written_when_due_and_replaced_at_its_end(tmp_path, every_step):
    store = fake_store(90)
    hyperparameters = {"train": {"epochs": 1, "batch_size": 16, "checkpoint_minutes": 1e-9}}
    written = []
    begin = checkpoints.Writing

    def noted(folder, step, **given):
        written.append((step, bool(given.get("within"))))
        return begin(folder, step, **given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "Writing", noted)
        run = fit(config(tmp_path, **hyperparameters), store)
    steps = -(-len(run.plan.query("part == 'train'")) // 16)
    assert written == [(0, False), *[(s, True) for s in range(1, steps + 1)]]
    assert len(list((run.path / "checkpoints").glob("step-*"))) <= 2


class TimeOver:
    """A `Watch` whose time is over at the n-th step of all."""

    def __init__(self, patch: pytest.MonkeyPatch, step: int) -> None:
        poll, note = polling.Watch.poll, polling.Watch.note
        self.step = 0

        def noted(own, step, loss):
            self.step = step
            note(own, step, loss)

        patch.setattr(polling.Watch, "note", noted)
        patch.setattr(polling.Watch, "poll", lambda own: poll(own)._replace(over=self.step >= step))


@pytest.mark.parametrize("select", ["best", "last"])
@pytest.mark.parametrize("step", [2, 7])
def test_time_that_is_over_within_an_epoch_ends_the_epoch_there_and_judges_it(
    tmp_path, every_step, monkeypatch, capsys, step, select
):
    """Also within the first one: what is kept is trained, and its predictions are its own."""
    store = fake_store(90)
    hyperparameters = {"epochs": 50, "max_time": 60, "select": select, "monitor": "train/loss", "monitor_mode": "min"}
    TimeOver(monkeypatch, step)
    run = fit(config(tmp_path, model={"name": "covid_cnn"}, train=hyperparameters), store, LocalContext())
    steps = -(-len(run.plan.query("part == 'train'")) // 16)
    epoch, batch = 1 + (step - 1) // steps, 1 + (step - 1) % steps
    said = f"train.max_time: 60 minutes are over after batch {batch} of {steps} in epoch {epoch}, which ends here"
    assert said in capsys.readouterr().out
    assert run.info["status"] == "finished" and run.info["ended"] == "max_time" and run.info["epochs"] == epoch
    assert run.info["kept"] == {"epoch": epoch, "step": step}
    rows = run.metrics.query("epoch == @epoch and part == 'train' and metric == 'loss' and label == ''")["rows"]
    assert rows.tolist() == [batch * 16]
    _predictions_are_the_model_s(run, store)


def test_a_run_that_died_after_its_shortened_epoch_trains_no_more(tmp_path, every_step, monkeypatch):
    store = fake_store(90)
    hyperparameters = {"epochs": 50, "max_time": 60}
    with monkeypatch.context() as patch:
        TimeOver(patch, 7)
        patch.setattr(export, "save_model", _killed)
        with pytest.raises(Killed):
            fit(config(tmp_path, train=hyperparameters), store)
    context = LocalContext(quiet=True)
    run = fit(config(tmp_path, train=hyperparameters), store, context)
    assert run.info["ended"] == "max_time" and run.info["kept"]["step"] <= 7 and not context.history


def test_a_time_too_short_for_one_step_is_warned_of(tmp_path, every_step, capsys):
    over = fit(config(tmp_path, train={"epochs": 50, "max_time": 1e-6}), fake_store(90), LocalContext())
    assert over.info["status"] == "finished" and over.info["ended"] == "max_time" and over.info["kept"]["epoch"] == 0
    assert "warning: the training ended before its first step: the model that is kept is untrained" in (
        capsys.readouterr().out
    )


TIRED = {"optim": {"lr": 1e-12}, "train": {"epochs": 50, "patience": 2, "monitor": "val/recall/mean"}}


def test_patience_ends_a_training(tmp_path):
    tired = fit(config(tmp_path, name="tired", **TIRED), fake_store(90))
    assert tired.info["ended"] == "patience" and tired.info["epochs"] == tired.info["best"]["epoch"] + 2


def test_patience_is_decided_before_going_on(tmp_path):
    """A kill between an epoch's checkpoint and the look at patience costs no epoch more."""
    store = fake_store(90)
    whole = fit(config(tmp_path, name="whole", **TIRED), store)

    class KilledAfterLast(LocalContext):
        def report(self, metrics, checkpoint):
            if metrics["epoch"] == whole.info["epochs"]:
                _killed()

    with pytest.raises(Killed):
        fit(config(tmp_path, name="part", **TIRED), store, KilledAfterLast(quiet=True))
    context = LocalContext(quiet=True)
    part = fit(config(tmp_path, name="part", **TIRED), store, context)
    assert part.info["ended"] == "patience" and not context.history
    _same_end(whole, part)


def test_the_seconds_of_an_epoch_that_was_stopped_within_count(tmp_path, every_step, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(trainer.time, "perf_counter", lambda: float(next(clock)))  # each look at it a second later
    looks = 6  # two of epoch 0, then steps
    run = fit(config(tmp_path), fake_store(90), StopAfterSteps(looks))
    kept = checkpoints.load(checkpoints.pointed(run.path / "checkpoints", "last"))
    assert kept.state["batches"] > 0 and run.info["seconds"] >= kept.state["seconds"]


def test_a_stop_is_heard_while_val_is_judged_and_the_epoch_is_judged_first_when_it_goes_on(
    tmp_path, every_step, monkeypatch
):
    store = fake_store(90)
    hyperparameters = {"model": {"name": "covid_cnn"}, "train": {"epochs": 2, "batch_size": 8}}
    whole = fit(config(tmp_path, name="whole", **hyperparameters), store)
    steps = -(-len(whole.plan.query("part == 'train'")) // 8)
    judgings = -(-len(whole.plan.query("part == 'val'")) // 8)
    assert judgings > 1
    for name, looks in (("zero", 1), ("one", judgings + 1 + steps + 1)):
        part = fit(config(tmp_path, name=name, **hyperparameters), store, StopAfterSteps(looks))
        kept = checkpoints.load(checkpoints.pointed(part.path / "checkpoints", "last"))
        assert part.info["status"] == "stopped" and not kept.state["judged"] and not kept.state["batches"]
        assert kept.state["epoch"] == (name == "one") and part.info["epochs"] == kept.state["epoch"] - 1
        with monkeypatch.context() as patch:
            trained = _epochs_of_steps(patch)
            _same_end(whole, fit(config(tmp_path, name=name, **hyperparameters), store))
        assert trained.count(1) == (0 if name == "one" else steps)


def _epochs_of_steps(patch: pytest.MonkeyPatch) -> list[int]:
    """The epoch of every step that is made from now on."""
    forward, seen = learner.Learner._forward_backward, []
    patch.setattr(
        learner.Learner, "_forward_backward", lambda self, b, epoch, s: seen.append(epoch) or forward(self, b, epoch, s)
    )
    return seen


def test_a_stop_within_an_epoch_keeps_the_model_whose_predictions_are_there(tmp_path, every_step):
    store = fake_store(90)
    hyperparameters = {"model": {"name": "covid_cnn"}, "train": {"epochs": 3, "select": "last"}}
    run = fit(config(tmp_path, **hyperparameters), store, StopAfterSteps(2 + 1 + 2))
    assert checkpoints.load(checkpoints.pointed(run.path / "checkpoints", "last")).state["batches"] > 0
    assert run.info["kept"]["epoch"] == run.info["epochs"] == 0
    _predictions_are_the_model_s(run, store)


@pytest.mark.parametrize("when", ["within", "end"])
def test_weights_that_are_no_numbers_replace_no_checkpoint(tmp_path, every_step, monkeypatch, when):
    """The loss of the step was finite; its update was not, and nothing came after it that could tell."""
    store = fake_store(90)
    monkeypatch.setattr(polling, "POLL_S", 0.0)
    split = {"split": {"val": 0.25 if when == "within" else 0, "test": 0}}
    hyperparameters = {"train": {"epochs": 3, "checkpoint_minutes": 1e-9, "monitor": "train/loss", "log_rows": True}}
    plan = plans.build(store, config(tmp_path, data=split).data, seed=0)
    steps = -(-int(plan.repeats.sum()) // 16)
    batch = 1 if when == "within" else steps - 1
    step = learner.Learner.step

    def poisoned(self, given, *, epoch, drops):
        outputs = step(self, given, epoch=epoch, drops=drops)
        if (epoch, given.step) == (2, batch):
            with torch.no_grad():
                next(self.model.parameters()).view(-1)[0] = float("inf")
        return outputs

    monkeypatch.setattr(learner.Learner, "step", poisoned)
    with pytest.raises(UserError, match=rf"the weights after step {steps + batch + 1} \(epoch 2\) are not all numbers"):
        fit(config(tmp_path, data=split, **hyperparameters), store)
    run = runs.load(tmp_path / "run")
    assert run.info["diverged"]["rows"] == next(r for e, s, r in _rows_in_order(run) if (e, s) == (2, batch))
    for place in (run.path / "checkpoints").glob("step-*"):
        assert all(torch.isfinite(t).all() for t in checkpoints.load(place).model.values())
    assert checkpoints.load(checkpoints.pointed(run.path / "checkpoints", "last")).state["step"] == steps + batch


def test_a_loss_that_is_not_a_number_names_its_batch_and_keeps_the_last_checkpoint(tmp_path, every_step, monkeypatch):
    store = fake_store(90)
    step = learner.Learner._forward_backward

    def poisoned(self, batch, epoch, scale):
        outputs, loss = step(self, batch, epoch, scale)
        return outputs, loss * float("nan") if (epoch, batch.step) == (2, 1) else loss

    monkeypatch.setattr(learner.Learner, "_forward_backward", poisoned)
    with pytest.raises(
        UserError, match=r"the loss of step \d+ \(epoch 2\) is not a number.*lower optim\.lr.*last good"
    ) as said:
        fit(config(tmp_path, train={"epochs": 3, "log_rows": True}), store)
    run = runs.load(tmp_path / "run")
    rows = next(rows for epoch, number, rows in _rows_in_order(run) if (epoch, number) == (2, 1))
    assert run.info["diverged"]["rows"] == rows and f"rows {rows[0]}, " in str(said.value)
    kept = checkpoints.load(checkpoints.pointed(run.path / "checkpoints", "last"))
    assert kept.state["epoch"] == 1 and all(torch.isfinite(t).all() for t in kept.model.values())


def test_a_run_killed_at_any_write_goes_on_from_a_whole_checkpoint(tmp_path, monkeypatch):
    """Every write, rename and sync of the first two epochs is a place to die at; a cut file is left behind each time."""
    store = fake_store(60)
    hyperparameters = {"train": {"epochs": 2}, "report": {"trackers": []}}
    whole = final_weights(fit(config(tmp_path, name="whole", **hyperparameters), store))
    fsync = os.fsync
    at, died = 0, True
    while died:
        at += 1
        count = 0

        def dying(descriptor, at=at):
            nonlocal count
            count += 1
            if count == at:
                raise Killed
            fsync(descriptor)

        died = False
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", dying)
            try:
                fit(config(tmp_path, name=f"cut-{at}", **hyperparameters), store)
            except Killed:
                died = True
        place = tmp_path / f"cut-{at}"
        if died and (place / "run.json").exists():
            if runs.load(place).info["status"] != "finished":  # else it died after its last rename
                fit(config(tmp_path, name=place.name, **hyperparameters), store)
            found = final_weights(runs.load(place))
            assert all(torch.equal(whole[k], found[k]) for k in whole), at
    assert at > 40  # three checkpoints of four files, their pointers, tables and predictions


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    store = fake_store(60)
    write = checkpoints.write_atomic

    def full(path, body, **given):
        if path.parent.name.startswith("step-") and path.parent.name != "step-00000000":
            raise UserError(f"no space left to write {path}; free some and run the same command again")
        return write(path, body, **given)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_atomic", full)
        with pytest.raises(UserError, match=r"no space left to write .*model\.safetensors"):
            fit(config(tmp_path, train={"epochs": 2}), store)
    folder = tmp_path / "run" / "checkpoints"
    assert checkpoints.load(checkpoints.pointed(folder, "last")).state["epoch"] == 0
    assert [p.name for p in folder.glob("step-*")] == ["step-00000000"]
    assert fit(config(tmp_path, train={"epochs": 2}), store).info["status"] == "finished"


def test_names_are_taken_once(tmp_path):
    store = fake_store(60)
    fit(config(tmp_path, train={"epochs": 1}), store, StopAfter(0))
    with pytest.raises(UserError, match=r"started with another config \(optim.lr: was 0.003, is 0.5\)"):
        fit(config(tmp_path, train={"epochs": 1}, optim={"lr": 0.5}), store)
    fit(config(tmp_path, train={"epochs": 1}), store)
    with pytest.raises(UserError, match=r"the run run in .* is finished"):
        fit(config(tmp_path, train={"epochs": 1}), store)


def test_one_seed_gives_bit_equal_weights_and_another_does_not(tmp_path):
    store = fake_store(60)
    a, b, c = (final_weights(fit(config(tmp_path, name=n, seed=s), store)) for n, s in (("a", 1), ("b", 1), ("c", 2)))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not all(torch.equal(a[k], c[k]) for k in a)


def test_a_model_that_diverges_says_so(tmp_path):
    with pytest.raises(UserError, match=r"diverged: lower optim\.lr"):
        fit(config(tmp_path, optim={"name": "sgd", "lr": 1e30}, train={"epochs": 3}), fake_store(60))


# -- two ranks ---------------------------------------------------------------------------------------------------

# The last batch is short, and for "sum" it has one row, so that one rank has none; masks differ between the ranks' halves.
EXACT = {
    "data": {"blank": "ignore", "split": {"by": "image", "val": 0.25, "test": 0}, "oversample_min_count": 3},
    # Not Adam: it divides by the gradient's own size, so that rounding in a gradient near zero moves a weight as far as a
    # large gradient does, and the two paths part.
    "optim": {"name": "sgd", "lr": 1e-3},
    "augment": {"probability": 0.7, "scale": 0.1, "flip": 0.3},
    "train": {"epochs": 2, "log_rows": True},
    "report": {"keep_predictions": True},
}


def _fit_and_keep_gradients(output: str, sections: dict, folder: str) -> None:
    """Fit, and keep every step's gradients (as each rank has them after the all-reduce)."""
    kept = []
    step = torch.optim.SGD.step

    def keep(self, *args, **kwargs):
        kept.append(torch.cat([p.grad.flatten().clone() for g in self.param_groups for p in g["params"]]))
        return step(self, *args, **kwargs)

    torch.optim.SGD.step = keep
    try:
        context = LocalContext(quiet=True)
        fit(config(Path(output), **sections), fake_store(101, unknown=0.3), context)
    finally:
        torch.optim.SGD.step = step
    torch.save(torch.stack(kept), Path(folder) / f"{sections['name']}-gradients-{context.rank}.pt")


def _rows_in_order(run: runs.Run) -> list[tuple[int, int, list[int]]]:
    """(epoch, step, rows of all ranks in rank order) of the run's row log."""
    logs = [
        pd.read_csv(p, names=["epoch", "step", "rank", "rows"], keep_default_na=False, dtype={"rows": str})
        for p in sorted((run.path / "rows").iterdir())
    ]
    table = pd.concat(logs).sort_values(["epoch", "step", "rank"], kind="stable")
    return [
        (e, s, [int(r) for text in g["rows"] for r in text.split()]) for (e, s), g in table.groupby(["epoch", "step"])
    ]


@pytest.fixture(scope="module", params=["mean", "sum"])
def both_worlds(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    found = {}
    for world in (1, 2):
        sections = {**EXACT, "name": f"world{world}", "loss": {"reduction": request.param, "pos_weight_power": 0.5}}
        drawn = int(plans.build(fake_store(101, unknown=0.3), config(folder, **sections).data, seed=0).repeats.sum())
        wanted = (lambda rest: rest > 1 and rest % 2) if request.param == "mean" else (lambda rest: rest == 1)
        sections["train"] = {
            **EXACT["train"],
            "batch_size": next(size for size in range(12, drawn) if wanted(drawn % size)),
        }
        on_ranks(world, folder, _fit_and_keep_gradients, str(folder), sections, str(folder))
        found[world] = runs.load(folder / f"world{world}")
    return folder, found


def test_the_same_rows_in_the_same_order_at_any_world_size(both_worlds):
    _, found = both_worlds
    one, two = _rows_in_order(found[1]), _rows_in_order(found[2])
    assert one == two
    drawn = found[1].plan.query("part == 'train'")
    for epoch in (1, 2):
        seen = pd.Series([r for e, _, rows in one if e == epoch for r in rows]).value_counts()
        assert seen.to_dict() == dict(zip(drawn["row"], drawn["drawn"], strict=True))
    assert [r for e, _, rows in one if e == 1 for r in rows] != [r for e, _, rows in one if e == 2 for r in rows]


def test_the_same_losses_and_gradients_at_any_world_size(both_worlds):
    folder, found = both_worlds
    alone = torch.load(folder / "world1-gradients-0.pt", weights_only=True)
    for rank in (0, 1):
        shared = torch.load(folder / f"world2-gradients-{rank}.pt", weights_only=True)
        scale = alone.abs().amax(dim=1, keepdim=True)
        assert ((alone - shared).abs() / scale).max() < 1e-5, "gradients differ between world sizes 1 and 2"
    a, b = (found[w].metrics.query("metric == 'loss'").set_index(["epoch", "part", "label"])["value"] for w in (1, 2))
    assert len(a) == 2 * 4 + 3 * 4 and ((a - b).abs() < 1e-5).all()
    wa, wb = final_weights(found[1]), final_weights(found[2])
    assert max(float((wa[k] - wb[k]).abs().max()) for k in wa) < 1e-4


def test_val_is_covered_exactly_and_its_metrics_meet_a_slow_oracle(both_worlds):
    _, found = both_worlds
    for world in (1, 2):
        run = found[world]
        val = run.plan.query("part == 'val'")["row"].tolist()
        assert len(val) % 2 == 1, "the row count must not divide evenly between the ranks"
        for epoch in (0, 1, 2):
            table = run.predictions(f"epochs/{epoch:04d}-val")
            assert table["row"].tolist() == val
            held = run.metrics.query("epoch == @epoch and part == 'val'").set_index(["metric", "label"])["value"]
            for label in ("Edema", "Mass", "Effusion"):
                pairs = table[[f"true/{label}", f"prob/{label}"]].dropna().to_numpy(float)
                for metric, value in _slow(pairs[:, 0], pairs[:, 1]).items():
                    if value is None:
                        assert (metric, label) not in held.index
                    else:
                        assert held[(metric, label)] == pytest.approx(value, abs=1e-9), (world, epoch, metric, label)


def _slow(truth, prob) -> dict[str, float | None]:
    """Recall, precision, F1, AUROC and AP by their definitions, one row at a time."""
    tp = sum(1 for y, p in zip(truth, prob, strict=True) if y == 1 and p >= 0.5)
    fp = sum(1 for y, p in zip(truth, prob, strict=True) if y == 0 and p >= 0.5)
    fn = sum(1 for y, p in zip(truth, prob, strict=True) if y == 1 and p < 0.5)
    positive = [p for y, p in zip(truth, prob, strict=True) if y == 1]
    negative = [p for y, p in zip(truth, prob, strict=True) if y == 0]
    wins = sum((a > b) + 0.5 * (a == b) for a in positive for b in negative)
    ap, before = 0.0, 0.0
    for cut in sorted(set(prob), reverse=True):
        recall = sum(p >= cut for p in positive) / len(positive) if positive else 0.0
        above = sum(p >= cut for p in prob)
        ap += (recall - before) * sum(p >= cut for p in positive) / above
        before = recall
    return {
        "recall": tp / (tp + fn) if positive else None,
        "precision": tp / (tp + fp) if tp + fp else None,
        "f1": 2 * tp / (2 * tp + fp + fn) if 2 * tp + fp + fn else None,
        "auroc": wins / (len(positive) * len(negative)) if positive and negative else None,
        "ap": ap if positive else None,
    }


def test_micro_batches_give_the_whole_batch_s_gradients(tmp_path):
    store = fake_store(70, unknown=0.3)
    a, b = (
        final_weights(fit(config(tmp_path, name=n, data={"blank": "ignore"}, train={"micro_batch": m}), store))
        for n, m in (("whole", None), ("pieces", 5))
    )
    assert max(float((a[k] - b[k]).abs().max()) for k in a) < 1e-5


def test_a_rank_without_rows_still_answers():
    assert [loader.rank_slice(1, r, 2) for r in (0, 1)] == [slice(0, 1), slice(1, 1)]
    for count in range(9):
        for world in (1, 2, 3, 4):
            cut = np.array_split(np.arange(count), world)
            assert [list(range(count))[loader.rank_slice(count, r, world)] for r in range(world)] == [
                c.tolist() for c in cut
            ]


def test_statistics_lie_on_the_model_s_device_also_where_there_are_none():
    """NCCL takes no tensor of the processor's, also no empty one."""
    assert distributed.running_statistics(torch.nn.Linear(2, 2, device="meta")).device.type == "meta"


def test_a_network_without_batch_norm_gathers_no_statistics(tmp_path, every_step, monkeypatch):
    gather, widths = distributed.gather_rows, []
    monkeypatch.setattr(distributed, "gather_rows", lambda mine: widths.append(mine.shape[1:].numel()) or gather(mine))
    run = fit(config(tmp_path), fake_store(90), StopAfterSteps(6))
    assert checkpoints.load(checkpoints.pointed(run.path / "checkpoints", "last")).state["batches"] > 0
    assert widths and 0 not in widths


@pytest.mark.parametrize(("monitor", "mode"), [("val/f1/mean", "max"), ("val/auroc/Edema", "max"), ("val/loss", "max")])
def test_the_epoch_of_the_best_value_is_kept(tmp_path, monitor, mode):
    store = fake_store(60)
    train = {"epochs": 4, "batch_size": 16, "monitor": monitor, "monitor_mode": mode}
    run = fit(config(tmp_path, optim={"lr": 1e-3}, train=train), store)
    table = run.metrics.query("epoch > 0")
    named = (table["part"] + "/" + table["metric"] + "/" + table["label"]).str.rstrip("/") == monitor
    values = table[named].set_index("epoch")["value"].astype(float)
    assert values.nunique() > 1
    best = int(values.idxmax())  # the first of equals
    assert run.info["best"] == {**run.info["best"], "epoch": best, "value": values[best]}
    assert run.info["kept"]["epoch"] == best
    _predictions_are_the_model_s(run, store)


def _diverge(output: str) -> None:
    polling.POLL_S = 0.0
    context = LocalContext(quiet=True)
    step = learner.Learner._forward_backward

    def poisoned(self, batch, epoch, scale):
        outputs, loss = step(self, batch, epoch, scale)
        bad = (epoch, batch.step) == (2, 1) and context.rank == 1  # the other rank's own loss is a number
        return outputs, loss * float("nan") if bad else loss

    learner.Learner._forward_backward = poisoned
    try:
        fit(config(Path(output), train={"epochs": 3, "log_rows": True}), fake_store(90), context)
    except UserError as error:
        (Path(output) / f"said-{context.rank}.txt").write_text(str(error))


def test_a_loss_that_is_not_a_number_on_one_rank_ends_both(tmp_path):
    on_ranks(2, tmp_path, _diverge, str(tmp_path))
    run = runs.load(tmp_path / "run")
    rows = next(rows for epoch, number, rows in _rows_in_order(run) if (epoch, number) == (2, 1))
    assert len(rows) == 16 and run.info["diverged"]["rows"] == rows  # of both ranks
    for rank in (0, 1):
        assert f"rows {rows[0]}, {rows[1]}, " in (tmp_path / f"said-{rank}.txt").read_text()


def _stopped_judging(output: str) -> None:
    """21 val rows in batches of 5: one rank has 11 and looks up three times, the other 10 and two batches."""
    polling.POLL_S = 0.0
    hyperparameters = {
        "data": {"split": {"by": "image", "val": 21 / 80, "test": 0}},
        "train": {"epochs": 2, "micro_batch": 5},
    }
    store = fake_store(80, images_a_patient=1)
    whole = fit(config(Path(output), name="whole", **hyperparameters), store)
    assert len(whole.plan.query("part == 'val'")) == 21
    for looks in (2, 3 + 1 + 4 + 2):  # at the last look of epoch 0's judging, at that of epoch 1's
        fit(config(Path(output), name=f"part{looks}", **hyperparameters), store, StopAfterSteps(looks))
        torch.distributed.barrier()
        place = checkpoints.pointed(Path(output) / f"part{looks}" / "checkpoints", "last")
        assert not checkpoints.load(place).state["judged"]
        torch.distributed.barrier()
        fit(config(Path(output), name=f"part{looks}", **hyperparameters), store)


def test_two_ranks_stop_together_while_they_judge(tmp_path):
    on_ranks(2, tmp_path, _stopped_judging, str(tmp_path))
    for looks in (2, 10):
        _same_end(runs.load(tmp_path / "whole"), runs.load(tmp_path / f"part{looks}"))
