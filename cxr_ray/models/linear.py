"""A linear model: logistic regression on features (`data.features`), or on the pixels of small images."""
# N rows, D values of a row

from contextlib import nullcontext
from typing import ClassVar

import torch
from torch import Tensor, nn

from cxr_ray.models.family import Family
from cxr_ray.registry import MODELS


class LinearOptions(Family):
    """The linear model has no options of its own."""

    natural_size: ClassVar[tuple[int, int]] = (28, 28)


class Linear(nn.Module):
    """Standardises each value and adds them up with weights: [N, channels, H, W] to logits [N, outputs].

    Computes in float32 whatever the precision, and starts at zero weights: its losses are convex, so no start is better."""

    center: Tensor
    scale: Tensor

    def __init__(self, *, outputs: int, inputs: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))
        self.head = nn.Linear(inputs, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, values: Tensor) -> Tensor:
        """[N, channels, H, W] to logits [N, outputs]."""
        # A skeleton, on the meta device, has no precision to switch off.
        with nullcontext() if values.is_meta else torch.autocast(values.device.type, enabled=False):
            logits: Tensor = self.head((values.float().flatten(1) - self.center) / self.scale)
        return logits

    def standardize(self, center_D: Tensor, scale_D: Tensor) -> None:
        """Subtract `center_D` from each value and divide it by `scale_D`, in training and ever after."""
        self.center.copy_(center_D)
        self.scale.copy_(scale_D)

    def of_raw_values(self) -> tuple[Tensor, Tensor]:
        """Weight [outputs, D] and bias [outputs] of the same function of values that are not standardised."""
        weight = self.head.weight.detach() / self.scale
        return weight, self.head.bias.detach() - weight @ self.center


@MODELS.register("linear", LinearOptions)
def linear(*, outputs: int, channels: int, image_size: tuple[int, int], options: LinearOptions) -> nn.Module:
    """Logistic regression on the features of `cxr-ray embed`, standardised by the train rows, or on the pixels themselves."""
    return Linear(outputs=outputs, inputs=channels * image_size[0] * image_size[1])
