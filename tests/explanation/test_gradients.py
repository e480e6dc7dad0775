"""Gradient methods against captum, and against their definitions."""

from typing import Any

import pytest
import torch
from captum import attr
from torch import nn

from cxr_ray.errors import UserError
from cxr_ray.explanation.gradients import path, unit_noise
from cxr_ray.explanation.methods import attribute
from cxr_ray.explanation.passes import gray_level
from tests.explanation.networks import images, network, small_cnn

NAMES = ["saliency", "gradient", "gradient_x_input", "smoothgrad", "integrated_gradients", "gradcam", "occlusion"]
RULES = {
    "gauss_legendre": "gausslegendre",
    "midpoint": "riemann_middle",
    "left": "riemann_left",
    "right": "riemann_right",
}


@pytest.fixture(params=["resnet18", "densenet121"])
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    return network(request.param, size=64).double(), images(3, (64, 64), channels=3), torch.tensor([0, 4, 2])


def test_saliency_equals_captum_with_the_maximum_and_the_sum_over_channels(
    case: tuple[nn.Module, torch.Tensor, torch.Tensor],
) -> None:
    net, x, targets = case
    expected = attr.Saliency(net).attribute(x.clone(), target=targets)
    found = attribute("saliency", net, x, targets)
    torch.testing.assert_close(found.maps, expected.amax(1), rtol=1e-5, atol=1e-5 * float(expected.max()))
    torch.testing.assert_close(attribute("saliency", net, x, targets, channels="sum").maps, expected.sum(1))
    torch.testing.assert_close(found.logits, net(x).gather(1, targets[:, None])[:, 0].detach())


def test_gradient_and_gradient_x_input_equal_captum(case: tuple[nn.Module, torch.Tensor, torch.Tensor]) -> None:
    net, x, targets = case
    torch.testing.assert_close(
        attribute("gradient", net, x, targets).maps,
        attr.Saliency(net).attribute(x.clone(), target=targets, abs=False).sum(1),
    )
    torch.testing.assert_close(
        attribute("gradient_x_input", net, x, targets).maps,
        attr.InputXGradient(net).attribute(x.clone(), target=targets).sum(1).detach(),
    )


@pytest.mark.parametrize("rule", RULES)
def test_integrated_gradients_equal_captum_with_the_same_rule_and_baseline(rule: str) -> None:
    net, x, targets = small_cnn(channels=3).eval(), images(3, (12, 10), channels=3), torch.tensor([0, 2, 1])
    black = gray_level(0.0, mean=0.5, deviation=0.25)
    assert black == -2.0
    expected = attr.IntegratedGradients(net).attribute(
        x, baselines=black, target=targets, n_steps=7, method=RULES[rule]
    )
    found = attribute("integrated_gradients", net, x, targets, steps=7, quadrature=rule, baseline=black)
    torch.testing.assert_close(found.maps, expected.sum(1), rtol=1e-5, atol=1e-8)
    lowest = attr.IntegratedGradients(net).attribute(
        x, baselines=x.amin((1, 2, 3), keepdim=True).expand_as(x), target=targets, n_steps=7, method=RULES[rule]
    )
    by_default = attribute("integrated_gradients", net, x, targets, steps=7, quadrature=rule)
    torch.testing.assert_close(by_default.maps, lowest.sum(1), rtol=1e-5, atol=1e-8)


def test_integrated_gradients_add_up_to_the_difference_of_the_logits() -> None:
    net, x, targets = small_cnn().eval(), images(2, (12, 12)), torch.tensor([1, 2])
    found = attribute("integrated_gradients", net, x, targets, steps=400, baseline=0.0)
    with torch.no_grad():
        difference = found.logits - net(torch.zeros_like(x)).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(found.maps.sum((1, 2)), difference, rtol=0.01, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("rule", [*RULES, "trapezoid"])
def test_a_rule_integrates_constants_exactly_and_lines_where_it_should(rule: str, steps: int) -> None:
    position, weight = path(rule, steps)
    assert len(position) == len(weight) == steps
    assert sum(weight) == pytest.approx(1.0)
    if rule not in ("left", "right"):
        assert sum(p * w for p, w in zip(position, weight, strict=True)) == pytest.approx(0.5)


@pytest.mark.parametrize(("of", "abs_"), [("gradient", False), ("absolute", True)])
def test_smoothgrad_equals_the_mean_of_captums_saliency_of_images_with_the_same_noise(of: str, abs_: bool) -> None:
    net, x, targets = small_cnn().eval(), images(3, (12, 10)), torch.tensor([0, 2, 1])
    captum = attr.Saliency(net)
    scale = 0.2 * torch.stack([(image.max() - image.min()) for image in x])[:, None, None, None]
    expected = [
        captum.attribute(x + scale * noise, target=targets, abs=abs_) for noise in unit_noise(6, (12, 10), seed=3)
    ]
    found = attribute("smoothgrad", net, x, targets, samples=6, noise=0.2, seed=3, of=of)
    torch.testing.assert_close(found.maps, torch.stack(expected).mean(0).sum(1), rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_a_map_depends_neither_on_the_batch_nor_on_its_order(name: str) -> None:
    net, x, targets = small_cnn(), images(4, (12, 12)), torch.tensor([0, 2, 1, 1])
    together = attribute(name, net, x, targets).maps
    torch.testing.assert_close(attribute(name, net, x.flip(0), targets.flip(0)).maps.flip(0), together)
    for at in range(4):
        torch.testing.assert_close(attribute(name, net, x[at : at + 1], targets[at : at + 1]).maps[0], together[at])


def state(net: nn.Module) -> list[object]:
    """Everything that an explanation must leave as it was."""
    return [
        [m.training for m in net.modules()],
        [(p.requires_grad, p.grad) for p in net.parameters()],
        [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in net.modules()],
        [b.clone().tolist() for b in net.buffers()],
    ]


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_network_is_unchanged_and_no_weight_has_a_gradient(name: str, frozen: bool) -> None:
    net: Any = small_cnn()
    x = images(2, (12, 12))
    net[4].eval()
    net.requires_grad_(not frozen)
    before = state(net)
    with torch.inference_mode():  # the caller's mode does not matter
        attribute(name, net, x, torch.tensor([0, 1]))
    assert state(net) == before
    with pytest.raises(UserError, match="outputs 0 to 2, and no output 7"):
        attribute(name, net, x, torch.tensor([0, 7]))
    assert state(net) == before


@pytest.mark.parametrize("name", NAMES)
def test_an_error_within_the_network_leaves_it_unchanged(name: str) -> None:
    class Fails(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ZeroDivisionError

    net: Any = small_cnn()
    net.append(Fails())
    before = state(net)
    with pytest.raises(ZeroDivisionError):
        attribute(name, net, images(1, (12, 12)), torch.tensor([0]))
    assert state(net) == before


@pytest.mark.parametrize("name", NAMES)
def test_a_constant_image_has_a_finite_map(name: str) -> None:
    found = attribute(name, small_cnn(), torch.ones((1, 1, 12, 12), dtype=torch.float64), torch.tensor([0]))
    assert found.maps.shape == (1, 12, 12)
    assert bool(found.maps.isfinite().all())
