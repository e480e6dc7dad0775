"""A plugin: networks whose process dies or hangs in the second epoch, for sweeps that must continue without them."""

import os
import time
from typing import Any

import torch
from torch import nn

from cxr_ray.registry import MODELS, Options


class Bad(nn.Module):
    """One linear layer that calls `fail` at its third training batch."""

    def __init__(self, inputs: int, outputs: int, fail: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, outputs)
        self.fail, self.batches = fail, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.batches += self.training
        if self.batches == 3:
            self.fail()
        return self.layer(x[:, :, ::8, ::8].flatten(1))


def _build(outputs: int, channels: int, size: tuple[int, int], fail: Any) -> nn.Module:
    return Bad(channels * -(-size[0] // 8) * -(-size[1] // 8), outputs, fail)


@MODELS.register("dying", Options)
def dying(*, outputs: int, channels: int, image_size: tuple[int, int], options: Any) -> nn.Module:
    """For tests: its process dies, as if the kernel killed it for memory."""
    return _build(outputs, channels, image_size, lambda: os._exit(9))


@MODELS.register("hanging", Options)
def hanging(*, outputs: int, channels: int, image_size: tuple[int, int], options: Any) -> nn.Module:
    """For tests: it never returns."""
    return _build(outputs, channels, image_size, lambda: time.sleep(3600))
