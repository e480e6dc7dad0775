"""Dropout before the head and of whole feature maps: only in train mode, without new names in the `state_dict`."""

import pytest
import torch
from torch import Tensor, nn

from cxr_ray import models
from cxr_ray.errors import UserError
from cxr_ray.models import dropout
from cxr_ray.models.classifier import ClassifierSpec
from tests.fakes.networks import build, gray


@pytest.mark.parametrize("name", ["lenet", "resnet18", "squeezenet1_1"])
def test_dropout_before_the_head(name: str) -> None:
    plain, dropped = build(name, size=(32, 32)), build(name, size=(32, 32), dropout=0.9)
    assert list(plain.state_dict()) == list(dropped.state_dict())
    images = gray(2, (32, 32))
    with torch.no_grad():
        assert torch.equal(plain.eval()(images), dropped.eval()(images))
        dropped.train()
        for module in dropped.modules():  # batch norm as in eval mode: only the head may differ
            module.training = isinstance(module, dropout.DropoutLinear | dropout.DropoutConv2d)
        first, second = dropped(images), dropped(images)
    assert not torch.allclose(first, second)
    assert "dropout=0.9" in repr(dropped)


def test_dropout_preserves_the_mean_of_the_heads_input() -> None:
    layer = dropout.DropoutLinear(1, 1, bias=False)
    layer.dropout = 0.25
    nn.init.ones_(layer.weight)
    torch.manual_seed(0)
    out = layer(torch.ones(20_000, 1))
    assert out.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert abs(float(out.detach().mean()) - 1.0) < 0.02


@pytest.mark.parametrize(
    "name", ["resnet18", "densenet121", "squeezenet1_1", "mobilenet_v2", "efficientnet_b0", "googlenet", "lenet"]
)
def test_dropout_of_maps_drops_whole_maps_in_train_mode_only(name: str) -> None:
    size = (64, 64) if name != "lenet" else (32, 32)
    plain, dropped = build(name, size=size), build(name, size=size, dropout=0.4, dropout_where="maps")
    assert list(plain.state_dict()) == list(dropped.state_dict())
    images = gray(2, size)
    with torch.no_grad():
        assert torch.equal(plain.eval()(images), dropped.eval()(images))
    outputs: list[Tensor] = []
    for module in dropped.modules():
        if isinstance(module, dropout.ACTIVATIONS):
            module.register_forward_hook(lambda _m, _x, y: outputs.append(y.detach().clone()))
    with torch.no_grad():
        dropped.train()(images)
    maps = [y for y in outputs if y.ndim == 4 and y.shape[-1] * y.shape[-2] > 1]
    zero = torch.cat([(y == 0).all(dim=3).all(dim=2).flatten() for y in maps])
    assert len(maps) > 1 and zero.float().mean() > 0.3
    state = torch.get_rng_state()
    again = models.rebuild(ClassifierSpec.from_description(dropped.describe()))
    assert torch.equal(state, torch.get_rng_state()) and again.spec.dropout_where == "maps"


@pytest.mark.parametrize("name", ["vit_b_16", "convnext_tiny"])
def test_networks_without_feature_maps_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="has no activations of feature maps to drop"), models.skeletons():
        build(name, size=(64, 64), dropout=0.2, dropout_where="maps")
