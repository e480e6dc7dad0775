"""Whole maps: equal to the papers' rules by loops, adding up layer by layer, and sane at the edges."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cxr_ray.errors import UserError
from cxr_ray.explanation.methods import Certificate, attribute
from tests.explanation.lrp.networks import SkipNet, TokenNet, images, randomised, rules_of

METHODS: list[tuple[str, dict[str, Any]]] = [
    ("lrp_epsilon", {"epsilon": 0.1}),
    ("lrp_epsilon", {"epsilon": 1e-3}),
    ("lrp_alphabeta", {"alpha": 2.0, "beta": 1.0}),
    ("lrp_alphabeta", {"alpha": 1.0, "beta": 0.0}),
    ("lrp_gamma", {"gamma": 0.25}),
]


def adds_up(certificate: Certificate, tolerance: float = 1e-9) -> None:
    """The identity, for the totals and for every layer, recomputed from the certificate's numbers."""
    terms = certificate.relevance + certificate.bias + certificate.clip + certificate.epsilon
    assert torch.allclose(terms, certificate.logit, rtol=tolerance, atol=tolerance)
    assert certificate.adds_up.all()
    for row in certificate.layers:
        parts = row["relevance_in"] + row["bias"] + row["clip"] + row["epsilon"]
        assert torch.allclose(
            parts, row["relevance_out"], rtol=tolerance, atol=tolerance * float(row["magnitude"].max())
        )
    for name in ("bias", "clip", "epsilon"):
        assert torch.allclose(sum(row[name] for row in certificate.layers), getattr(certificate, name))


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    channels=st.integers(1, 3),
    width=st.integers(1, 4),
    size=st.tuples(st.integers(2, 5), st.integers(2, 5)),
    method=st.sampled_from(METHODS),
)
def test_skips_and_concatenations_equal_the_papers(
    seed: int, channels: int, width: int, size: tuple[int, int], method: tuple[str, dict[str, Any]]
) -> None:
    network = randomised(SkipNet(channels, width, 3), seed)
    assert isinstance(network, SkipNet)
    x, targets = images(seed + 1, 2, channels, *size), torch.tensor([0, 2])
    found = attribute(method[0], network, x, targets, **method[1])
    for n in range(2):
        logit, relevance = network.by_papers(x[n], int(targets[n]), rules_of(*method))
        assert abs(float(found.logits[n]) - logit) < 1e-10 * max(1.0, abs(logit))
        wanted = relevance.sum(0)
        assert np.abs(found.maps[n].numpy() - wanted).max() <= 1e-10 * max(1.0, float(np.abs(relevance).max()))
    assert found.certificate is not None
    adds_up(found.certificate)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    heads=st.integers(1, 2),
    size=st.integers(1, 3),
    side=st.sampled_from([2, 4, 6]),
    method=st.sampled_from(METHODS),
)
def test_attention_equals_the_papers(
    seed: int, heads: int, size: int, side: int, method: tuple[str, dict[str, Any]]
) -> None:
    network = randomised(TokenNet(side, 2, 2 * heads * size, heads, 3), seed)
    assert isinstance(network, TokenNet)
    x, targets = images(seed + 1, 2, 1, side, side), torch.tensor([1, 0])
    found = attribute(method[0], network, x, targets, **method[1])
    for n in range(2):
        logit, relevance = network.by_papers(x[n], int(targets[n]), rules_of(*method))
        assert abs(float(found.logits[n]) - logit) < 1e-10 * max(1.0, abs(logit))
        scale = max(1.0, float(np.abs(relevance).max()))
        assert np.abs(found.maps[n].numpy() - relevance.sum(0)).max() <= 1e-10 * scale
    assert found.certificate is not None
    adds_up(found.certificate, 1e-7)


def test_epsilon_of_zero_is_gradient_times_input() -> None:
    network = randomised(SkipNet(2, 4, 3), 5)
    x, targets = images(6, 4, 2, 6, 7), torch.tensor([0, 1, 2, 1])
    x.requires_grad_()
    gradient = torch.autograd.grad(network(x).gather(1, targets[:, None]).sum(), x)[0]
    found = attribute("lrp_epsilon", network, x.detach(), targets, epsilon=0.0)
    assert torch.allclose(found.maps, (gradient * x).sum(1), rtol=1e-10, atol=1e-12)
    assert found.certificate is not None
    assert found.certificate.bias.abs().min() > 1e-3  # biases matter here
    assert not found.certificate.epsilon.any()


