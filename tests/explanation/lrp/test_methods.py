"""The methods by name: their options, captum's numbers, refusals, and every network that declares them."""

from typing import Any

import pytest
import torch
from captum.attr import LRP
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule, GammaRule
from torch import Tensor, nn

from cxr_ray.errors import UserError
from cxr_ray.explanation.lrp import refusal
from cxr_ray.explanation.methods import METHODS, attribute
from tests.explanation.lrp.networks import SkipNet, TokenNet, images, randomised


def chain(bias: bool = True) -> nn.Sequential:
    """A sequential network of the layers that captum knows."""
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=bias), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3, bias=bias), nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Dropout(0.5), nn.Linear(20, 6, bias=bias), nn.ReLU(), nn.Linear(6, 3, bias=bias),
    )  # fmt: skip
    randomised(network, 2)
    return network


def by_captum(network: nn.Sequential, x: Tensor, targets: Tensor, rule: Any, last: Any) -> Tensor:
    """captum's map, with one rule for layers with weights and another for the last; poolings have its default, epsilon 1e-9."""
    weighted = [layer for layer in network if isinstance(layer, nn.Conv2d | nn.Linear)]
    for layer in network:
        if layer in weighted:
            layer.rule = last() if layer is weighted[-1] else rule()
        elif isinstance(layer, nn.Flatten):  # captum has no rule for it
            layer.rule = EpsilonRule()
    out: Tensor = LRP(network).attribute(x.requires_grad_(), target=targets)
    return out.sum(1).detach()


@pytest.mark.parametrize("epsilon", [1e-6, 0.01, 0.1, 1.0])
def test_epsilon_equals_captum(epsilon: float) -> None:
    network, x, targets = chain(), images(3, 4, 2, 12, 12), torch.tensor([0, 1, 2, 1])
    wanted = by_captum(network, x.clone(), targets, lambda: EpsilonRule(epsilon), lambda: EpsilonRule(epsilon))
    found = attribute("lrp_epsilon", network, x, targets, epsilon=epsilon)
    assert torch.allclose(found.maps, wanted, rtol=1e-5, atol=1e-7 * float(wanted.abs().max()))


def test_alphabeta_equals_captum() -> None:
    # captum ignores the sign of inputs and leaves biases in the denominators: no biases, inputs of 0 and more. Its last layer
    # would lose a negative logit.
    network, x, targets = chain(bias=False), images(3, 4, 2, 12, 12).abs(), torch.tensor([0, 1, 2, 1])
    last: Any = network[-1]
    last.weight.data.abs_()
    wanted = by_captum(network, x.clone(), targets, Alpha1_Beta0_Rule, Alpha1_Beta0_Rule)
    found = attribute("lrp_alphabeta", network, x, targets, alpha=1.0, beta=0.0)
    assert torch.allclose(found.maps, wanted, rtol=1e-5, atol=1e-6 * float(wanted.abs().max()))


def test_gamma_equals_captum() -> None:
    network, x, targets = chain(bias=False), images(3, 4, 2, 12, 12).abs(), torch.tensor([0, 1, 2, 1])
    last: Any = network[-1]
    last.weight.data.abs_()
    wanted = by_captum(network, x.clone(), targets, lambda: GammaRule(0.25), lambda: GammaRule(0.25))
    found = attribute("lrp_gamma", network, x, targets, gamma=0.25)
    assert torch.allclose(found.maps, wanted, rtol=1e-5, atol=1e-6 * float(wanted.abs().max()))


