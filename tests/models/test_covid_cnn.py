"""covid_cnn: layers as in the notebook."""

import torch
from torch import nn

from tests.fakes.networks import build, layer_shapes


def test_layers_are_those_of_the_notebook() -> None:
    network = build("covid_cnn", outputs=1, size=(224, 224)).backbone
    shapes = layer_shapes(network, torch.zeros(1, 1, 224, 224))
    expected = [
        [32, 222, 222],
        [64, 220, 220],
        [64, 110, 110],
        [128, 108, 108],
        [128, 54, 54],
        [128, 2, 2],
        [512],
        [64],
        [1],
    ]
    assert [shape for before, shape in zip([None, *shapes], shapes, strict=False) if shape != before] == expected
    assert [m.p for m in network.modules() if isinstance(m, nn.Dropout)] == [0.25, 0.25, 0.5]
    kinds = [type(m).__name__ for m in network.modules() if not list(m.children())]
    assert kinds == [
        "Conv2d", "ReLU", "Conv2d", "ReLU", "MaxPool2d", "Dropout", "Conv2d", "ReLU", "MaxPool2d", "Dropout",
        "AdaptiveAvgPool2d", "Flatten", "Linear", "ReLU", "Dropout", "Linear",
    ]  # fmt: skip
