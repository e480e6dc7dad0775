"""Losses against slow definitions; masks that keep NaN out of values and gradients; sums that add up however they are cut."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cxr_ray import config, losses
from cxr_ray.errors import UserError
from cxr_ray.losses import base
from tests.fakes.ranks import on_ranks

NAN = float("nan")


def build(task: str, weight: Any = None, **hyperparameters: Any) -> losses.Loss:
    return losses.build(config.Loss(**hyperparameters), task=task, weight_L=weight)


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
    assert torch.allclose(losses.probabilities(logits, task=task), 1 / (1 + torch.exp(-logits)))


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
    assert torch.allclose(losses.probabilities(logits, task="multiclass").sum(1), torch.ones(13))


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_unknown_cells_never_reach_values_or_gradients(task: str) -> None:
    """NaN and infinite logits stand where the truth is unknown: 0 x NaN would be NaN."""
    logits, truth = draw(8, 3) if task == "multilabel" else classes(8, 3)
    loss = build(task)
    known = ~torch.isnan(truth) if task == "multilabel" else base._class_known(truth)[:, None].expand_as(truth)
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
    assert half.dtype == losses.probabilities(logits.bfloat16(), task=task).dtype == torch.float32
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
    ("task", "hyperparameters", "said"),
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
def test_losses_that_do_not_serve(task: str, hyperparameters: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as told:
        build(task, **hyperparameters)
    assert said in str(told.value) and "\n" not in str(told.value)


# -- focal, asymmetric, auc_margin: slow definitions, values and gradients in float64 ----------------------------------


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


def slow_focal(z: float, y: float, w: float, *, gamma: float, alpha: float | None) -> float:
    p = sigmoid(z)
    a, b = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    return -w * a * y * (1 - p) ** gamma * math.log(p) - b * (1 - y) * p**gamma * math.log(1 - p)


def slow_asymmetric(z: float, y: float, w: float, *, plus: float, minus: float, margin: float) -> float:
    p = sigmoid(z)
    m = max(p - margin, 0.0)
    return -w * y * (1 - p) ** plus * math.log(p) - ((1 - y) * m**minus * math.log(1 - m) if m else 0.0)


def slow_auc_margin(logits: list[list[float]], truth: list[list[float]], margin: float) -> float:
    """Variances from all pairs, then what the pair of means lacks of the margin; by label, times the label's known cells."""
    total = 0.0
    for j in range(len(logits[0])):
        known = [(sigmoid(z[j]), y[j]) for z, y in zip(logits, truth, strict=True) if not math.isnan(y[j])]
        positive, negative = [h for h, y in known if y == 1], [h for h, y in known if y == 0]
        if not positive or not negative:
            continue
        spread = sum(
            sum((a - b) ** 2 for a in held for b in held) / (2 * len(held) ** 2) for held in (positive, negative)
        )
        short = margin - sum(a - b for a in positive for b in negative) / (len(positive) * len(negative))
        total += len(known) * (spread + max(0.0, short) ** 2)
    return total


LOGITS = st.floats(-6, 6)
TRUTHS = st.sampled_from([0.0, 1.0, NAN])
WEIGHTS = np.array([0.5, 3.0], dtype=np.float32)


@st.composite
def tables(draw: Any, labels: int = 2) -> tuple[list[list[float]], list[list[float]]]:
    """Logits and truth, as lists [N][2]."""
    n = draw(st.integers(1, 6))
    rows = st.lists(st.lists(LOGITS, min_size=labels, max_size=labels), min_size=n, max_size=n)
    return draw(rows), draw(st.lists(st.lists(TRUTHS, min_size=labels, max_size=labels), min_size=n, max_size=n))


