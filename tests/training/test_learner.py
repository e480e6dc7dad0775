"""Training options together: the same results on one rank, on two gloo ranks, and after a stop and a resume."""

from pathlib import Path
from typing import Any

import pytest
import torch

from cxr_ray import config as cfg
from cxr_ray import models, runs
from cxr_ray.data import loader
from cxr_ray.data import plan as plans
from cxr_ray.errors import UserError
from cxr_ray.models import serialization
from cxr_ray.runtime import distributed
from cxr_ray.runtime.context import LocalContext
from cxr_ray.training import checkpoint as checkpoints
from cxr_ray.training import optim
from cxr_ray.training.learner import Learner
from tests.fakes.ranks import on_ranks
from tests.fakes.store import FakeStore, fake_store
from tests.fakes.trainings import (
    StopAfter,
    StopAfterPolls,
    assert_same_weights_and_metrics,
    checkpoint_of,
    config,
    final_weights,
    fit,
)

DATA = {"blank": "ignore", "split": {"by": "image", "val": 0.25, "test": 0}}
EVERYTHING: dict[str, Any] = {
    "data": DATA,
    "augment": {"probability": 0.7, "erase": 0.3, "mixup": 0.4},
    "model": {"name": "lenet", "freeze_epochs": 1, "dropout": 0.0},
    "optim": {
        "lr": 3e-3, "weight_decay": 0.01, "decay_norms": False, "head_lr_factor": 3.0, "clip_norm": 1.0, "ema": 0.9,
        "schedule": "plateau", "drop_epochs": 1, "drop_factor": 0.5,
    },
    "train": {"epochs": 3, "batch_size": 16, "precision": "fp32", "monitor": "val/loss"},
}  # fmt: skip


def first_weights(folder: Path) -> str:
    """A model file to start from."""
    torch.manual_seed(5)
    model = models.build(cfg.Model(name="lenet"), outputs=3, image_size=(28, 28), mean=0.2, deviation=0.2)
    path = folder / "first.safetensors"
    serialization.write(path, model, model.state_dict(), labels="abc", task="multilabel", precision="fp32")
    return str(path)


def everything(folder: Path, **more: dict) -> dict:
    return cfg.merge(cfg.merge(EVERYTHING, {"model": {"weights": first_weights(folder)}}), more)


def test_a_stopped_run_with_every_option_resumes_and_ends_bit_equal(tmp_path: Path) -> None:
    """Frozen at first; with a moving average; the rate drops by the metrics of epochs before the stop."""
    store, hyperparameters = fake_store(45, unknown=0.2), everything(tmp_path)
    whole = fit(config(tmp_path, **hyperparameters, name="whole"), store)
    stopped = fit(config(tmp_path, **hyperparameters, name="resumed"), store, StopAfter(1))
    assert stopped.info["status"] == "stopped" and stopped.info["epochs"] == 1
    resumed = fit(config(tmp_path, **hyperparameters, name="resumed"), store)
    assert_same_weights_and_metrics(whole, resumed)


@pytest.mark.parametrize("polls", [4, 11, 18])  # one per batch and one per epoch: within the epochs 1, 2 and 3
def test_a_run_with_every_option_stopped_within_an_epoch_ends_bit_equal(
    tmp_path: Path, poll_every_step: None, polls: int
) -> None:
    """Within the frozen epoch and those after it; with oversampled label vectors."""
    store = fake_store(45, unknown=0.2)
    hyperparameters = everything(tmp_path, data={"oversample_min_count": 4})
    whole = fit(config(tmp_path, **hyperparameters, name="whole"), store)
    assert whole.plan["drawn"].max() > 1
    stopped = fit(config(tmp_path, **hyperparameters, name="resumed"), store, StopAfterPolls(polls))
    last = checkpoint_of(stopped.path, "last")
    assert last is not None and checkpoints.load(last).state["batches"] > 0
    resumed = fit(config(tmp_path, **hyperparameters, name="resumed"), store)
    assert_same_weights_and_metrics(whole, resumed)


