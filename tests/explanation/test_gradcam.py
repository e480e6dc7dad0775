"""Grad-CAM against captum, and the layer that it takes, for every family of torchvision."""

import pytest
import torch
from captum import attr
from torch import nn

from cxr_ray import models
from cxr_ray.errors import UserError
from cxr_ray.explanation.gradcam import last_maps
from cxr_ray.explanation.methods import attribute
from cxr_ray.explanation.passes import explaining
from tests.explanation.networks import FAMILIES, images, network, small_cnn
from tests.fakes.networks import build

SLOW = ("vgg11_bn", "inception_v3", "maxvit_t", "vit_b_16", "swin_t", "swin_v2_t", "convnext_tiny", "resnext50_32x4d")


def check_against_captum(net: nn.Module, layer: str, size: int) -> None:
    x, targets = images(2, (size, size), channels=3, dtype=torch.float32), torch.tensor([0, 3])
    with explaining(net):
        assert last_maps(net, x[:1]).name == layer
    for positive in (True, False):
        found = attribute("gradcam", net, x, targets, positive=positive)
        coarse = attr.LayerGradCam(net, net.get_submodule(layer)).attribute(
            x, target=targets, relu_attributions=positive
        )
        expected = attr.LayerAttribution.interpolate(coarse, (size, size), "bilinear")[:, 0].detach()
        largest = max(float(expected.abs().max()), 1e-12)
        assert positive or largest > 1e-9
        torch.testing.assert_close(found.maps / largest, expected / largest, rtol=1e-5, atol=1e-5)
        named = attribute("gradcam", net, x, targets, positive=positive, layer=layer)
        torch.testing.assert_close(named.maps, found.maps)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in SLOW])
def test_gradcam_equals_captum_at_the_last_maps(name: str) -> None:
    size, layer = FAMILIES[name]
    check_against_captum(network(name, size=size), layer, size)


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in SLOW if name != "vit_b_16"])
def test_gradcam_equals_captum_for_larger_networks(name: str) -> None:
    size, layer = FAMILIES[name]
    check_against_captum(network(name, size=size), layer, size)


def test_tokens_of_a_vit_are_put_back_on_their_grid() -> None:
    """By the definition: the mean gradient of each feature over the tokens, without the class token."""
    name, (size, layer) = "vit_b_16", (48, FAMILIES["vit_b_16"][1])
    net, x = network(name, size=size), images(1, (size, size), channels=3, dtype=torch.float32)
    with explaining(net):
        found_layer = last_maps(net, x)
        assert found_layer == (layer, (3, 3))
        saved: list[torch.Tensor] = []
        handle = net.get_submodule(layer).register_forward_hook(lambda _m, _x, y: saved.append(y))
        gradient = torch.autograd.grad(net(x)[0, 2], saved[0])[0]
        handle.remove()
    coarse = torch.zeros(3, 3)
    for token in range(9):
        coarse[token // 3, token % 3] = (gradient[0, 1:].mean(0) * saved[0][0, 1 + token]).sum()
    coarse = coarse.detach()
    assert float(coarse.abs().max()) > 0
    expected = nn.functional.interpolate(coarse.relu()[None, None], size=(size, size), mode="bilinear")[0]
    torch.testing.assert_close(attribute("gradcam", net, x, torch.tensor([2])).maps, expected)
    torch.testing.assert_close(attribute("gradcam", net, x, torch.tensor([2]), layer=layer).maps, expected)


@pytest.mark.parametrize(
    ("name", "layer"), [("lenet", "features.4"), ("covid_cnn", "features.7"), ("pneumonia_cnn", "features.7")]
)
def test_the_projects_own_networks_have_maps(name: str, layer: str) -> None:
    model: models.Classifier = build(name, size=(32, 40)).eval()
    x = images(2, (32, 40), dtype=torch.float32)
    with explaining(model.backbone):
        assert last_maps(model.backbone, x[:1]).name == layer
    assert attribute("gradcam", model.backbone, x, torch.tensor([0, 1])).maps.shape == (2, 32, 40)


def test_maps_of_one_pixel_are_not_taken() -> None:
    net = network("resnet18", size=32)
    with explaining(net):
        assert last_maps(net, images(1, (32, 32), channels=3, dtype=torch.float32)).name == "layer3"


def test_a_network_without_a_convolution_is_refused_in_one_line() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(144, 3)).double()
    with pytest.raises(
        UserError, match=r"^gradcam needs a convolution, and Sequential has none.*occlusion can explain it$"
    ):
        attribute("gradcam", net, images(1, (12, 12)), torch.tensor([0]))


@pytest.mark.parametrize(
    ("layer", "message"),
    [("5x", "no layer '5x' in Sequential"), ("8", "returns .*not maps"), ("9", "returns .*not maps")],
)
def test_a_layer_that_cannot_serve_is_refused(layer: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        attribute("gradcam", small_cnn(), images(1, (12, 12)), torch.tensor([0]), layer=layer)


def test_a_layer_that_is_not_called_is_refused() -> None:
    class Skips(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self[1](x).mean((2, 3))

    net = Skips(nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 3)).double()
    with pytest.raises(UserError, match="'0' is not used"):
        attribute("gradcam", net, images(1, (12, 12)), torch.tensor([0]), layer="0")