def agrees(loss: losses.Loss, logits: list[list[float]], truth: list[list[float]], slow: Any) -> None:
    """Value and gradient of `loss` are those of `slow(logits)`, the gradient by central differences."""
    z = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    y = torch.tensor(truth, dtype=torch.float64)
    total = loss.total(z, y)
    total.backward()
    assert total.item() == pytest.approx(slow(logits), rel=1e-9, abs=1e-12)
    assert loss.elements(z, y).sum().item() == pytest.approx(total.item(), rel=1e-12)
    assert z.grad is not None
    step = 1e-5
    for i in range(len(logits)):
        for j in range(len(logits[0])):
            around = []
            for sign in (1, -1):
                moved = [list(row) for row in logits]
                moved[i][j] += sign * step
                around.append(slow(moved))
            assert float(z.grad[i, j]) == pytest.approx((around[0] - around[1]) / (2 * step), rel=1e-4, abs=1e-6)
            if math.isnan(truth[i][j]):
                assert float(z.grad[i, j]) == 0.0


def of_cells(slow: Any, truth: list[list[float]], smoothing: float = 0.0) -> Any:
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
def test_focal_is_its_definition(table: Any, gamma: float, alpha: float | None, smoothing: float) -> None:
    logits, truth = table
    loss = build(
        "multilabel", WEIGHTS, name="focal", options={"gamma": gamma, "alpha": alpha}, label_smoothing=smoothing
    )
    agrees(
        loss, logits, truth, of_cells(lambda z, y, w: slow_focal(z, y, w, gamma=gamma, alpha=alpha), truth, smoothing)
    )


def test_focal_without_focus_is_bce() -> None:
    logits, truth = draw(20, 2)
    plain = build("multilabel", WEIGHTS).elements(logits, truth)
    focal = build("multilabel", WEIGHTS, name="focal", options={"gamma": 0.0, "alpha": None})
    assert torch.allclose(focal.elements(logits, truth), plain, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(tables(), st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 0.5, 4.0]), st.sampled_from([0.0, 0.05, 0.2]))
def test_asymmetric_is_its_definition(table: Any, plus: float, minus: float, margin: float) -> None:
    logits, truth = table
    near = [abs(sigmoid(z) - margin) < 1e-3 for row in logits for z in row]
    assume(not any(near))  # at the margin there is no one slope to compare with
    options = {"gamma_positive": plus, "gamma_negative": minus, "margin": margin}
    loss = build("multilabel", WEIGHTS, name="asymmetric", options=options)
    slow = of_cells(lambda z, y, w: slow_asymmetric(z, y, w, plus=plus, minus=minus, margin=margin), truth)
    agrees(loss, logits, truth, slow)


@settings(max_examples=60, deadline=None)
@given(tables(), st.sampled_from([0.3, 1.0]))
def test_auc_margin_is_its_definition(table: Any, margin: float) -> None:
    logits, truth = table
    gap = []
    for j in range(2):
        column = [(sigmoid(z[j]), y[j]) for z, y in zip(logits, truth, strict=True)]
        ends = [[h for h, y in column if y == side] for side in (1.0, 0.0)]
        gap += [margin - sum(ends[0]) / len(ends[0]) + sum(ends[1]) / len(ends[1])] if all(ends) else []
    assume(all(abs(g) > 1e-3 for g in gap))  # where the margin is just met, the square of what lacks has two slopes
    loss = build("multilabel", name="auc_margin", options={"margin": margin})
    agrees(loss, logits, truth, lambda moved: slow_auc_margin(moved, truth, margin))
    y = torch.tensor(truth, dtype=torch.float64)
    both = [{0.0, 1.0} <= {row[j] for row in truth} for j in range(2)]
    wanted = sum(both[j] for row in truth for j in range(2) if not math.isnan(row[j]))
    assert loss.cells(y) == loss.cells(y.numpy()) == wanted


