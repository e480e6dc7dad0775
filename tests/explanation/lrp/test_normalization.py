"""Normalisations: equal to torch's in value, linear with a fixed deviation."""

from typing import Any

import pytest
import torch
from torch import nn

from cxr_ray.explanation.methods import attribute
from tests.explanation.lrp.networks import images, randomised

NORMS = [
    (nn.LayerNorm((3, 4)), (1, 2)),
    (nn.LayerNorm(4, elementwise_affine=False), (2,)),
    (nn.LayerNorm((3, 4), bias=False), (1, 2)),
]


@pytest.mark.parametrize(("norm", "dims"), NORMS)
def test_layer_norm_with_a_fixed_deviation(norm: nn.LayerNorm, dims: tuple[int, ...]) -> None:
    network: Any = nn.Sequential(nn.Flatten(2), norm, nn.Flatten(), nn.Linear(12, 2))
    randomised(network, 1)
    x, target = images(2, 2, 3, 2, 2), torch.tensor([0, 1])
    found = attribute("lrp_epsilon", network, x, target, epsilon=0.0)
    assert torch.allclose(found.logits, network(x)[torch.arange(2), target])
    flat = x.flatten(2)
    deviation = torch.sqrt(flat.var(dims, unbiased=False, keepdim=True) + norm.eps)
    for n in range(2):
        weight = network[3].weight[target[n]].reshape(3, 4).detach()
        slope = weight if norm.weight is None else weight * norm.weight.detach()
        slope = slope / deviation[n]
        centred = slope - slope.mean(tuple(d - 1 for d in dims), keepdim=True)
        assert torch.allclose(found.maps[n].flatten(), (centred * flat[n]).sum(0))
    assert found.certificate is not None and found.certificate.adds_up.all()


@pytest.mark.parametrize("affine", [True, False])
def test_group_norm(affine: bool) -> None:
    norm = nn.GroupNorm(2, 4, affine=affine)
    network: Any = nn.Sequential(norm, nn.Flatten(), nn.Linear(16, 2))
    randomised(network, 1)
    x, target = images(2, 2, 4, 2, 2), torch.tensor([0, 1])
    found = attribute("lrp_epsilon", network, x, target, epsilon=0.0)
    assert torch.allclose(found.logits, network(x)[torch.arange(2), target])
    groups = x.reshape(2, 2, 8)
    deviation = torch.sqrt(groups.var(2, unbiased=False, keepdim=True) + norm.eps)
    for n in range(2):
        slope = network[2].weight[target[n]].reshape(4, 2, 2).detach()
        slope = (slope if norm.weight is None else slope * norm.weight.detach()[:, None, None]).reshape(
            2, 8
        ) / deviation[n]
        wanted = ((slope - slope.mean(1, keepdim=True)) * groups[n]).reshape(4, 2, 2).sum(0)
        assert torch.allclose(found.maps[n], wanted)
    assert found.certificate is not None and found.certificate.adds_up.all()


def test_a_batch_norm_alone_is_stabilised_and_counts_its_shift() -> None:
    norm = nn.BatchNorm2d(2)
    network: Any = nn.Sequential(norm, nn.Flatten(), nn.Linear(8, 2, bias=False))
    randomised(network, 1)
    x, target = images(2, 1, 2, 2, 2), torch.tensor([1])
    found = attribute("lrp_epsilon", network, x, target, epsilon=0.0)
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    weight = network[2].weight[1].reshape(2, 2, 2)
    assert torch.allclose(found.maps[0], (weight * scale[:, None, None] * x[0]).sum(0))
    assert found.certificate is not None
    assert torch.allclose(found.certificate.bias, (weight * shift[:, None, None]).sum())
    damped = attribute("lrp_epsilon", network, x, target, epsilon=0.5).certificate
    assert damped is not None and damped.adds_up.all() and float(damped.layers[-1]["epsilon"]) != 0.0
