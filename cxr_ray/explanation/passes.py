"""One pass of a network for an explanation: its mode, the explained logits, and their gradients. No method is here."""
# N images, C channels, H height, W width, L outputs

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cxr_ray.errors import UserError


@contextmanager
def explaining(network: nn.Module, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The body runs with `network` in eval mode and with gradients enabled; then the mode of every module is restored.

    It gets `tensors` without their history; those of inference mode, which no backward pass may use, as copies. Whether a weight
    requires gradients is never changed: `torch.autograd.grad` computes only those that are asked for."""
    training = [module for module in network.modules() if module.training]
    try:
        for module in training:
            module.training = False
        with torch.inference_mode(False), torch.enable_grad():
            yield tuple(one.clone() if one.is_inference() else one.detach() for one in tensors)
    finally:
        for module in training:
            module.training = True


def select(logits_NL: Tensor, targets_N: Tensor) -> Tensor:
    """The explained logit [N] of each image. Raises `UserError` for a target that is no output."""
    if len(targets_N) != len(logits_NL):
        raise ValueError(f"{len(targets_N)} targets for {len(logits_NL)} images")
    outputs = logits_NL.shape[1]
    wrong = (targets_N < 0) | (targets_N >= outputs)
    if bool(wrong.any()):
        raise UserError(f"the model has the outputs 0 to {outputs - 1}, and no output {int(targets_N[wrong][0])}")
    return logits_NL.gather(1, targets_N[:, None]).squeeze(1)


def input_gradient(network: nn.Module, inputs: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """(gradient of each image's explained logit by its own input [N, C, H, W], logits [N]), within `explaining`.

    The logits are summed before one backward pass: in eval mode an image's logit depends on no other image."""
    leaf = inputs.detach().clone().requires_grad_()
    logits = select(network(leaf), targets_N)
    (gradient,) = torch.autograd.grad(logits.sum(), leaf)
    return gradient, logits.detach()


def logits_of(network: nn.Module, inputs: Tensor, targets_N: Tensor) -> Tensor:
    """The explained logits [N], without gradients, within `explaining`."""
    with torch.no_grad():
        return select(network(inputs), targets_N)


def gray_level(gray: float, *, mean: float, deviation: float) -> float:
    """The value of the network's input for the gray value `gray` (0 black, 1 white), as a `Classifier` with this `mean` and `deviation`
    normalises it."""
    return (gray - mean) / deviation
