"""Optimisers and schedules equal torch's, rate drops are a function of the history, the average equals its recursion."""

import math
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from cxr_ray.config import Optim
from cxr_ray.errors import UserError
from cxr_ray.training import optim


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2)
    )


def rates(steps_per_epoch: int, epochs: int, **hyperparameters: Any) -> list[float]:
    config = Optim(**hyperparameters)
    return [
        optim.learning_rate(config, step, steps_per_epoch=steps_per_epoch, epochs=epochs)
        for step in range(steps_per_epoch * epochs)
    ]


def torch_rates(make: Any, steps: int, lr: float) -> list[float]:
    """The rates of a torch scheduler."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(optimizer)
    out = []
    for _ in range(steps):
        out.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return out


@pytest.mark.parametrize(("steps", "epochs"), [(7, 5), (1, 40), (10, 1), *((1, few) for few in range(1, 8))])
def test_onecycle_equals_torchs(steps: int, epochs: int) -> None:
    expected = torch_rates(
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.3, total_steps=steps * epochs, cycle_momentum=False),
        steps * epochs,
        0.3,
    )
    assert rates(steps, epochs, lr=0.3, schedule="onecycle") == pytest.approx(expected, rel=1e-9)


def test_cosine_equals_torchs() -> None:
    expected = torch_rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 30), 30, 0.3)
    assert rates(5, 6, lr=0.3, schedule="cosine") == pytest.approx(expected, rel=1e-9)


def test_step_equals_torchs_stepped_by_epochs() -> None:
    expected = torch_rates(lambda o: torch.optim.lr_scheduler.StepLR(o, 3, 0.2), 8, 0.3)
    got = rates(4, 8, lr=0.3, schedule="step", drop_epochs=3, drop_factor=0.2)
    assert got == pytest.approx([rate for rate in expected for _ in range(4)], rel=1e-12)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step", "plateau"])
def test_warm_up_rises_linearly_to_the_rate(schedule: str) -> None:
    got = rates(8, 4, lr=0.4, schedule=schedule, warmup_epochs=1.25)
    assert got[:10] == pytest.approx([0.4 * k / 10 for k in range(1, 11)])
    assert got[10] == pytest.approx(0.4)
    assert all(rate <= 0.4 and math.isfinite(rate) for rate in got)


def test_onecycle_has_no_separate_warm_up() -> None:
    with pytest.raises(ValidationError, match="onecycle warms up in its first 30% of steps"):
        Optim(schedule="onecycle", warmup_epochs=1)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.integers(0, 5).map(float)), max_size=30),
    st.integers(1, 5),
    st.sampled_from(["max", "min"]),
)
def test_plateau_equals_torchs(values: list[float | None], wait: int, mode: Literal["max", "min"]) -> None:
    """Undefined values are the worst possible ones for torch."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        mode=mode,
        factor=0.5,
        patience=wait - 1,
        threshold=0.0,
        eps=0.0,  # torch skips drops that are smaller
    )
    worst = -math.inf if mode == "max" else math.inf
    for epoch in range(len(values)):
        value = values[epoch]
        theirs.step(worst if value is None else value)
        drops = optim.plateau_drops(values[: epoch + 1], mode=mode, wait=wait)
        assert optimizer.param_groups[0]["lr"] == 0.5**drops
    config = Optim(lr=2.0, schedule="plateau", drop_factor=0.5)
    drops = optim.plateau_drops(values, mode=mode, wait=wait)
    assert optim.learning_rate(config, 9, steps_per_epoch=3, epochs=9, drops=drops) == 2.0 * 0.5**drops


def stepped(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        model(torch.randn(5, 1, 8, 8)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_optimisers_equal_torchs(name: str, layout: torch.memory_format) -> None:
    """With groups, fused, and weights in either memory format: the same as torch's plain loop."""
    ours, theirs = network().to(memory_format=layout), network()
    config = Optim(name=name, lr=0.01, weight_decay=0.1)
    stepped(ours, optim.build(ours, config))
    plain: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.1, "foreach": False}
    made = {
        "adam": lambda p: torch.optim.Adam(p, **plain),
        "adamw": lambda p: torch.optim.AdamW(p, **plain),
        "sgd": lambda p: torch.optim.SGD(p, momentum=0.9, nesterov=True, **plain),
    }[name](theirs.parameters())
    stepped(theirs, made)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_the_head_has_its_own_rate_and_one_dimensional_weights_may_have_no_decay() -> None:
    model = network()
    head = list(model[4].parameters())
    optimizer = optim.build(
        model, Optim(name="sgd", lr=0.1, weight_decay=0.5, decay_norms=False, head_lr_factor=10.0), head
    )
    optim.set_learning_rate(optimizer, 0.02)
    groups = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    for p in model.parameters():
        in_head = any(p is h for h in head)
        assert groups[id(p)] == (0.2 if in_head else 0.02, 0.5 if p.ndim > 1 else 0.0)
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()  # without gradients only decay changes weights: by rate x decay
    for was, p in zip(before, model.parameters(), strict=True):
        lr, decay = groups[id(p)]
        assert torch.allclose(p, was * (1 - lr * decay * 1.9))  # Nesterov's first step: 1 + momentum


@pytest.mark.parametrize("name", ["adam", "sgd"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"head_lr_factor": 1.0}, {"head_lr_factor": 3.0}),
        ({"head_lr_factor": 3.0}, {"head_lr_factor": 1.0}),
        ({"weight_decay": 0.0, "decay_norms": False}, {"weight_decay": 0.1, "decay_norms": False}),
        ({"weight_decay": 0.1, "decay_norms": False}, {"weight_decay": 0.0, "decay_norms": False}),
    ],
)
def test_hyperparameters_may_change_during_training(name: Any, before: dict[str, Any], after: dict[str, Any]) -> None:
    """As PBT does: each weight's moments are loaded, and the new hyperparameters apply."""
    model = network()
    head = list(model[4].parameters())
    first = optim.build(model, Optim(name=name, lr=0.1, **before), head)
    stepped(model, first)
    second = optim.build(model, Optim(name=name, lr=0.1, **after), head)
    optim.load_state(second, first.state_dict())
    for p in model.parameters():
        assert second.state[p].keys() == first.state[p].keys() and second.state[p]
        for slot, value in first.state[p].items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(second.state[p][slot]))
    expected = optim.build(model, Optim(name=name, lr=0.1, **after), head)
    for a, b in zip(second.param_groups, expected.param_groups, strict=True):
        assert (a["factor"], a["weight_decay"]) == (b["factor"], b["weight_decay"])
    stepped(model, second)


