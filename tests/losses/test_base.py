"""Losses against slow definitions; masks that keep NaN out of values and gradients; sums that add up for any split of a batch."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cxr_ray import losses
from cxr_ray.errors import UserError
from tests.losses.cases import (
    NAN,
    WEIGHTS,
    assert_equals_definition,
    build,
    random_classes,
    random_labels,
    sigmoid,
    tables,
)


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
def test_bce_equals_its_definition(task: str, weighted: bool, smoothing: float) -> None:
    labels = 1 if task == "binary" else 4
    logits, truth = random_labels(13, labels)
    weight = np.linspace(0.5, 7, labels).astype(np.float32) if weighted else None
    loss = build(task, weight, label_smoothing=smoothing)
    expected = slow_bce(
        logits.tolist(), truth.tolist(), [1.0] * labels if weight is None else weight.tolist(), smoothing
    )
    assert float(loss.total(logits, truth)) == pytest.approx(expected, rel=1e-5)
    assert loss.cells(truth) == loss.cells(truth.numpy()) == sum(not math.isnan(y) for y in truth.flatten().tolist())
    assert loss.elements(logits, truth).shape == truth.shape
    assert torch.allclose(losses.probabilities(logits, task=task), 1 / (1 + torch.exp(-logits)))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_equals_its_definition(weighted: bool, smoothing: float) -> None:
    logits, truth = random_classes(13, 3)
    weight = np.array([0.5, 1.0, 4.0], dtype=np.float32) if weighted else None
    loss = build("multiclass", weight, label_smoothing=smoothing)
    expected = slow_cross_entropy(logits, truth, [1.0] * 3 if weight is None else weight.tolist(), smoothing)
    assert float(loss.total(logits, truth)) == pytest.approx(expected, rel=1e-5)
    known = [i for i in range(13) if i % 4 and i % 5 != 1 and i != 2]
    assert loss.cells(truth) == loss.cells(truth.numpy()) == len(known)
    assert loss.elements(logits, truth).shape == (13, 1)
    assert torch.allclose(losses.probabilities(logits, task="multiclass").sum(1), torch.ones(13))


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_unknown_cells_never_reach_values_or_gradients(task: str) -> None:
    """Logits are NaN or infinite where the truth is unknown: 0 x NaN would be NaN."""
    logits, truth = random_labels(8, 3) if task == "multilabel" else random_classes(8, 3)
    loss = build(task)
    known = (
        ~torch.isnan(truth)
        if task == "multilabel"
        else ((truth == 1).any(1) & ~torch.isnan(truth).any(1))[:, None].expand_as(truth)
    )
    plain = logits.clone().requires_grad_()
    loss.total(plain, truth).backward()
    corrupted = torch.where(known, logits, torch.tensor([NAN, math.inf, -math.inf])).requires_grad_()
    total = loss.total(corrupted, truth)
    total.backward()
    assert torch.equal(total, loss.total(logits, truth))
    assert plain.grad is not None and corrupted.grad is not None
    assert torch.equal(plain.grad, corrupted.grad)
    assert not corrupted.grad[~known].any() and corrupted.grad[known].all()


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_nothing_known_is_zero_and_still_depends_on_the_logits(task: str) -> None:
    loss = build(task, np.ones(3), label_smoothing=0.1)
    for n in (0, 4):
        logits = torch.zeros(n, 3, requires_grad=True)
        total = loss.total(logits, torch.full((n, 3), NAN))
        total.backward()
        assert total.item() == 0.0 and loss.cells(np.full((n, 3), np.nan)) == 0
        assert logits.grad is not None and not logits.grad.any()


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_sums_of_pieces_over_the_whole_batchs_cells_are_the_mean(task: str) -> None:
    """As ranks and micro-batches do: local sums divided by the global count, for unequal masks."""
    logits, truth = random_labels(11, 4, seed=3) if task == "multilabel" else random_classes(11, 4, seed=3)
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
    logits, truth = random_labels(64, 3) if task == "multilabel" else random_classes(64, 3)
    loss = build(task, np.ones(3))
    half = loss.total(logits.bfloat16(), truth)
    assert half.dtype == losses.probabilities(logits.bfloat16(), task=task).dtype == torch.float32
    assert float(half) == pytest.approx(float(loss.total(logits.bfloat16().float(), truth)))
    assert loss.total(logits.double(), truth).dtype == torch.float64


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[1e4, -1e4]], requires_grad=True)
    total = build("multilabel").total(logits, torch.tensor([[0.0, 1.0]]))
    total.backward()
    assert total.item() == 2e4 and logits.grad is not None and logits.grad.tolist() == [[1.0, -1.0]]


def test_auto_follows_the_task() -> None:
    assert isinstance(build("multilabel"), losses.BinaryCrossEntropy)
    assert isinstance(build("binary"), losses.BinaryCrossEntropy)
    assert isinstance(build("multiclass"), losses.CrossEntropy)


@pytest.mark.parametrize(
    ("task", "hyperparameters", "message"),
    [
        (
            "multiclass",
            {"name": "bce"},
            "loss bce supports multilabel and binary, and the task is multiclass: set loss.name",
        ),
        ("binary", {"name": "cross_entropy"}, "and the task is binary: set loss.name to auto or to bce"),
        ("binary", {"name": "bse"}, "unknown loss 'bse'; did you mean 'bce'"),
        ("binary", {"options": {"gamma": 2}}, "unknown option 'gamma' at loss.options of bce"),
    ],
)
def test_unsuitable_losses(task: str, hyperparameters: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        build(task, **hyperparameters)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def slow_focal(z: float, y: float, w: float, *, gamma: float, alpha: float | None) -> float:
    p = sigmoid(z)
    a, b = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    return -w * a * y * (1 - p) ** gamma * math.log(p) - b * (1 - y) * p**gamma * math.log(1 - p)


def slow_asymmetric(z: float, y: float, w: float, *, plus: float, minus: float, margin: float) -> float:
    p = sigmoid(z)
    m = max(p - margin, 0.0)
    return -w * y * (1 - p) ** plus * math.log(p) - ((1 - y) * m**minus * math.log(1 - m) if m else 0.0)


def sum_of_cells(slow: Any, truth: list[list[float]], smoothing: float = 0.0) -> Any:
    def total(logits: list[list[float]]) -> float:
        out = 0.0
        for z_L, y_L in zip(logits, truth, strict=True):
            for z, y, w in zip(z_L, y_L, WEIGHTS.tolist(), strict=True):
                if not math.isnan(y):
                    out += slow(z, y * (1 - smoothing) + smoothing / 2, w)
        return out

    return total


@settings(max_examples=60, deadline=None)
@given(tables(), st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.sampled_from([None, 0.25, 1.0]), st.sampled_from([0.0, 0.1]))
def test_focal_equals_its_definition(table: Any, gamma: float, alpha: float | None, smoothing: float) -> None:
    logits, truth = table
    loss = build(
        "multilabel", WEIGHTS, name="focal", options={"gamma": gamma, "alpha": alpha}, label_smoothing=smoothing
    )
    assert_equals_definition(
        loss,
        logits,
        truth,
        sum_of_cells(lambda z, y, w: slow_focal(z, y, w, gamma=gamma, alpha=alpha), truth, smoothing),
    )


def test_focal_without_focusing_is_bce() -> None:
    logits, truth = random_labels(20, 2)
    plain = build("multilabel", WEIGHTS).elements(logits, truth)
    focal = build("multilabel", WEIGHTS, name="focal", options={"gamma": 0.0, "alpha": None})
    assert torch.allclose(focal.elements(logits, truth), plain, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(tables(), st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 0.5, 4.0]), st.sampled_from([0.0, 0.05, 0.2]))
def test_asymmetric_equals_its_definition(table: Any, plus: float, minus: float, margin: float) -> None:
    logits, truth = table
    near = [abs(sigmoid(z) - margin) < 1e-3 for row in logits for z in row]
    assume(not any(near))  # at the margin the gradient is not defined
    options = {"gamma_positive": plus, "gamma_negative": minus, "margin": margin}
    loss = build("multilabel", WEIGHTS, name="asymmetric", options=options)
    slow = sum_of_cells(lambda z, y, w: slow_asymmetric(z, y, w, plus=plus, minus=minus, margin=margin), truth)
    assert_equals_definition(loss, logits, truth, slow)


@pytest.mark.parametrize("name", ["focal", "asymmetric", "auc_margin"])
def test_extreme_logits_have_finite_losses_and_gradients(name: str) -> None:
    for gammas in (
        {},
        {"focal": {"gamma": 0.5}, "asymmetric": {"gamma_positive": 0.5, "gamma_negative": 0.5}}.get(name, {}),
    ):
        logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4], [200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
        total = build("multilabel", name=name, options=gammas).total(logits, torch.tensor([[0.0, 1.0], [1.0, 0.0]] * 2))
        total.backward()
        assert torch.isfinite(total) and total > 0
        assert logits.grad is not None and torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", ["bce", "focal", "asymmetric"])
def test_mixed_targets_give_the_mixture_of_the_losses(name: str) -> None:
    rng = np.random.default_rng(0)
    logits = torch.tensor(rng.normal(0, 2, (9, 2)))
    a, b = (torch.tensor(rng.integers(0, 2, (9, 2)).astype(float)) for _ in range(2))
    loss = build("multilabel", WEIGHTS, name=name)
    mixture = 0.7 * loss.elements(logits, a) + 0.3 * loss.elements(logits, b)
    assert torch.allclose(loss.elements(logits, 0.7 * a + 0.3 * b), mixture)


def test_mixed_classes_give_the_mixture_of_the_losses() -> None:
    rng = np.random.default_rng(0)
    logits = torch.tensor(rng.normal(0, 2, (9, 3)))
    a, b = (torch.tensor(np.eye(3)[rng.integers(0, 3, 9)]) for _ in range(2))
    loss = build("multiclass", np.array([0.5, 1.0, 4.0]), label_smoothing=0.1)
    mixture = 0.7 * loss.elements(logits, a) + 0.3 * loss.elements(logits, b)
    assert torch.allclose(loss.elements(logits, 0.7 * a + 0.3 * b), mixture)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("focal", {"gamma": -0.1}),
        ("focal", {"alpha": -0.1}),
        ("focal", {"alpha": 1.1}),
        ("asymmetric", {"gamma_positive": -0.1}),
        ("asymmetric", {"gamma_negative": -0.1}),
        ("asymmetric", {"margin": -0.1}),
        ("asymmetric", {"margin": 1.0}),
        ("auc_margin", {"margin": 0.0}),
    ],
)
def test_options_outside_their_range_are_refused(name: str, options: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        build("multilabel", name=name, options=options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("focal", {"gamma": 0.0, "alpha": 0.0}),
        ("focal", {"gamma": 0.3, "alpha": 1.0}),
        ("asymmetric", {"gamma_positive": 0.0, "gamma_negative": 0.0, "margin": 0.0}),
        ("asymmetric", {"gamma_positive": 0.3, "gamma_negative": 0.3, "margin": 0.9}),
        ("auc_margin", {"margin": 0.1}),
    ],
)
def test_options_at_the_ends_of_their_range_are_accepted(name: str, options: dict[str, float]) -> None:
    assert build("multilabel", name=name, options=options).options.model_dump() == options


def test_the_default_options_are_those_of_the_papers() -> None:
    defaults = {
        name: build("multilabel", name=name).options.model_dump() for name in ("focal", "asymmetric", "auc_margin")
    }
    assert defaults == {
        "focal": {"gamma": 2.0, "alpha": 0.25},
        "asymmetric": {"gamma_positive": 0.0, "gamma_negative": 4.0, "margin": 0.05},
        "auc_margin": {"margin": 1.0},
    }


def test_a_loss_with_a_method_of_an_earlier_version_is_refused() -> None:
    """It would train as plain binary cross-entropy without a word."""
    with pytest.raises(
        UserError, match=r"the loss Halved defines of_known\(\), which is now cell_loss\(\); rename the method"
    ):

        class Halved(losses.BinaryCrossEntropy):
            def of_known(self, z_NL: torch.Tensor, y_NL: torch.Tensor) -> torch.Tensor:
                return 0.5 * super().cell_loss(z_NL, y_NL)
