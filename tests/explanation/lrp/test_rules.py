"""Rules of a user's own layers: registered by class, declared in a few lines, refused where they do not fit."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cxr_ray.explanation.lrp import LRP_RULES, Rule, refusal
from cxr_ray.explanation.methods import attribute
from tests.explanation.lrp.networks import images, randomised


class Scaled(nn.Module):
    """x exp(-mean |x|): an operation without rules inside."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.exp(-x.abs().mean(1, keepdim=True))


class Shifted(nn.Module):
    """exp(x): not zero at zero."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(x)


@pytest.fixture
def registered() -> Iterator[None]:
    """Rules for `Scaled` and `Shifted`, removed afterwards."""

    @LRP_RULES.register(Scaled)
    class ScaledRule(Rule):
        def surrogate(self, layer: nn.Module, x: Tensor) -> Tensor:
            return x * (layer(x) / x).detach()

    @LRP_RULES.register(Shifted)
    class ShiftedRule(Rule):
        absorbs = "bias"

    yield
    LRP_RULES.unregister(Scaled)
    LRP_RULES.unregister(Shifted)


def network_with(layer: nn.Module) -> Any:
    network: Any = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), layer, nn.Linear(5, 2))
    randomised(network, 1)
    return network


def test_without_a_rule_the_operation_inside_is_refused() -> None:
    assert "torch.exp (in 2)" in str(refusal(network_with(Scaled()), images(0, 1, 1, 2, 2)))


def test_a_surrogate_decides_what_counts_as_fixed(registered: None) -> None:
    network, x, target = network_with(Scaled()), images(0, 2, 1, 2, 2), torch.tensor([0, 1])
    found = attribute("lrp_epsilon", network, x, target, epsilon=0.0)
    hidden = network[1](x.flatten(1))
    factor = torch.exp(-hidden.abs().mean(1))
    for n in range(2):
        # With the factor fixed the network is linear: weights of the output times factor times weights of the first layer.
        effective = factor[n] * network[3].weight[target[n]] @ network[1].weight
        assert torch.allclose(found.maps[n].flatten(), (effective * x[n].flatten()).detach())
    assert found.certificate is not None and found.certificate.adds_up.all()
    assert [row["kind"] for row in found.certificate.layers] == ["linear", "Scaled", "linear", "flatten"]


def test_constants_go_to_the_bias(registered: None) -> None:
    network, x, target = network_with(Shifted()), images(0, 2, 1, 2, 2), torch.tensor([0, 1])
    found = attribute("lrp_epsilon", network, x, target, epsilon=0.0)
    assert found.certificate is not None and found.certificate.adds_up.all()
    y = torch.exp(network[1](x.flatten(1)))
    for n in range(2):  # y = J x + constant with J = y
        row, w = network[1](x[n].flatten()), network[3].weight[target[n]]
        taken = (w * (y[n] - y[n] * row)).sum() + network[3].bias[target[n]] + (w * y[n]) @ network[1].bias
        assert float(found.certificate.bias[n]) == pytest.approx(float(taken.detach()))


def test_a_surrogate_with_other_values_is_refused() -> None:
    @LRP_RULES.register(Scaled)
    class Wrong(Rule):
        def surrogate(self, layer: nn.Module, x: Tensor) -> Tensor:
            return 2.0 * layer(x)

    try:
        assert "surrogate gives other values than the layer" in str(
            refusal(network_with(Scaled()), images(0, 1, 1, 2, 2))
        )
    finally:
        LRP_RULES.unregister(Scaled)


def test_a_subclass_does_not_inherit_the_rule(registered: None) -> None:
    class Other(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tan(x)

    assert "torch.tan (in 2)" in str(refusal(network_with(Other()), images(0, 1, 1, 2, 2)))


def test_operations_can_be_registered_by_name() -> None:
    @LRP_RULES.register("sinh")
    class Odd(Rule):
        def surrogate(self, x: Tensor) -> Tensor:
            return x * (torch.sinh(x) / x).detach()

    class Sinh(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sinh(x)

    try:
        found = attribute("lrp_epsilon", network_with(Sinh()), images(0, 2, 1, 2, 2), torch.tensor([0, 1]))
        assert found.certificate is not None and found.certificate.adds_up.all()
    finally:
        LRP_RULES.unregister("sinh")