def test_the_average_is_evaluated_and_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[dict[str, torch.Tensor]] = []
    update = optim.Ema.update

    def recorded(self: optim.Ema, model: torch.nn.Module, step: int) -> None:
        if not states:
            states.append({name: value.clone() for name, value in self.state_dict().items()})
        update(self, model, step)
        states.append({name: value.clone() for name, value in model.state_dict().items()})

    monkeypatch.setattr(optim.Ema, "update", recorded)
    store = fake_store(60)
    run = fit(config(tmp_path, optim={"ema": 0.8}, train={"epochs": 2, "select": "last"}), store)
    average = states[0]
    for step, weights in enumerate(states[1:], start=1):
        keep = min(0.8, step / (9 + step))
        average = {name: keep * average[name] + (1 - keep) * value for name, value in weights.items()}
    final = final_weights(run)
    assert all(torch.allclose(final[name], value, atol=1e-5) for name, value in average.items())
    assert not all(torch.allclose(final[name], value, atol=1e-4) for name, value in states[-1].items())
    table = run.predictions("val")
    with torch.inference_mode():
        prob = serialization.read(run.weights).model(torch.from_numpy(store.images(table["row"]))).sigmoid()
    assert torch.allclose(torch.tensor(table[[f"prob/{k}" for k in store.labels]].to_numpy()), prob, atol=1e-6)


def test_a_frozen_epoch_changes_only_the_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hyperparameters = everything(tmp_path, optim={"ema": 0.0, "schedule": "constant"}, train={"select": "last"})
    start = serialization.read(Path(hyperparameters["model"]["weights"])).model.state_dict()
    for epochs in (1, 2):
        name = f"epochs{epochs}"
        run = fit(
            config(tmp_path, **cfg.merge(hyperparameters, {"name": name, "train": {"epochs": epochs}})), fake_store(60)
        )
        changed = {key for key, value in final_weights(run).items() if not torch.equal(value, start[key])}
        head = {"backbone.classifier.5.weight", "backbone.classifier.5.bias"}
        assert changed == (head if epochs == 1 else set(start))


def test_the_rate_drops_follow_the_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    monkeypatch.setattr("cxr_ray.training.optim.set_learning_rate", lambda _optimizer, rate: rates.append(rate))
    # The rate stays at its first value, 1.0, with which epochs soon stop improving.
    hyperparameters = {"optim": {"name": "sgd", "lr": 1.0, "schedule": "plateau", "drop_epochs": 2, "drop_factor": 0.1}}
    train = {"epochs": 7, "batch_size": 64, "monitor": "val/loss", "precision": "fp32"}
    run = fit(config(tmp_path, **hyperparameters, train=train), fake_store(60))
    losses = run.metrics.query("part == 'val' and metric == 'loss' and label == ''").set_index("epoch")["value"]
    expected, best, since, drops = [], losses[0], 0, 0
    for epoch in range(1, 8):
        expected.append(0.1**drops)
        since = 0 if losses[epoch] < best else since + 1
        best = min(best, losses[epoch])
        if since == 2:
            since, drops = 0, drops + 1
    assert rates == pytest.approx(expected) and drops >= 1


def test_fp16_learns_and_resumes_bit_equal(tmp_path: Path) -> None:
    """The gradient scale is part of the state: summed losses overflow at the first one, which is halved until they do not."""
    store = fake_store(45)
    hyperparameters = {"loss": {"reduction": "sum"}, "optim": {"lr": 1e-3}, "train": {"epochs": 3, "precision": "fp16"}}
    whole = fit(config(tmp_path, **hyperparameters, name="whole"), store)
    stopped = fit(config(tmp_path, **hyperparameters, name="resumed"), store, StopAfter(1))
    assert stopped.info["status"] == "stopped"
    part = fit(config(tmp_path, **hyperparameters, name="part"), store)
    a, b = final_weights(whole), final_weights(part)
    assert all(torch.equal(a[k], b[k]) for k in a)
    loss = whole.metrics.query("part == 'train' and metric == 'loss' and label == ''")["value"].to_numpy(float)
    assert loss[-1] < loss[0]
    last = checkpoint_of(whole.path, "last")
    assert last is not None and checkpoints.load(last).state["scaler"]["scale"] < 65536.0  # the initial scale


# -- two ranks ---------------------------------------------------------------------------------------------------


def _recipes(folder: Path, world: int) -> dict[str, dict]:
    train = EVERYTHING["train"]
    return {
        "everything": everything(folder),
        "auc_margin": {"data": DATA, "loss": {"name": "auc_margin"}, "train": {**train, "epochs": 2}},
        # The last batch of 8 train rows in batches of 7 has one row: the second rank has none, and must send gradients for the
        # auxiliary heads too.
        "auxiliary": {
            "data": {"split": {"by": "image", "val": 0.25, "test": 0}},
            "model": {"name": "googlenet", "options": {"auxiliary": 0.3}},
            "train": {**train, "epochs": 1, "batch_size": 7},
        },
    }


