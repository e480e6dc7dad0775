"""AUC margin loss: its definition, the saddle point of the paper's objective, and the same on two ranks."""

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
from tests.fakes.ranks import on_ranks
from tests.losses.cases import LOGITS, assert_equals_definition, build, random_labels, sigmoid, tables


def slow_auc_margin(logits: list[list[float]], truth: list[list[float]], margin: float) -> float:
    """Variances from all pairs, then the shortfall of the difference of means; per label, times its known cells."""
    total = 0.0
    for j in range(len(logits[0])):
        known = [(sigmoid(z[j]), y[j]) for z, y in zip(logits, truth, strict=True) if not math.isnan(y[j])]
        positive, negative = [h for h, y in known if y == 1], [h for h, y in known if y == 0]
        if not positive or not negative:
            continue
        spread = sum(
            sum((a - b) ** 2 for a in group for b in group) / (2 * len(group) ** 2) for group in (positive, negative)
        )
        short = margin - sum(a - b for a in positive for b in negative) / (len(positive) * len(negative))
        total += len(known) * (spread + max(0.0, short) ** 2)
    return total


@settings(max_examples=60, deadline=None)
@given(tables(), st.sampled_from([0.3, 1.0]))
def test_it_equals_its_definition(table: Any, margin: float) -> None:
    logits, truth = table
    gap = []
    for j in range(2):
        column = [(sigmoid(z[j]), y[j]) for z, y in zip(logits, truth, strict=True)]
        sides = [[h for h, y in column if y == side] for side in (1.0, 0.0)]
        gap += [margin - sum(sides[0]) / len(sides[0]) + sum(sides[1]) / len(sides[1])] if all(sides) else []
    assume(all(abs(g) > 1e-3 for g in gap))  # where the margin is just met, the gradient is not defined
    loss = build("multilabel", name="auc_margin", options={"margin": margin})
    assert_equals_definition(loss, logits, truth, lambda moved: slow_auc_margin(moved, truth, margin))
    y = torch.tensor(truth, dtype=torch.float64)
    both = [{0.0, 1.0} <= {row[j] for row in truth} for j in range(2)]
    expected = sum(both[j] for row in truth for j in range(2) if not math.isnan(row[j]))
    assert loss.cells(y) == loss.cells(y.numpy()) == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(LOGITS, min_size=1, max_size=5), st.lists(LOGITS, min_size=1, max_size=5), st.data())
def test_it_is_the_saddle_point_of_the_papers_objective(
    positive: list[float], negative: list[float], data: Any
) -> None:
    """No a and b are lower for the best c, and no c is higher for the best a and b: the definition of min-max."""
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


@pytest.mark.parametrize(
    ("hyperparameters", "given", "message"),
    [
        ({"label_smoothing": 0.1}, {}, "set loss.label_smoothing to 0"),
        ({}, {"weight_L": np.array([2.0, 1.0])}, "set loss.pos_weight_power to 0"),
        ({}, {"mixed": True}, "does not work with mixed targets: set augment.mixup to 0"),
        ({}, {"micro_batches": True}, "does not work with micro-batches: set train.micro_batch to null"),
    ],
)
def test_settings_that_it_does_not_work_with(
    hyperparameters: dict[str, Any], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        losses.build(config.Loss(name="auc_margin", **hyperparameters), task="multilabel", **given)
    assert message in str(caught.value) and "\n" not in str(caught.value)


CUTS = {"unequal": [0, 4, 10], "all on one rank": [0, 10, 10]}


def _loss_of_shares(folder: str) -> None:
    """Loss and gradient of this rank's share of a batch of ten, however it is cut."""
    rank = torch.distributed.get_rank()
    found = {}
    for name, cut in CUTS.items():
        logits, truth = random_labels(10, 3, seed=4)
        mine = slice(cut[rank], cut[rank + 1])
        z = logits.double().requires_grad_()
        total = build("multilabel", name="auc_margin").total(z[mine], truth.double()[mine])
        total.backward()
        found[name] = (total.detach(), z.grad)
    torch.save(found, f"{folder}/{rank}.pt")


def test_two_ranks_give_the_loss_and_gradient_of_one(tmp_path: Path) -> None:
    """The gradients of the ranks add up; a rank may have no images."""
    on_ranks(2, tmp_path, _loss_of_shares, str(tmp_path))
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    logits, truth = random_labels(10, 3, seed=4)
    z = logits.double().requires_grad_()
    alone = build("multilabel", name="auc_margin").total(z, truth.double())
    alone.backward()
    assert z.grad is not None
    for name in CUTS:
        (total, first), (again, second) = (found[name] for found in ranks)
        assert torch.equal(total, again) and torch.allclose(total, alone.detach(), rtol=1e-12)
        assert torch.allclose(first + second, z.grad, rtol=1e-10, atol=1e-14)