def test_biases_take_their_gradient_times_their_value() -> None:
    network = randomised(SkipNet(1, 3, 2), 7)
    x, target = images(8, 1, 1, 5, 5), torch.tensor([1])
    found = attribute("lrp_epsilon", network, x, target, epsilon=0.0)
    network(x)[0, 1].backward()
    # Running means act as biases too: shifting the input of a norm by -mean.
    taken = sum(
        float((p.grad * p.detach()).sum()) for n, p in network.named_parameters() if "bias" in n and p.grad is not None
    )
    for norm in (network.norm1, network.norm2):
        assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
        assert norm.bias.grad is not None
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        taken -= float((norm.bias.grad * scale.detach() * norm.running_mean).sum())
    assert found.certificate is not None
    assert float(found.certificate.bias) == pytest.approx(taken, rel=1e-9)
    network.zero_grad()


def test_clipped_activations_take_their_bound() -> None:
    network: Any = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU6(), nn.Flatten(), nn.Linear(27, 2))
    randomised(network, 0)
    x, target = 20.0 * images(1, 2, 1, 5, 5), torch.tensor([0, 1])
    found = attribute("lrp_epsilon", network, x, target, epsilon=0.0)
    hidden = network[1](network[0](x)).flatten(1)
    assert found.certificate is not None
    for n in range(2):
        taken = sum(6.0 * float(network[3].weight.detach()[target[n], i]) for i in range(27) if hidden[n, i] == 6.0)
        assert float(found.certificate.clip[n]) == pytest.approx(taken, rel=1e-12) and taken != 0.0
    adds_up(found.certificate)


def test_alphabeta_counts_empty_parts_under_epsilon() -> None:
    layer = nn.Linear(2, 1).double()
    layer.weight.data, layer.bias.data = torch.tensor([[1.0, 2.0]]).double(), torch.tensor([0.5]).double()
    x = torch.tensor([[[[1.0, 3.0]]]]).double()
    found = attribute("lrp_alphabeta", nn.Sequential(nn.Flatten(), layer), x, torch.tensor([0]))
    # z = 7.5 without negative parts: the inputs get 2 x 1 and 2 x 6, the bias 2 x 0.5, and -7.5 goes to no one.
    assert found.maps[0, 0].tolist() == pytest.approx([2.0, 12.0])
    assert found.certificate is not None
    assert float(found.certificate.bias) == pytest.approx(1.0)
    assert float(found.certificate.epsilon) == pytest.approx(-7.5)
    adds_up(found.certificate)