def _fit_recipes(folder: str) -> None:
    context = LocalContext(quiet=True)
    for name, sections in _recipes(Path(folder), context.world).items():
        if context.world == 1 and name == "auxiliary":
            continue
        named = {**sections, "name": f"{name}-{context.world}"}
        store = fake_store(12, size=(64, 64)) if name == "auxiliary" else fake_store(50, unknown=0.2)
        run = fit(config(Path(folder), **named), store, context)
        assert run.info["status"] == "finished"


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("recipes")
    first_weights(folder)
    for world in (1, 2):
        on_ranks(world, folder, _fit_recipes, str(folder))
    return folder


@pytest.mark.parametrize("name", ["everything", "auc_margin"])
def test_a_recipe_is_the_same_at_any_world_size(name: str, recipes: Path) -> None:
    one, two = (runs.load(recipes / f"{name}-{world}") for world in (1, 2))
    a, b = (run.metrics.query("metric == 'loss'").set_index(["epoch", "part", "label"])["value"] for run in (one, two))
    assert len(a) == len(b) >= 4 and ((a - b).abs() < 1e-4).all()
    wa, wb = final_weights(one), final_weights(two)
    assert max(float((wa[k] - wb[k]).abs().max()) for k in wa) < 1e-4


def test_auxiliary_heads_learn_on_two_ranks(recipes: Path) -> None:
    run = runs.load(recipes / "auxiliary-2")
    rows = len(run.plan.query("part == 'train'"))
    assert rows % 7 == 1, "the last batch must leave the second rank without rows"
    weights = final_weights(run)
    bias = weights["backbone.aux1.fc2.bias"]
    assert bias.abs().max() > 0 and all(bool(torch.isfinite(value).all()) for value in weights.values())


@pytest.mark.long
def test_a_compiled_step_equals_the_plain_one_through_freezing_a_short_batch_and_a_stop(tmp_path: Path) -> None:
    store, hyperparameters = fake_store(45, unknown=0.2), everything(tmp_path, augment={"mixup": 0.0})
    plain = fit(config(tmp_path, **hyperparameters, name="plain"), store)
    hyperparameters = cfg.merge(hyperparameters, {"name": "compiled", "train": {"compile": True}})
    stopped = fit(config(tmp_path, **hyperparameters), store, StopAfter(1))
    assert stopped.info["status"] == "stopped"
    compiled = fit(config(tmp_path, **hyperparameters), store)
    a, b = final_weights(plain), final_weights(compiled)
    assert set(a) == set(b)
    assert max(float((a[k] - b[k]).abs().max()) for k in a) < 1e-4


def test_a_step_that_cannot_be_compiled_names_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config as inductor

    small = fake_store(45, size=(20, 20))  # of a size that no other test compiles
    with (
        inductor.patch({"cpp.cxx": (None, "no-such-compiler")}),
        pytest.raises(UserError, match=r"here \(.*[Cc]ompiler.*\): set train\.compile to false"),
    ):
        fit(config(tmp_path, train={"compile": True}), small)


def test_synchronized_batch_norm_needs_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="works on GPUs only"):
        fit(config(tmp_path, train={"sync_batch_norm": True}), fake_store(45))


def a_learner(folder: Path, store: FakeStore, **sections: dict) -> tuple[Learner, plans.Plan]:
    settings = config(folder, **sections)
    plan = plans.build(store, settings.data, seed=0)
    return Learner(settings.for_task(plan.task), plan, store, LocalContext(quiet=True)), plan


