"""Classifiers and gray images for tests of models."""

from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import list_models

from cxr_ray import config, models

TORCHVISION_NAMES = list_models(module=torchvision.models)


def build(
    name: str, *, outputs: int = 5, size: tuple[int, int] = (32, 32), seed: int = 0, **hyperparameters: Any
) -> models.Classifier:
    """The classifier `name`, in train mode."""
    torch.manual_seed(seed)
    return models.build(
        config.Model(name=name, **hyperparameters), outputs=outputs, image_size=size, mean=0.5, deviation=0.25
    )


def gray(n: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    """Random uint8 images [n, *size]."""
    return torch.randint(0, 256, (n, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def layer_shapes(network: nn.Module, x: Tensor) -> list[list[int]]:
    """Output shapes of every layer that contains no other layer."""
    shapes: list[list[int]] = []
    hooks = [
        m.register_forward_hook(lambda _m, _x, y: shapes.append(list(y.shape[1:])))
        for m in network.modules()
        if not list(m.children())
    ]
    network.eval()(x)
    for hook in hooks:
        hook.remove()
    return shapes