class Leaky(nn.Module):
    """x + 1, claimed to be homogeneous by a rule of the test."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1.0


def test_a_map_whose_layer_does_not_add_up_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    from cxr_ray.explanation.lrp import LRP_RULES, Rule

    LRP_RULES.register(Leaky)(Rule)
    try:
        network = randomised(nn.Sequential(nn.Conv2d(1, 2, 3), Leaky(), nn.Flatten(), nn.Linear(18, 2)), 1)
        found = attribute("lrp_epsilon", network, images(2, 2, 1, 5, 5), torch.tensor([0, 1]))
    finally:
        LRP_RULES.unregister(Leaky)
    assert found.certificate is not None and not found.certificate.adds_up.any()


def test_errors_of_two_layers_that_cancel_are_marked() -> None:
    from cxr_ray.explanation.lrp import LRP_RULES, Rule
    from cxr_ray.explanation.lrp.rules import Share, Step

    class Twice(Rule):
        factor = 2.0

        def back(self, step: Step, coefficients: list[Tensor], scheme: Any, images: int) -> Share:
            return Share([self.factor * c for c in coefficients])

    class Half(Twice):
        factor = 0.5

    LRP_RULES.register(nn.Tanh)(Twice)
    LRP_RULES.register(nn.Hardtanh)(Half)
    try:
        network: Any = nn.Sequential(
            nn.Flatten(), nn.Linear(4, 3, bias=False), nn.Identity(), nn.Tanh(), nn.Hardtanh(-9, 9)
        )
        network.append(nn.Linear(3, 1, bias=False))
        network.double()[1].weight.data.mul_(1e-4)  # both activations are the identity to 1e-8
        found = attribute("lrp_epsilon", network, images(1, 1, 1, 2, 2), torch.tensor([0]), epsilon=0.0)
    finally:
        LRP_RULES.unregister(nn.Tanh)
        LRP_RULES.unregister(nn.Hardtanh)
    assert found.certificate is not None
    assert float(found.certificate.relevance) == pytest.approx(float(found.logits), rel=1e-6)
    assert not found.certificate.adds_up.any()


@pytest.mark.parametrize("method", ["lrp_epsilon", "lrp_alphabeta", "lrp_gamma", "lrp_composite"])
@pytest.mark.parametrize("value", [0.0, 1.0, -2.0])
def test_constant_images_and_a_zero_logit(method: str, value: float) -> None:
    network = randomised(SkipNet(1, 3, 2), 3)
    assert isinstance(network, SkipNet)
    network.head.weight.data[1], network.head.bias.data[1] = 0.0, 0.0
    found = attribute(method, network, torch.full((2, 1, 5, 5), value).double(), torch.tensor([0, 1]))
    assert torch.isfinite(found.maps).all() and float(found.logits[1]) == 0.0
    assert not found.maps[1].any()
    assert found.certificate is not None
    adds_up(found.certificate)


def test_weights_that_are_not_finite_are_named() -> None:
    network: Any = randomised(SkipNet(1, 3, 2), 3)
    network.conv2.weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(UserError, match=r"the logit of image 0 of the batch is nan; its conv2.weight holds NaN"):
        attribute("lrp_epsilon", network, images(0, 1, 1, 5, 5), torch.tensor([0]))


def test_pixels_that_are_not_finite_are_named() -> None:
    x = images(0, 2, 1, 5, 5)
    x[1, 0, 2, 2] = torch.inf
    with pytest.raises(UserError, match="image 1 of the batch is nan; check its pixels"):
        attribute("lrp_epsilon", randomised(SkipNet(1, 3, 2), 3), x, torch.tensor([0, 1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ["lrp_epsilon", "lrp_alphabeta", "lrp_gamma", "lrp_composite"])
def test_other_dtypes(method: str, dtype: torch.dtype) -> None:
    network, x, targets = randomised(SkipNet(2, 4, 3), 4), images(9, 3, 2, 6, 6), torch.tensor([0, 1, 2])
    exact = attribute(method, network, x, targets)
    found = attribute(method, network.to(dtype), x.to(dtype), targets)
    assert found.maps.dtype == dtype and found.certificate is not None and found.certificate.adds_up.all()
    error = (found.maps.double() - exact.maps).abs().max() / exact.maps.abs().max()
    assert error < (1e-5 if dtype == torch.float32 else 0.2)


def test_a_batch_gives_what_single_images_give() -> None:
    network, x, targets = randomised(SkipNet(2, 4, 3), 4), images(9, 3, 2, 6, 6), torch.tensor([0, 1, 2])
    found = attribute("lrp_epsilon", network, x, targets)
    for n in range(3):
        one = attribute("lrp_epsilon", network, x[n : n + 1], targets[n : n + 1])
        assert torch.allclose(one.maps[0], found.maps[n], rtol=1e-10, atol=1e-13)
        assert one.certificate is not None and found.certificate is not None
        assert torch.allclose(one.certificate.bias[0], found.certificate.bias[n])


class Recurrent(nn.Module):
    """Moves images to the second dimension, as layers that take the sequence first do."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(4, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens_SNE = x.flatten(1).reshape(len(x), 4, 4).transpose(0, 1)
        out: Tensor = self.head(self.attention(tokens_SNE, tokens_SNE, tokens_SNE)[0].mean(0))
        return out


def test_networks_that_move_the_images_to_another_dimension() -> None:
    network, x, targets = randomised(Recurrent(), 4), images(9, 3, 1, 4, 4), torch.tensor([0, 1, 1])
    found = attribute("lrp_epsilon", network, x, targets, epsilon=0.01)
    one = attribute("lrp_epsilon", network, x[1:2], targets[1:2], epsilon=0.01)
    assert torch.allclose(found.maps[1], one.maps[0]) and found.certificate is not None
    adds_up(found.certificate, 1e-8)
    assert all(row["bias"].shape == (3,) for row in found.certificate.layers)


def test_the_network_is_left_as_it_was() -> None:
    network, x = randomised(SkipNet(1, 3, 2), 3), images(0, 2, 1, 5, 5)
    before = {name: p.clone() for name, p in network.state_dict().items()}
    out = network(x)
    with torch.inference_mode():
        attribute("lrp_composite", network, x, torch.tensor([0, 1]))
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    assert all(torch.equal(before[name], p) for name, p in network.state_dict().items())
    assert all(
        not m._forward_hooks and not m._forward_pre_hooks and "forward" not in vars(m) for m in network.modules()
    )
    assert torch.equal(network(x), out)
