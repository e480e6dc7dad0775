"""Rules of activations, gates, products and sums, each against its formula."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cxr_ray.explanation.methods import attribute
from tests.explanation.lrp.networks import images, randomised


class Plain(nn.Module):
    """A function of the pixels [N, 4], summed: the map is the relevance that the function passes back."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x.flatten(1)).sum(1, keepdim=True)


def relevance(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Relevance of the pixels [N, 4], and what biases took [N]."""
    found = attribute("lrp_epsilon", Plain(function), x, torch.zeros(len(x), dtype=torch.long), epsilon=0.0)
    assert found.certificate is not None and found.certificate.adds_up.all()
    return found.maps.flatten(1), found.certificate.bias


ACTIVATIONS = [F.gelu, F.silu, F.hardswish, F.elu, F.selu, F.mish, torch.tanh, F.softsign, F.leaky_relu, F.relu]


@pytest.mark.parametrize("function", ACTIVATIONS)
def test_activations_pass_relevance_unchanged(function: Callable[[Tensor], Tensor]) -> None:
    x = 3.0 * images(0, 5, 1, 2, 2)
    x[0, 0, 0, 0] = 0.0
    found, bias = relevance(function, x)
    assert torch.allclose(found, function(x.flatten(1)), rtol=1e-12) and not bias.any()


def test_activations_at_zero_have_the_coefficient_of_their_slope() -> None:
    # The sum that enters GELU is exactly zero, and its two terms share what GELU's slope of one half passes on: nothing in all.
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 1, bias=False), nn.GELU(), nn.Linear(1, 1)).double()
    network[1].weight.data, network[3].weight.data = torch.tensor([[1.0, -1.0]]).double(), torch.ones(1, 1).double()
    found = attribute("lrp_epsilon", network, torch.ones(1, 1, 1, 2).double(), torch.tensor([0]), epsilon=0.0)
    assert found.maps.flatten().tolist() == [0.5, -0.5]


def test_gates_scale_and_get_nothing() -> None:
    x = images(0, 3, 1, 2, 2)
    found, bias = relevance(lambda v: v * torch.sigmoid(v @ torch.ones(4, 1).double()), x)
    flat = x.flatten(1)
    assert torch.allclose(found, flat * torch.sigmoid(flat.sum(1, keepdim=True))) and not bias.any()
    again, _ = relevance(lambda v: F.hardsigmoid(v.mean(1, keepdim=True)).reshape(-1, 1).expand(-1, 4) * v, x)
    assert torch.allclose(again, flat * F.hardsigmoid(flat.mean(1, keepdim=True)))


def test_factors_share_equally() -> None:
    x = images(0, 3, 1, 2, 2)
    flat = x.flatten(1)
    found, _ = relevance(lambda v: v[:, :2] * v[:, 2:], x)
    half = flat[:, :2] * flat[:, 2:] / 2.0
    assert torch.allclose(found, torch.cat([half, half], 1))
    squares, _ = relevance(lambda v: v * v, x)
    assert torch.allclose(squares, flat**2)
    thirds, _ = relevance(lambda v: torch.einsum("na,na,na->na", v[:, :1], v[:, 1:2], v[:, 2:3]), x)
    assert torch.allclose(thirds[:, :3], (flat[:, :3].prod(1) / 3.0)[:, None].expand(-1, 3)) and not thirds[:, 3].any()


def test_softmax_is_its_taylor_form() -> None:
    x = images(0, 3, 1, 2, 2)
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0]).double()
    found, bias = relevance(lambda v: torch.softmax(v, -1) * weights, x)
    flat = x.flatten(1)
    s = torch.softmax(flat, -1)
    R = s * weights
    assert torch.allclose(found, flat * (R - s * R.sum(1, keepdim=True)))
    assert torch.allclose(bias, R.sum(1) - found.sum(1))


def test_masked_positions_of_a_softmax_get_nothing() -> None:
    mask = torch.tensor([False, True, False, False])
    found, _ = relevance(
        lambda v: torch.softmax(v.masked_fill(mask, -torch.inf), 1) * torch.arange(4.0), images(0, 3, 1, 2, 2)
    )
    assert torch.isfinite(found).all() and not found[:, 1].any() and found[:, 0].all()


def test_numbers_that_are_added_are_biases() -> None:
    x = images(0, 3, 1, 2, 2)
    found, bias = relevance(lambda v: 2.0 - F.pad(v + 1.0, (0, 1), value=0.25), x)
    assert torch.allclose(found, -x.flatten(1)) and torch.allclose(bias, torch.full((3,), 4.0 + 2.0 - 0.25).double())


def test_sums_of_terms_are_stabilised() -> None:
    network = randomised(Plain(lambda v: v[:, :2] + v[:, 2:]), 0)
    x = images(0, 3, 1, 2, 2)
    found = attribute("lrp_epsilon", network, x, torch.zeros(3, dtype=torch.long), epsilon=0.3)
    flat = x.flatten(1)
    z = flat[:, :2] + flat[:, 2:]
    damped = z / (z + 0.3 * torch.where(z >= 0.0, 1.0, -1.0))
    assert torch.allclose(found.maps.flatten(1), flat * damped.repeat(1, 2))
    assert found.certificate is not None
    assert torch.allclose(found.certificate.epsilon, (z - z * damped).sum(1))
