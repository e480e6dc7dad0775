"""Rules of torch's operations without weights: activations, poolings, sums, products, changes of shape."""

from typing import Any

import torch
from torch import Tensor

from cxr_ray.explanation.lrp.rules import LRP_RULES, Rule, Share, Step


@LRP_RULES.register(
    "relu", "leaky_relu", "prelu", "max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool2d",
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
    "mean", "sum", "neg", "abs", "amax", "interpolate", "max_pool2d_with_indices",
)  # fmt: skip
class Homogeneous(Rule):
    """f(t x) = t f(x) for t > 0: x f'(x) = f(x). A maximum gives all to its winner, a mean by contribution."""


@LRP_RULES.register(
    "flatten", "view", "reshape", "permute", "transpose", "squeeze", "unsqueeze", "contiguous", "expand", "repeat",
    "chunk", "split", "unbind", "select", "narrow", "getitem", "roll", "flip", "swapaxes", "swapdims", "movedim", "T",
    "mT", "to", "float", "double", "clone", "type_as", "pixel_unshuffle", "pixel_shuffle", "channel_shuffle", "unflatten",
    "expand_as", "view_as", "repeat_interleave",
)  # fmt: skip
class Rearranged(Rule):
    """Values in another order or shape."""

    rearranges = True


@LRP_RULES.register("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout")
class Dropout(Rule):
    """Nothing, in eval mode."""

    rearranges = True

    def refuses(self, step: Step) -> str | None:
        """Random values in train mode."""
        training = step.kwargs.get("training", step.args[2] if len(step.args) > 2 else True)
        return f"torch.{step.kind} in train mode; call .eval()" if training else None


@LRP_RULES.register("add", "sub", "rsub", "cat", "concat", "stack", "where", "masked_fill", "pad")
class Linear(Rule):
    """Sums and concatenations. What is not an input (a number, a weight) is a constant."""

    absorbs = "bias"

    def stabilise(self, step: Step) -> bool:
        """Only terms that depend on the image can cancel."""
        return step.kind in ("add", "sub", "rsub") and len(step.inputs) > 1

    def constant(self, step: Step) -> Tensor | None:
        """The operation at zero."""
        if self.stabilise(step) or (step.kind in ("cat", "concat", "stack") and len(step.inputs) == len(step.args[0])):
            return None
        with torch.no_grad():
            zero: Tensor = step.run(*(torch.zeros_like(x) for x in step.inputs))
        return zero


@LRP_RULES.register("mul", "multiply", "matmul", "bmm", "einsum", "div")
class Product(Rule):
    """Linear in each factor. Factors that depend on the image share the relevance equally (Achtibat et al. 2024, eq. 15),
    others scale it."""

    shared = True

    def refuses(self, step: Step) -> str | None:
        """A quotient is not linear in its denominator."""
        if step.kind == "div" and step.args[1] is step.inputs[-1]:
            return "torch.div by a tensor that depends on the image"
        return None


@LRP_RULES.register("relu6", "hardtanh", "clamp", "clip", "clamp_min", "clamp_max")
class Clipped(Rule):
    """The identity between two bounds. Where a bound is the output, it is a constant that takes all relevance."""

    absorbs = "clip"

    def constant(self, step: Step) -> Tensor | None:
        """The bound where it applies."""
        y = step.values[0].detach()
        return torch.where(y == step.inputs[0], 0.0, y)


@LRP_RULES.register("gelu", "silu", "hardswish", "elu", "selu", "celu", "mish", "tanh", "softsign", "hardshrink")
class Activation(Rule):
    """f(0) = 0, and relevance passes unchanged: the coefficient is scaled by f(x) / x (Achtibat et al. 2024, identity rule)."""

    differentiates = False

    def back(self, step: Step, coefficients: list[Tensor], scheme: Any, images: int) -> Share:
        """See the class."""
        x, y = step.inputs[0].detach(), step.values[0]
        slope = _slope_at_zero(step)
        return Share([coefficients[0] * torch.where(x == 0.0, slope, y / x)])


def _slope_at_zero(step: Step) -> float:
    """f'(0), for inputs of exactly 0."""
    zero = torch.zeros_like(step.inputs[0].detach().reshape(-1)[:1]).requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(step.run(zero).sum(), zero)
    return float(slope)


@LRP_RULES.register("sigmoid", "hardsigmoid")
class Gate(Rule):
    """A factor of a product, as in squeeze and excitation: it scales and gets no relevance (Arras et al. 2017)."""

    gates = True
    differentiates = False


@LRP_RULES.register("softmax")
class Softmax(Rule):
    """Its first-order Taylor form (Achtibat et al. 2024, eq. 13): R_i = x_i (R'_i - s_i sum R'), the rest is a constant."""

    absorbs = "bias"

    def constant(self, step: Step) -> Tensor | None:
        """s - J x = s - s (x - sum s x)."""
        x, s = step.inputs[0].detach(), step.values[0].detach()
        dim = step.kwargs.get("dim", step.args[1] if len(step.args) > 1 else -1)
        sx = torch.where(s > 0.0, s * x, 0.0)  # masked positions are 0 * -inf
        return s - sx + s * sx.sum(dim, keepdim=True)