def test_a_head_rate_needs_a_head() -> None:
    with pytest.raises(UserError, match="no layer of this model can be identified as its head"):
        optim.build(network(), Optim(head_lr_factor=2.0), [])


def test_a_frozen_weight_does_not_change_and_has_no_state() -> None:
    model = network()
    optimizer = optim.build(model, Optim(lr=0.1, weight_decay=0.5))
    for p in model[0].parameters():
        p.requires_grad_(False)
    frozen = [p.detach().clone() for p in model[0].parameters()]
    stepped(model, optimizer)
    assert all(torch.equal(a, b) for a, b in zip(frozen, model[0].parameters(), strict=True))
    assert len(optimizer.state) == len(list(model.parameters())) - 1


@settings(max_examples=30, deadline=None)
@given(st.floats(0.0, 0.9999), st.integers(1, 40))
def test_the_average_equals_its_recursion(decay: float, steps: int) -> None:
    model = nn.BatchNorm1d(3)
    ema = optim.Ema(model, decay)
    expected = {name: value.tolist() for name, value in model.state_dict().items()}
    rng = torch.Generator().manual_seed(steps)
    for step in range(1, steps + 1):
        with torch.no_grad():
            for value in model.state_dict().values():
                value.copy_(torch.randint(0, 9, value.shape, generator=rng))
        ema.update(model, step)
        keep = min(decay, (1 + (step - 1)) / (10 + (step - 1)))
        for name, value in model.state_dict().items():
            if value.ndim:
                expected[name] = [
                    keep * a + (1 - keep) * b for a, b in zip(expected[name], value.tolist(), strict=True)
                ]
            else:
                expected[name] = value.tolist()  # the number of batches is not averaged
    for name, value in ema.state_dict().items():
        assert value.tolist() == pytest.approx(expected[name], abs=1e-4)


def test_the_average_is_restored_and_changes_no_weight_of_the_model() -> None:
    model = network()
    ema = optim.Ema(model, 0.5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ema.model.load_state_dict(network(1).state_dict())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    again = optim.Ema(model, 0.5)
    again.load_state_dict({name: value.clone() for name, value in ema.state_dict().items()})
    for average in (ema, again):
        average.update(model, 7)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in ema.state_dict().items())
    assert not any(p.requires_grad for p in ema.model.parameters())


def test_a_fraction_of_a_warm_up_step_is_a_whole_step() -> None:
    """Steps below the warm-up's end are part of it: 2.5 steps are three, which rise to the rate."""
    got = rates(10, 2, lr=0.3, schedule="constant", warmup_epochs=0.25)
    assert got[:4] == pytest.approx([0.1, 0.2, 0.3, 0.3])


def test_cosine_falls_from_the_end_of_the_warm_up_to_the_last_step() -> None:
    got = rates(4, 3, lr=0.2, schedule="cosine", warmup_epochs=1)
    expected = [0.2 * (1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)]
    assert got == pytest.approx([0.05, 0.1, 0.15, 0.2, *expected])


def test_only_a_plateau_counts_its_drops_and_a_step_schedule_its_own() -> None:
    config = Optim(lr=0.8, schedule="step", drop_epochs=2, drop_factor=0.5)
    got = [optim.learning_rate(config, step, steps_per_epoch=3, epochs=5, drops=7) for step in (0, 5, 6, 11, 12)]
    assert got == pytest.approx([0.8, 0.8, 0.4, 0.4, 0.2])


def test_adam_has_its_hyperparameters_in_every_group() -> None:
    model = network()
    head = list(model[4].parameters())
    optimizer = optim.build(model, Optim(name="adamw", lr=0.1, weight_decay=0.2, head_lr_factor=3.0), head)
    assert isinstance(optimizer, torch.optim.AdamW) and len(optimizer.param_groups) == 4
    assert {(g["factor"], g["weight_decay"], g["fused"]) for g in optimizer.param_groups} == {
        (1.0, 0.2, True),
        (3.0, 0.2, True),
    }
    sgd = optim.build(model, Optim(name="sgd", lr=0.1))
    assert all((g["momentum"], g["nesterov"], g["fused"]) == (0.9, True, None) for g in sgd.param_groups)
