"""A plugin: networks that die or hang in their second epoch, for the sweep that must go on without them."""

import os
import time
from typing import Any

import torch
from torch import nn

from cxr_ray.registry import MODELS, Options


class Bad(nn.Module):
    """One linear layer that does `harm` at its third training batch."""

    def __init__(self, inputs: int, outputs: int, harm: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, outputs)
        self.harm, self.batches = harm, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.batches += self.training
        if self.batches == 3:
            self.harm()
        return self.layer(x[:, :, ::8, ::8].flatten(1))


def _built(outputs: int, channels: int, size: tuple[int, int], harm: Any) -> nn.Module:
    return Bad(channels * -(-size[0] // 8) * -(-size[1] // 8), outputs, harm)


@MODELS.register("dying", Options)
def dying(*, outputs: int, channels: int, image_size: tuple[int, int], options: Any) -> nn.Module:
    """For tests: its process is gone, as when the kernel kills it for memory."""
    return _built(outputs, channels, image_size, lambda: os._exit(9))


@MODELS.register("hanging", Options)
def hanging(*, outputs: int, channels: int, image_size: tuple[int, int], options: Any) -> nn.Module:
    """For tests: it never comes back."""
    return _built(outputs, channels, image_size, lambda: time.sleep(3600))