@settings(max_examples=60, deadline=None)
@given(st.lists(LOGITS, min_size=1, max_size=5), st.lists(LOGITS, min_size=1, max_size=5), st.data())
def test_auc_margin_is_the_saddle_of_the_papers_objective(
    positive: list[float], negative: list[float], data: Any
) -> None:
    """No a and b do better against the best c, and no c does more against the best a and b: that is what min-max means."""
    margin = 1.0
    h_p, h_n = [sigmoid(z) for z in positive], [sigmoid(z) for z in negative]
    mean_p, mean_n = sum(h_p) / len(h_p), sum(h_n) / len(h_n)

    def objective(a: float, b: float, c: float) -> float:
        of_p, of_n = sum((h - a) ** 2 for h in h_p) / len(h_p), sum((h - b) ** 2 for h in h_n) / len(h_n)
        return of_p + of_n + 2 * c * (margin - mean_p + mean_n) - c * c

    truth = torch.tensor([[1.0]] * len(positive) + [[0.0]] * len(negative), dtype=torch.float64)
    loss = build("binary", name="auc_margin")
    ours = float(loss.total(torch.tensor([[z] for z in positive + negative], dtype=torch.float64), truth)) / loss.cells(
        truth
    )
    best = (mean_p, mean_n, max(0.0, margin - mean_p + mean_n))
    assert objective(*best) == pytest.approx(ours, abs=1e-9)
    other = [data.draw(st.floats(-2, 2)), data.draw(st.floats(-2, 2)), data.draw(st.floats(0, 3))]
    assert objective(best[0], best[1], other[2]) <= ours + 1e-9 <= objective(other[0], other[1], best[2]) + 2e-9


@pytest.mark.parametrize("name", ["focal", "asymmetric", "auc_margin"])
def test_far_logits_have_finite_losses_and_gradients(name: str) -> None:
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
    ("hyperparameters", "given", "said"),
    [
        ({"label_smoothing": 0.1}, {}, "set loss.label_smoothing to 0"),
        ({}, {"weight_L": np.array([2.0, 1.0])}, "set loss.pos_weight_power to 0"),
        ({}, {"mixed": True}, "does not go with targets of mixup: set augment.mixup to 0"),
        ({}, {"whole": False}, "does not go with micro-batches: set train.micro_batch to null"),
    ],
)
def test_what_auc_margin_does_not_go_with(hyperparameters: dict[str, Any], given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as told:
        losses.build(config.Loss(name="auc_margin", **hyperparameters), task="multilabel", **given)
    assert said in str(told.value) and "\n" not in str(told.value)


# -- auc_margin on two ranks -------------------------------------------------------------------------------------------


CUTS = {"unequal": [0, 4, 10], "all on one rank": [0, 10, 10]}


def _margins_of_shares(folder: str) -> None:
    """Loss and gradient of this rank's share of a batch of ten, however it is cut."""
    rank = torch.distributed.get_rank()
    found = {}
    for name, cut in CUTS.items():
        logits, truth = draw(10, 3, seed=4)
        mine = slice(cut[rank], cut[rank + 1])
        held = logits.double().requires_grad_()
        total = build("multilabel", name="auc_margin").total(held[mine], truth.double()[mine])
        total.backward()
        found[name] = (total.detach(), held.grad)
    torch.save(found, f"{folder}/{rank}.pt")


def test_auc_margin_of_two_ranks_is_that_of_one(tmp_path: Path) -> None:
    """Gradients add up over the ranks; a rank may have no images."""
    on_ranks(2, tmp_path, _margins_of_shares, str(tmp_path))
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    logits, truth = draw(10, 3, seed=4)
    held = logits.double().requires_grad_()
    alone = build("multilabel", name="auc_margin").total(held, truth.double())
    alone.backward()
    assert held.grad is not None
    for name in CUTS:
        (total, first), (again, second) = (found[name] for found in ranks)
        assert torch.equal(total, again) and torch.allclose(total, alone.detach(), rtol=1e-12)
        assert torch.allclose(first + second, held.grad, rtol=1e-10, atol=1e-14)
