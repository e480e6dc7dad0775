"""Rules of normalisations. Batch norm is affine in eval mode; layer and group norm are linear once their deviation counts as fixed."""
# N images, C channels

from typing import Any

import torch
from torch import Tensor

from cxr_ray.explanation.lrp.rules import LRP_RULES, Rule, Step


def along_channels(values_C: Tensor, ndim: int) -> Tensor:
    """[C] as [1, C, 1, ...] of `ndim` dimensions."""
    return values_C.reshape(1, -1, *([1] * (ndim - 2)))


class _Norm(Rule):
    """What normalisations have in common: sums of contributions, and a bias."""

    absorbs = "bias"

    def stabilise(self, step: Step) -> bool:
        """Contributions of the values around cancel."""
        return True


@LRP_RULES.register("batch_norm")
class BatchNorm(_Norm):
    """y = scale x + shift, exactly, from running statistics. After a convolution or linear layer it is folded into that (affine.py)."""

    def refuses(self, step: Step) -> str | None:
        """Statistics of the batch, which would mix images."""
        _, mean, _, _, _, training, _ = batch_norm_arguments(*step.args, **step.kwargs)
        if training or mean is None:
            return "a batch norm with statistics of the batch; call .eval()"
        return None

    def surrogate(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The affine form."""
        scale, shift = scale_and_shift(x, *args, **kwargs)
        return x * along_channels(scale, x.ndim) + along_channels(shift, x.ndim)

    def constant(self, step: Step) -> Tensor | None:
        """The shift."""
        _, shift = scale_and_shift(*step.args, **step.kwargs)
        return along_channels(shift, step.values[0].ndim)


def batch_norm_arguments(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None, bool, float]:
    """The arguments of `torch.nn.functional.batch_norm` in order, without momentum."""
    return x, running_mean, running_var, weight, bias, training, eps


def scale_and_shift(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """[C] and [C] of a batch norm with running statistics, from the arguments of its torch function."""
    _, mean, variance, weight, bias, _, eps = batch_norm_arguments(*args, **kwargs)
    assert mean is not None and variance is not None
    scale = torch.rsqrt(variance.detach() + eps)
    if weight is not None:
        scale = scale * weight.detach()
    shift = -mean.detach() * scale
    return scale, shift if bias is None else shift + bias.detach()


@LRP_RULES.register("layer_norm")
class LayerNorm(_Norm):
    """(x - mean) / deviation * weight + bias with a fixed deviation (Achtibat et al. 2024, section 3.3.3)."""

    def surrogate(
        self, x: Tensor, shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
    ) -> Tensor:
        """The layer with its deviation detached."""
        dims = tuple(range(-len(shape), 0))
        y = (x - x.mean(dims, keepdim=True)) / fixed_deviation(x, dims, eps)
        y = y if weight is None else y * weight.detach()
        return y if bias is None else y + bias.detach()

    def constant(self, step: Step) -> Tensor | None:
        """The bias."""
        bias = step.kwargs.get("bias", step.args[3] if len(step.args) > 3 else None)
        return None if bias is None else bias.detach()


@LRP_RULES.register("group_norm")
class GroupNorm(_Norm):
    """As layer norm, over groups of channels."""

    def surrogate(
        self, x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
    ) -> Tensor:
        """The layer with its deviation detached."""
        groups = x.reshape(x.shape[0], num_groups, -1)
        y = ((groups - groups.mean(-1, keepdim=True)) / fixed_deviation(groups, (-1,), eps)).reshape(x.shape)
        y = y if weight is None else y * along_channels(weight.detach(), x.ndim)
        return y if bias is None else y + along_channels(bias.detach(), x.ndim)

    def constant(self, step: Step) -> Tensor | None:
        """The bias."""
        bias = step.kwargs.get("bias", step.args[3] if len(step.args) > 3 else None)
        return None if bias is None else along_channels(bias.detach(), step.values[0].ndim)


def fixed_deviation(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    """The deviation over `dims` as a constant, with torch's biased variance."""
    return torch.sqrt(x.detach().var(dims, unbiased=False, keepdim=True) + eps)
