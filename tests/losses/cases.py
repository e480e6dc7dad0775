"""Inputs of loss tests, and a comparison of values and gradients with a slow definition."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from cxr_ray import config, losses

NAN = float("nan")
LOGITS = st.floats(-6, 6)
TRUTHS = st.sampled_from([0.0, 1.0, NAN])
WEIGHTS = np.array([0.5, 3.0], dtype=np.float32)


def build(task: str, weight: Any = None, **hyperparameters: Any) -> losses.Loss:
    return losses.build(config.Loss(**hyperparameters), task=task, weight_L=weight)


def random_labels(n: int, labels: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and a truth of 0, 1 and NaN."""
    rng = np.random.default_rng(seed)
    truth = rng.choice([0.0, 1.0, NAN], size=(n, labels), p=[0.5, 0.3, 0.2])
    return torch.tensor(rng.normal(0, 3, (n, labels)), dtype=torch.float32), torch.tensor(truth, dtype=torch.float32)


def random_classes(n: int, labels: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and a one-hot truth with some unknown rows: with NaN, or without a 1."""
    rng = np.random.default_rng(seed)
    truth = np.eye(labels)[rng.integers(0, labels, n)]
    truth[::4] = NAN
    truth[1::5] = 0.0
    truth[2, 0] = NAN
    return torch.tensor(rng.normal(0, 3, (n, labels)), dtype=torch.float32), torch.tensor(truth, dtype=torch.float32)


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


@st.composite
def tables(draw: Any, labels: int = 2) -> tuple[list[list[float]], list[list[float]]]:
    """Logits and truth, as lists [N][2]."""
    n = draw(st.integers(1, 6))
    rows = st.lists(st.lists(LOGITS, min_size=labels, max_size=labels), min_size=n, max_size=n)
    return draw(rows), draw(st.lists(st.lists(TRUTHS, min_size=labels, max_size=labels), min_size=n, max_size=n))


def assert_equals_definition(
    loss: losses.Loss, logits: list[list[float]], truth: list[list[float]], definition: Any
) -> None:
    """Value and gradient of `loss` are those of `definition(logits)`, the gradient by central differences."""
    z = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    y = torch.tensor(truth, dtype=torch.float64)
    total = loss.total(z, y)
    total.backward()
    assert total.item() == pytest.approx(definition(logits), rel=1e-9, abs=1e-12)
    assert loss.elements(z, y).sum().item() == pytest.approx(total.item(), rel=1e-12)
    assert z.grad is not None
    step = 1e-5
    for i in range(len(logits)):
        for j in range(len(logits[0])):
            around = []
            for sign in (1, -1):
                moved = [list(row) for row in logits]
                moved[i][j] += sign * step
                around.append(definition(moved))
            assert float(z.grad[i, j]) == pytest.approx((around[0] - around[1]) / (2 * step), rel=1e-4, abs=1e-6)
            if math.isnan(truth[i][j]):
                assert float(z.grad[i, j]) == 0.0