def test_defaults_are_the_notebook_s() -> None:
    network, x, target = randomised(SkipNet(1, 3, 2), 1), images(2, 1, 1, 5, 5), torch.tensor([1])
    assert torch.equal(
        attribute("lrp_epsilon", network, x, target).maps,
        attribute("lrp_epsilon", network, x, target, epsilon=0.1).maps,
    )
    given = attribute("lrp_alphabeta", network, x, target, alpha=2.0, beta=1.0)
    assert torch.equal(attribute("lrp_alphabeta", network, x, target).maps, given.maps)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("lrp_alphabeta", {"alpha": 2.0, "beta": 0.5}, "alpha - beta must be 1"),
        ("lrp_epsilon", {"epsilon": -0.1}, "greater than or equal to 0"),
        ("lrp_epsilon", {"input_rule": "zbox", "low": 1.0, "high": -1.0}, "low must be below high, got 1.0 and -1.0"),
        ("lrp_composite", {"convolution": "gamma"}, "did you mean 'convolutions'"),
        ("lrp_epsilon", {"input_rule": "w2"}, "'same', 'flat' or 'zbox'"),
    ],
)
def test_options_that_make_no_sense(method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        attribute(method, chain(), images(3, 1, 2, 12, 12), torch.tensor([0]), **options)


def test_composite_is_its_rules_by_depth() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2)
    )  # fmt: skip
    randomised(network, 3)
    x, target = images(4, 2, 1, 5, 5), torch.tensor([0, 1])
    kinds = {}
    for lower in (0.0, 0.7, 1.0):
        found = attribute(
            "lrp_composite", network, x, target, lower=lower, input_rule="same", convolutions="gamma", epsilon=0.5
        )
        assert found.certificate is not None and found.certificate.adds_up.all()
        # gamma absorbs nothing, epsilon does
        rows = [row for row in found.certificate.layers if row["kind"] in ("conv2d", "linear")]
        kinds[lower] = ["epsilon" if row["epsilon"].any() else "gamma" for row in reversed(rows)]
    assert kinds == {
        0.0: ["epsilon"] * 4, 0.7: ["gamma", "gamma", "epsilon", "epsilon"], 1.0: ["gamma", "gamma", "gamma", "epsilon"],
    }  # fmt: skip
    equal = attribute("lrp_composite", network, x, target, lower=0.0, input_rule="same", epsilon=0.5)
    assert torch.allclose(equal.maps, attribute("lrp_epsilon", network, x, target, epsilon=0.5).maps)


@pytest.mark.parametrize("input_rule", ["flat", "zbox"])
def test_input_rules_change_only_the_layer_on_the_pixels(input_rule: str) -> None:
    network, x, target = randomised(SkipNet(2, 3, 2), 1), images(2, 2, 2, 5, 5), torch.tensor([1, 0])
    plain = attribute("lrp_epsilon", network, x, target)
    found = attribute("lrp_epsilon", network, x, target, input_rule=input_rule)
    assert plain.certificate is not None and found.certificate is not None and found.certificate.adds_up.all()
    for ours, theirs in zip(found.certificate.layers[:-1], plain.certificate.layers[:-1], strict=True):
        assert torch.equal(ours["relevance_in"], theirs["relevance_in"])
    last = found.certificate.layers[-1]
    assert not last["bias"].any() and torch.allclose(last["relevance_in"], last["relevance_out"], atol=1e-6)


def test_input_rules_need_a_layer_on_the_pixels() -> None:
    network = nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 2))
    randomised(network, 0)
    with pytest.raises(UserError, match=r"first operation is batch_norm \(in 0\).*set input_rule to same"):
        attribute("lrp_composite", network, images(1, 1, 1, 5, 5), torch.tensor([0]))
    attribute("lrp_composite", network, images(1, 1, 1, 5, 5), torch.tensor([0]), input_rule="same")


def test_every_method_serves_skips_and_attention() -> None:
    names = [entry.name for entry in METHODS if entry.name.startswith("lrp_")]
    assert names == ["lrp_alphabeta", "lrp_composite", "lrp_epsilon", "lrp_gamma"]
    for network in (randomised(SkipNet(1, 3, 2), 0), randomised(TokenNet(4, 2, 4, 2, 2), 0)):
        assert refusal(network, images(1, 1, 1, 4, 4)) is None
        for name in names:
            found = attribute(name, network, images(1, 2, 1, 4, 4), torch.tensor([0, 1]))
            assert found.maps.shape == (2, 4, 4) and found.certificate is not None and found.certificate.adds_up.all()
