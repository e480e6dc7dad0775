"""Lists of models and of layers, without weights."""

from typing import Any

import pytest

from cxr_ray import config, models
from cxr_ray.models import family, summary
from cxr_ray.registry import MODELS
from tests.fakes.networks import TORCHVISION_NAMES, build


def test_a_line_for_every_model() -> None:
    lines = {entry.name: summary.listing(entry.name) for entry in MODELS}
    assert {"lenet", "covid_cnn", "pneumonia_cnn", *TORCHVISION_NAMES} <= set(lines)
    assert all(line.parameters and line.about and line.stems == ("gray", "repeat") for line in lines.values())
    assert lines["resnet18"].parameters == 11_689_512  # as in torchvision's documentation
    assert lines["lenet"].parameters == models.parameter_count(build("lenet", outputs=14, size=(28, 28)))
    assert lines["lenet"].image_size == (28, 28) and lines["inception_v3"].image_size == (299, 299)
    for name in (
        "resnet50",
        "densenet121",
        "vgg16",
        "covid_cnn",
        "pneumonia_cnn",
        "lenet",
        "alexnet",
        "googlenet",
        "vit_b_16",
    ):
        assert lines[name].explained_by == family.RELEVANCE
    assert lines["swin_t"].explained_by == family.RELEVANCE
    assert lines["swin_v2_t"].explained_by == family.MAPS


def test_layers_of_lenet_are_the_published_ones() -> None:
    layers = summary.layers(config.Model(name="lenet"), outputs=10, image_size=(28, 28))
    assert [(layer.kind, layer.shape, layer.trainable) for layer in layers] == [
        ("Conv2d", (6, 28, 28), 156), ("ReLU", (6, 28, 28), 0), ("AvgPool2d", (6, 14, 14), 0),
        ("Conv2d", (16, 10, 10), 2416), ("ReLU", (16, 10, 10), 0), ("AvgPool2d", (16, 5, 5), 0),
        ("Flatten", (400,), 0), ("Linear", (120,), 48_120), ("ReLU", (120,), 0), ("Linear", (84,), 10_164), ("ReLU", (84,), 0),
        ("Linear", (10,), 850),
    ]  # fmt: skip


@pytest.mark.parametrize("hyperparameters", [{}, {"head": "append", "stem": "repeat"}])
@pytest.mark.parametrize("name", ["resnet18", "densenet121", "googlenet", "vit_b_16", "convnext_tiny", "swin_t"])
def test_layers_count_every_weight_once(name: str, hyperparameters: dict[str, Any]) -> None:
    layers = summary.layers(config.Model(name=name, **hyperparameters), outputs=5, image_size=(224, 224))
    with models.skeletons():
        model = build(name, size=(224, 224), **hyperparameters)
    assert sum(layer.trainable for layer in layers) == models.parameter_count(model)
    assert [layer.shape for layer in layers if layer.trainable][-1] == (5,)


@pytest.mark.zoo
@pytest.mark.parametrize("name", TORCHVISION_NAMES)
def test_layers_of_every_model(name: str) -> None:
    size = summary.listing(name).image_size
    layers = summary.layers(config.Model(name=name), outputs=5, image_size=size)
    with models.skeletons():
        assert sum(layer.trainable for layer in layers) == models.parameter_count(build(name, size=size))
