"""A plugin: a network with dropout and batch norm that runs out of memory above a number of rows, as on a GPU."""

import os
from typing import ClassVar

import torch
from torch import nn

from cxr_ray.registry import MODELS, Options


class Greedy(nn.Sequential):
    """Raises an out-of-memory error for more than `CXR_RAY_TEST_ROWS` rows in train mode; records batch sizes in `seen`."""

    seen: ClassVar[list[int]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen.append(len(x))
            if len(x) > int(os.environ["CXR_RAY_TEST_ROWS"]):
                raise torch.OutOfMemoryError("no room")
        return super().forward(x)


@MODELS.register("greedy", Options)
def greedy(*, outputs: int, channels: int, image_size: tuple[int, int], options: Options) -> nn.Module:
    """For tests: see the module."""
    return Greedy(
        nn.Conv2d(channels, 4, 3, stride=2),
        nn.BatchNorm2d(4),
        nn.Dropout(0.2),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, outputs),
    )
