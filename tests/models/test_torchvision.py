"""torchvision's networks: every name builds, weights keep their names, logits may be negative, gradients reach the stem."""

from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import get_model

from cxr_ray import models
from cxr_ray.models import dropout, heads
from cxr_ray.registry import MODELS
from tests.fakes.networks import TORCHVISION_NAMES, build, gray

FAMILIES = [
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3", "maxvit_t",
    "mnasnet1_0", "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "shufflenet_v2_x1_0", "squeezenet1_1",
    "swin_t", "vgg11", "vit_b_16",
]  # fmt: skip
SMALL = ("mobilenet_v3_small", "resnet18", "densenet121", "googlenet", "shufflenet_v2_x1_0", "squeezenet1_1")
ALL_NAMES = [name if name in FAMILIES else pytest.param(name, marks=pytest.mark.slow) for name in TORCHVISION_NAMES]


@pytest.mark.parametrize("name", ALL_NAMES)
def test_every_name_builds(name: str) -> None:
    """One gray channel in, [N, L] out; no memory is allocated for weights."""
    entry = MODELS[name]
    size = models.family_of(entry).natural_size
    with models.skeletons():
        network = entry.make(outputs=7, channels=1, image_size=size, options=entry.parse({}, where="model.options"))
    with torch.no_grad():
        assert network.to("meta").eval()(torch.empty(2, 1, *size, device="meta")).shape == (2, 7)


@pytest.mark.parametrize("name", FAMILIES)
def test_names_of_weights_are_torchvisions(name: str) -> None:
    """Only stem and head differ from the published network: in shape, not in name."""
    settings: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        settings = {"aux_logits": name == "googlenet", "init_weights": False}
    entry = MODELS[name]
    with models.skeletons():
        ours = entry.make(
            outputs=7, channels=1, image_size=(224, 224), options=entry.parse({}, where="model.options")
        ).state_dict()
        network = get_model(name, weights=None, **settings)
        dropout.add_before_head(network.get_submodule(heads.head_name(network, 1000)), 0.5)
        theirs = network.state_dict()
    assert list(ours) == list(theirs)
    differ = [key.rpartition(".")[0] for key in ours if ours[key].shape != theirs[key].shape]
    expected = {differ[0], differ[-1], *(["aux1.fc2", "aux2.fc2"] if name == "googlenet" else [])}
    assert set(differ) == expected and len(expected) >= 2


def test_squeezenet_gives_negative_logits() -> None:
    """torchvision's has a ReLU after its head: no probability would be below one half."""
    logits = torch.cat(
        [build("squeezenet1_1", size=(64, 64), seed=seed).eval()(gray(2, (64, 64))) for seed in range(5)]
    )
    assert (logits < 0).any() and (logits > 0).any()


def test_googlenets_auxiliary_heads_are_active_in_train_mode() -> None:
    model = build("googlenet", size=(64, 64), outputs=3)
    images = gray(2, (64, 64))
    assert [tuple(logits.shape) for logits in models.head_logits(model(images))] == [(2, 3)] * 3
    assert model.auxiliary_weight == 0.3
    assert tuple(model.eval()(images).shape) == (2, 3)
    plain = build("googlenet", size=(64, 64), outputs=3, options={"auxiliary": 0})
    assert plain.auxiliary_weight == 0.0 and plain(images).shape == (2, 3)
    assert not any(key.startswith("aux") for key in plain.backbone.state_dict())


def small_size(name: str) -> tuple[int, int]:
    """A small size that the architecture takes."""
    if name.startswith("maxvit"):
        return (224, 224)
    return (28, 28) if name == "vit_h_14" else (32, 32) if name.startswith("vit_") else (96, 96)


@pytest.mark.parametrize(
    "name", [*SMALL, *(pytest.param(k, marks=pytest.mark.zoo) for k in TORCHVISION_NAMES if k not in SMALL)]
)
def test_gradients_reach_the_stem(name: str) -> None:
    """On real data, from the loss to a first layer with one input channel."""
    model = build(name, size=small_size(name))
    if name.startswith("vit_"):  # the head of an untrained one is zero and lets no gradient through
        nn.init.normal_(model.head_parameters()[0])
    logits, *_ = models.head_logits(model(gray(2, small_size(name))))
    logits.square().sum().backward()
    stem = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    assert logits.shape == (2, 5) and stem.in_channels == 1
    assert stem.weight.grad is not None and stem.weight.grad.abs().sum() > 0
