"""A plugin: a small network with slow steps, so that a test can interrupt a training within an epoch."""

import math
import os
import time
from typing import Any

import torch
from torch import nn

from cxr_ray.registry import MODELS, Options


class Slow(nn.Module):
    """Batch norm and dropout: everything that a resumed run must restore."""

    def __init__(self, outputs: int, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 4, 3, stride=2),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Flatten(),
            nn.Linear(4 * math.prod((side - 1) // 2 for side in size), outputs),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            time.sleep(float(os.environ.get("CXR_RAY_TEST_STEP_S", "0.15")))
        return self.body(x)


@MODELS.register("slow", Options)
def slow(*, outputs: int, channels: int, image_size: tuple[int, int], options: Any) -> nn.Module:
    """For tests: see the module."""
    return Slow(outputs, channels, image_size)
