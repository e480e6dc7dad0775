"""Losses against slow definitions; masks that keep NaN out of values and gradients; sums that add up however they are cut."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from cxr_ray import config, losses
from cxr_ray.errors import UserError

NAN = float("nan")


def build(task: str, weight: Any = None, **knobs: Any) -> losses.Loss:
    return losses.build(config.Loss(**knobs), task=task, weight_L=weight)


def draw(n: int, labels: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and a truth of 0, 1 and NaN."""
    rng = np.random.default_rng(seed)
    truth = rng.choice([0.0, 1.0, NAN], size=(n, labels), p=[0.5, 0.3, 0.2])
    return torch.tensor(rng.normal(0, 3, (n, labels)), dtype=torch.float32), torch.tensor(truth, dtype=torch.float32)


def classes(n: int, labels: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and a one-hot truth with some rows unknown: by NaN, or by no 1."""
    rng = np.random.default_rng(seed)
    truth = np.eye(labels)[rng.integers(0, labels, n)]
    truth[::4] = NAN
    truth[1::5] = 0.0
    truth[2, 0] = NAN
    return torch.tensor(rng.normal(0, 3, (n, labels)), dtype=torch.float32), torch.tensor(truth, dtype=torch.float32)


def slow_bce(logits: Any, truth: Any, weight: Any, smoothing: float) -> float:
    total = 0.0
    for i in range(len(logits)):
        for j in range(len(logits[i])):
            y = float(truth[i][j])
            if math.isnan(y):
                continue
            y = y * (1 - smoothing) + smoothing / 2
            p = 1 / (1 + math.exp(-float(logits[i][j])))
            total -= weight[j] * y * math.log(p) + (1 - y) * math.log(1 - p)
    return total


def slow_cross_entropy(logits: Any, truth: Any, weight: Any, smoothing: float) -> float:
    total = 0.0
    for row, target in zip(logits.tolist(), truth.tolist(), strict=True):
        if any(math.isnan(y) for y in target) or 1.0 not in target:
            continue
        log_p = [z - math.log(sum(math.exp(other) for other in row)) for z in row]
        c = target.index(1.0)
        total -= (1 - smoothing) * weight[c] * log_p[c]
        total -= smoothing / len(row) * sum(w * lp for w, lp in zip(weight, log_p, strict=True))
    return total


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("task", ["multilabel", "binary"])
def test_bce_is_its_definition(task: str, weighted: bool, smoothing: float) -> None:
    labels = 1 if task == "binary" else 4
    logits, truth = draw(13, labels)
    weight = np.linspace(0.5, 7, labels).astype(np.float32) if weighted else None
    loss = build(task, weight, label_smoothing=smoothing)
    wanted = slow_bce(logits.tolist(), truth.tolist(), [1.0] * labels if weight is None else weight.tolist(), smoothing)
    assert float(loss.total(logits, truth)) == pytest.approx(wanted, rel=1e-5)
    assert loss.cells(truth) == loss.cells(truth.numpy()) == sum(not math.isnan(y) for y in truth.flatten().tolist())
    assert loss.elements(logits, truth).shape == truth.shape
    assert torch.allclose(loss.probabilities(logits), 1 / (1 + torch.exp(-logits)))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_is_its_definition(weighted: bool, smoothing: float) -> None:
    logits, truth = classes(13, 3)
    weight = np.array([0.5, 1.0, 4.0], dtype=np.float32) if weighted else None
    loss = build("multiclass", weight, label_smoothing=smoothing)
    wanted = slow_cross_entropy(logits, truth, [1.0] * 3 if weight is None else weight.tolist(), smoothing)
    assert float(loss.total(logits, truth)) == pytest.approx(wanted, rel=1e-5)
    known = [i for i in range(13) if i % 4 and i % 5 != 1 and i != 2]
    assert loss.cells(truth) == loss.cells(truth.numpy()) == len(known)
    assert loss.elements(logits, truth).shape == (13, 1)
    assert torch.allclose(loss.probabilities(logits).sum(1), torch.ones(13))


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_unknown_cells_never_reach_values_or_gradients(task: str) -> None:
    """NaN and infinite logits stand where the truth is unknown: 0 x NaN would be NaN."""
    logits, truth = draw(8, 3) if task == "multilabel" else classes(8, 3)
    loss = build(task)
    known = ~torch.isnan(truth) if task == "multilabel" else losses._class_known(truth)[:, None].expand_as(truth)
    plain = logits.clone().requires_grad_()
    loss.total(plain, truth).backward()
    hurt = torch.where(known, logits, torch.tensor([NAN, math.inf, -math.inf])).requires_grad_()
    total = loss.total(hurt, truth)
    total.backward()
    assert torch.equal(total, loss.total(logits, truth))
    assert plain.grad is not None and hurt.grad is not None
    assert torch.equal(plain.grad, hurt.grad)
    assert not hurt.grad[~known].any() and hurt.grad[known].all()


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_nothing_known_is_zero_and_still_hangs_on_the_logits(task: str) -> None:
    loss = build(task, np.ones(3), label_smoothing=0.1)
    for n in (0, 4):
        logits = torch.zeros(n, 3, requires_grad=True)
        total = loss.total(logits, torch.full((n, 3), NAN))
        total.backward()
        assert total.item() == 0.0 and loss.cells(np.full((n, 3), np.nan)) == 0
        assert logits.grad is not None and not logits.grad.any()


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_sums_of_pieces_over_the_whole_batchs_cells_are_the_mean(task: str) -> None:
    """What ranks and micro-batches do: local sums over the global count, however unequal the masks of the pieces."""
    logits, truth = draw(11, 4, seed=3) if task == "multilabel" else classes(11, 4, seed=3)
    loss = build(task)
    whole = logits.clone().requires_grad_()
    (loss.total(whole, truth) / loss.cells(truth)).backward()
    pieces = logits.clone().requires_grad_()
    for cut in (slice(0, 1), slice(1, 7), slice(7, 11)):
        (loss.total(pieces[cut], truth[cut]) / loss.cells(truth)).backward()
    assert whole.grad is not None and pieces.grad is not None
    assert torch.allclose(whole.grad, pieces.grad, atol=1e-7)


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_sums_are_at_least_fp32(task: str) -> None:
    logits, truth = draw(64, 3) if task == "multilabel" else classes(64, 3)
    loss = build(task, np.ones(3))
    half = loss.total(logits.bfloat16(), truth)
    assert half.dtype == loss.probabilities(logits.bfloat16()).dtype == torch.float32
    assert float(half) == pytest.approx(float(loss.total(logits.bfloat16().float(), truth)))
    assert loss.total(logits.double(), truth).dtype == torch.float64


def test_far_logits_stay_finite() -> None:
    logits = torch.tensor([[1e4, -1e4]], requires_grad=True)
    total = build("multilabel").total(logits, torch.tensor([[0.0, 1.0]]))
    total.backward()
    assert total.item() == 2e4 and logits.grad is not None and logits.grad.tolist() == [[1.0, -1.0]]


def test_auto_follows_the_task() -> None:
    assert isinstance(build("multilabel"), losses.BinaryCrossEntropy)
    assert isinstance(build("binary"), losses.BinaryCrossEntropy)
    assert isinstance(build("multiclass"), losses.CrossEntropy)


@pytest.mark.parametrize(
    ("task", "knobs", "said"),
    [
        (
            "multiclass",
            {"name": "bce"},
            "loss bce serves multilabel and binary, and the task is multiclass: set loss.name",
        ),
        ("binary", {"name": "cross_entropy"}, "and the task is binary: set loss.name to auto or to bce"),
        ("binary", {"name": "bse"}, "unknown loss 'bse'; did you mean 'bce'"),
        ("binary", {"options": {"gamma": 2}}, "unknown option 'gamma' at loss.options of bce"),
    ],
)
def test_losses_that_do_not_serve(task: str, knobs: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as told:
        build(task, **knobs)
    assert said in str(told.value) and "\n" not in str(told.value)
