"""LeNet: layers and weights as published, and a first linear layer that depends on the image size."""

import pytest
import torch
from torch import nn

from cxr_ray import models
from tests.fakes.networks import build, gray, layer_shapes


def test_layers_are_the_published_ones() -> None:
    network = build("lenet", outputs=10, size=(28, 28)).backbone
    assert layer_shapes(network, torch.zeros(1, 1, 28, 28)) == [
        [6, 28, 28], [6, 28, 28], [6, 14, 14], [16, 10, 10], [16, 10, 10], [16, 5, 5],
        [400], [120], [120], [84], [84], [10],
    ]  # fmt: skip
    assert models.parameter_count(network) == (25 * 6 + 6) + (150 * 16 + 16) + (400 * 120 + 120) + (120 * 84 + 84) + 850
    assert [type(m) for m in network.modules() if isinstance(m, nn.AvgPool2d)] == [nn.AvgPool2d] * 2


@pytest.mark.parametrize("size", [(12, 12), (13, 30), (64, 48)])
def test_first_linear_layer_depends_on_the_size(size: tuple[int, int]) -> None:
    model = build("lenet", outputs=3, size=size)
    height, width = ((side // 2 - 4) // 2 for side in size)
    assert model.backbone.classifier[1].in_features == 16 * height * width  # type: ignore[union-attr, index]
    assert model(gray(2, size)).shape == (2, 3)
