"""Batch norms are folded into the layer whose output they alone use, and into no other."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cxr_ray.explanation.methods import attribute
from tests.explanation.lrp.networks import images, randomised


def kinds(network: nn.Module, x: Tensor) -> list[str]:
    found = attribute("lrp_epsilon", network, x, torch.zeros(len(x), dtype=torch.long))
    assert found.certificate is not None and found.certificate.adds_up.all()
    return [row["kind"] for row in reversed(found.certificate.layers)]


def test_a_folded_norm_equals_a_convolution_with_scaled_weights() -> None:
    network: Any = nn.Sequential(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    randomised(network, 1)
    x, target = images(2, 2, 2, 3, 3), torch.tensor([0, 1])
    conv, norm = network[0], network[1]
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    folded: Any = nn.Conv2d(2, 3, 2).double()
    folded.weight.data = (conv.weight * scale[:, None, None, None]).detach()
    folded.bias.data = ((conv.bias - norm.running_mean) * scale + norm.bias).detach()
    plain = nn.Sequential(folded, *network[2:])
    for method in ("lrp_epsilon", "lrp_alphabeta", "lrp_gamma", "lrp_composite"):
        assert torch.allclose(attribute(method, network, x, target).maps, attribute(method, plain, x, target).maps)
    assert kinds(network, x) == ["conv2d + batch_norm", "relu", "flatten", "linear"]


def test_a_norm_of_an_output_with_another_use_is_not_folded() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            out: Tensor = self.head((self.norm(y) + y).flatten(1))
            return out

    assert kinds(randomised(Two(), 0), images(1, 2, 1, 3, 3)) == ["conv2d", "batch_norm", "add", "flatten", "linear"]


def test_norms_of_vectors_are_folded_and_those_of_tokens_are_not() -> None:
    vectors = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    assert kinds(randomised(vectors, 0), images(1, 2, 1, 2, 2)) == ["flatten", "linear + batch_norm", "linear"]
    tokens = nn.Sequential(nn.Flatten(2), nn.Linear(4, 3), nn.BatchNorm1d(2), nn.Flatten(), nn.Linear(6, 2))
    found = kinds(randomised(tokens, 0), images(1, 2, 2, 2, 2))
    assert found == ["flatten", "linear", "batch_norm", "flatten", "linear"]


@pytest.mark.parametrize(
    "layer", [nn.Conv1d(2, 3, 3, padding=1), nn.Conv1d(2, 2, 3, stride=2, groups=2, dilation=2, padding=3)]
)
def test_convolutions_of_one_dimension(layer: nn.Conv1d) -> None:
    network: Any = nn.Sequential(nn.Flatten(2), layer, nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    network(torch.zeros(1, 2, 2, 3))
    randomised(network, 2)
    x, target = images(3, 2, 2, 2, 3).requires_grad_(), torch.tensor([1, 0])
    gradient = torch.autograd.grad(network(x)[torch.arange(2), target].sum(), x)[0]
    found = attribute("lrp_epsilon", network, x, target, epsilon=0.0)
    assert torch.allclose(found.maps, (gradient * x).sum(1).detach())
