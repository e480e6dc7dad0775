"""Occlusion: how much the logit falls where a window of the image is covered."""
# N images, C channels, H height, W width, P positions of the window

import torch
from pydantic import Field
from torch import Tensor, nn

from cxr_ray.errors import UserError
from cxr_ray.explanation.methods import METHODS, Attribution
from cxr_ray.explanation.passes import explaining, logits_of
from cxr_ray.registry import Options


class OcclusionOptions(Options):
    """Options of occlusion."""

    window: int | None = Field(default=None, ge=1)
    """Side of the square window in pixels of the network's input. None: an eighth of the image's shorter side."""
    stride: int | None = Field(default=None, ge=1)
    """Pixels between positions of the window, at most its side. None: half the window."""
    baseline: float | None = 0.0
    """Value of the network's normalised input inside the window: 0 is the mean gray of the normalisation (Zeiler and Fergus cover with
    gray). None: black as the image shows it, its lowest value."""
    batch: int = Field(default=64, ge=1)
    """Covered images in one forward pass."""


@METHODS.register("occlusion", OcclusionOptions)
def occlusion(network: nn.Module, inputs: Tensor, targets: Tensor, options: OcclusionOptions) -> Attribution:
    """Fall of the logit where a window covers the image, mean over the windows that cover a pixel (Zeiler and Fergus 2014).

    Signed: positive where covering lowers the logit. Windows start at multiples of the stride, the last ones are cut at the
    image's edge. Raises `UserError` for a stride larger than the window, and for a window larger than the image."""
    height, width = inputs.shape[-2:]
    window = options.window or max(1, min(height, width) // 8)
    stride = options.stride or max(1, window // 2)
    if window > min(height, width):
        raise UserError(f"occlusion: a window of {window} pixels does not fit into {height} x {width}; lower window")
    if stride > window:
        raise UserError(f"occlusion: a stride of {stride} pixels leaves gaps between windows of {window}; lower stride")
    places = [(top, left) for top in starts(height, window, stride) for left in starts(width, window, stride)]
    with explaining(network, inputs, targets) as (x, target):
        logits = logits_of(network, x, target)
        lowest = x.amin((1, 2, 3), keepdim=True)
        value = lowest if options.baseline is None else torch.full_like(lowest, options.baseline)
        total_NHW, windows_HW = torch.zeros_like(x[:, 0]), x.new_zeros((height, width))
        pairs = [(image, place) for place in places for image in range(len(x))]
        for at in range(0, len(pairs), options.batch):
            chunk = pairs[at : at + options.batch]
            index = torch.tensor([image for image, _ in chunk], device=x.device)
            covered = x[index]
            for copy, (image, (top, left)) in zip(covered, chunk, strict=True):
                copy[:, top : top + window, left : left + window] = value[image]
            fall = logits[index] - logits_of(network, covered, target[index])
            for drop, (image, (top, left)) in zip(fall, chunk, strict=True):
                total_NHW[image, top : top + window, left : left + window] += drop
        for top, left in places:
            windows_HW[top : top + window, left : left + window] += 1
        return Attribution(total_NHW / windows_HW, logits)


def starts(side: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along a side: enough to cover it, the last one perhaps cut."""
    return [stride * at for at in range(-(-(side - window) // stride) + 1)]