def test_predictions_are_in_the_order_of_the_rows_and_none_without_rows(tmp_path: Path) -> None:
    store = fake_store(40)
    made, plan = a_learner(tmp_path, store, train={"batch_size": 16, "micro_batch": 5})
    rows = plan.rows["train"][::-1]
    stops: list[bool] = []
    logits = made.predict(rows, stop=lambda: bool(stops.append(False)))
    assert logits is not None and len(stops) == -(-len(rows) // 5) and made.eval_batch_size == 5
    made.model.eval()
    with torch.inference_mode():
        expected = made.model(torch.from_numpy(store.images(rows)))
    assert torch.allclose(logits, expected, atol=1e-5)
    nothing = made.predict(rows[:0], stop=lambda: True)  # a rank may have no rows
    assert nothing is not None and nothing.shape == (0, 3) and nothing.dtype == torch.float32
    assert made.predict(rows, stop=lambda: True) is None


def test_steps_of_an_epoch_include_the_last_smaller_batch(tmp_path: Path) -> None:
    for rows, size in ((32, 8), (33, 8), (31, 8)):
        store = fake_store(rows, images_a_patient=1)
        split = {"split": {"by": "image", "val": 0, "test": 0}}
        made, _ = a_learner(tmp_path, store, data=split, train={"batch_size": size, "monitor": "train/loss"})
        assert made.steps_per_epoch == -(-rows // size) and made.eval_batch_size == size and made.steps == 0


@pytest.mark.parametrize("spoil", ["weight", "moment", "statistic"])
def test_a_model_is_finite_until_a_weight_a_moment_or_a_statistic_is_not(tmp_path: Path, spoil: str) -> None:
    store = fake_store(40)
    made, plan = a_learner(tmp_path, store, model={"name": "shufflenet_v2_x0_5"})  # with batch norm
    order = loader.epoch_order(plan.repeats, seed=0, epoch=1)
    samples = loader.EpochSamples(plan.rows["train"], plan.truth["train"], order, None)
    made.begin(1)
    for batch in loader.train_batches(store, samples, batch_size=16, rank=0, world=1):
        logits, loss = made.step(batch, epoch=1, drops=0)
        assert logits.shape == (len(batch.rows), 3) and torch.isfinite(loss)
    assert made.is_finite() and made.steps == made.steps_per_epoch
    parameters = list(made.model.parameters())
    moments = made.optimizer_state()["state"][len(parameters) - 1]
    statistics = [value for name, value in made.model.named_buffers() if name.endswith("running_var")]
    tensors = {"weight": parameters[-1].detach(), "moment": moments["exp_avg"], "statistic": statistics[-1]}
    tensors[spoil].view(-1)[-1] = float("nan")
    assert not made.is_finite()


@pytest.mark.parametrize("unknown", [0.0, 0.4])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_step_follows_the_gradient_of_the_loss_of_the_whole_batch(
    tmp_path: Path, reduction: str, unknown: float
) -> None:
    """Against torch's own loss: its mean over the known cells of the batch, or its sum; also in micro-batches."""
    store = fake_store(40, unknown=unknown)
    made, plan = a_learner(
        tmp_path, store, data={"blank": "ignore"}, model={"name": "lenet", "dropout": 0.0},
        optim={"name": "sgd", "lr": 0.1, "weight_decay": 0.0, "schedule": "constant"}, augment={"probability": 0.0},
        loss={"reduction": reduction, "pos_weight_power": 0.0}, train={"batch_size": 16, "micro_batch": 7},
    )  # fmt: skip
    samples = loader.EpochSamples(
        plan.rows["train"], plan.truth["train"], loader.epoch_order(plan.repeats, seed=0, epoch=1), None
    )
    before = [p.detach().clone() for p in made.model.parameters()]
    made.begin(1)
    batch = next(iter(loader.train_batches(store, samples, batch_size=16, rank=0, world=1)))
    truth = torch.as_tensor(batch.global_truth)
    known = ~torch.isnan(truth)
    logits = made.model(torch.from_numpy(store.images(batch.rows)))[known]
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth[known], reduction=reduction)
    gradients = torch.autograd.grad(loss, list(made.model.parameters()))
    made.step(batch, epoch=1, drops=0)
    for was, gradient, now in zip(before, gradients, made.model.parameters(), strict=True):
        assert torch.allclose(now, was - 0.1 * 1.9 * gradient, rtol=1e-4, atol=1e-6)  # Nesterov's first step


def test_a_learner_refuses_a_loss_that_mixed_targets_do_not_suit(tmp_path: Path) -> None:
    """Also in a worker, whose config nobody checked before."""
    store = fake_store(30)
    for mixup, message in ((0.2, "set augment.mixup to 0"), (0.0, None)):
        settings = config(tmp_path, data=DATA, loss={"name": "auc_margin"}, augment={"mixup": mixup})
        plan = plans.build(store, settings.data, seed=0)
        if message is None:
            Learner(settings, plan, store, LocalContext())
            continue
        with pytest.raises(UserError, match=message):
            Learner(settings, plan, store, LocalContext())


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_statistics_of_the_model_and_of_its_average_are_averaged_over_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ema: float
) -> None:
    store = fake_store(30)
    settings = config(tmp_path, data=DATA, optim={"ema": ema})
    learner = Learner(settings, plans.build(store, settings.data, seed=0), store, LocalContext())
    averaged: list[torch.nn.Module] = []
    monkeypatch.setattr(distributed, "average_running_statistics", averaged.append)
    learner.average_running_statistics()
    assert averaged[0] is learner.model and len(averaged) == len({id(m) for m in averaged}) == 1 + (ema > 0.0)
    assert all(type(model) is type(learner.model) for model in averaged)
