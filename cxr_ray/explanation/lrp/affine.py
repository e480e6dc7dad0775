"""Convolutions and linear layers: z = W a + b. How their relevance is divided among inputs is a `Division` (divisions.py)."""
# N images, I inputs or input channels, O outputs or output channels

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from cxr_ray.explanation.lrp.normalization import BatchNorm, along_channels, scale_and_shift
from cxr_ray.explanation.lrp.rules import LRP_RULES, Rule, Share, Step


@dataclass(frozen=True)
class Affine:
    """One layer z = W a + b at the explained point, with a following batch norm folded in."""

    rule: "AffineRule"
    step: Step
    a: Tensor
    weight: Tensor
    bias: Tensor | None
    """[O] or None."""
    z: Tensor

    def forward(self, a: Tensor, weight: Tensor) -> Tensor:
        """W a without bias."""
        return self.rule.forward(self.step, a, weight)

    def backward(self, s: Tensor, weight: Tensor) -> Tensor:
        """W' s, in the shape of the input."""
        return self.rule.backward(self.step, s, weight)

    def along_outputs(self, values_O: Tensor) -> Tensor:
        """[O] in a shape that broadcasts to z."""
        return self.rule.along_outputs(values_O, self.z.ndim)

    def bias_sum(self, bias_O: Tensor | None, s: Tensor, images: int) -> Tensor | float:
        """[N], sum of `bias_O * s`."""
        if bias_O is None:
            return 0.0
        dims = [d for d in range(1, s.ndim) if d != (s.ndim - 1 if self.rule.channels_last else 1)]
        sums_NO = s.sum(dims) if dims else s
        wide = sums_NO.float() if s.dtype in (torch.float16, torch.bfloat16) else sums_NO
        return (wide @ bias_O.to(wide.dtype)).reshape(images, -1).sum(1)


class AffineRule(Rule):
    """Convolutions and linear layers."""

    differentiates = False
    channels_last: ClassVar[bool] = False
    """Whether the output's channels are its last dimension."""

    def parameters(self, step: Step) -> tuple[Tensor, Tensor | None]:
        """Weight and bias."""
        args = step.args
        weight = step.kwargs.get("weight", args[1] if len(args) > 1 else None)
        bias = step.kwargs.get("bias", args[2] if len(args) > 2 else None)
        assert isinstance(weight, Tensor)
        return weight.detach(), None if bias is None else bias.detach()

    def refuses(self, step: Step) -> str | None:
        """Weights that are computed from the image."""
        if len(step.inputs) > 1:
            return f"torch.{step.kind} with weights that depend on the image"
        return None

    def forward(self, step: Step, a: Tensor, weight: Tensor) -> Tensor:
        """W a without bias."""
        raise NotImplementedError

    def backward(self, step: Step, s: Tensor, weight: Tensor) -> Tensor:
        """W' s."""
        raise NotImplementedError

    def along_outputs(self, values_O: Tensor, ndim: int) -> Tensor:
        """[O] in a shape that broadcasts to outputs of `ndim` dimensions."""
        return values_O if self.channels_last else along_channels(values_O, ndim)

    def affine(self, step: Step) -> Affine:
        """The layer at the explained point."""
        weight, bias = self.parameters(step)
        return Affine(self, step, step.inputs[0].detach(), weight, bias, step.values[0])

    def back(self, step: Step, coefficients: list[Tensor], scheme: Any, images: int) -> Share:
        """As the scheme's division for this layer says."""
        share: Share = scheme.division(step).divide(self.affine(step), coefficients[0], images)
        return share


@LRP_RULES.register("linear")
class LinearLayer(AffineRule):
    """[.., I] to [.., O]."""

    channels_last = True

    def forward(self, step: Step, a: Tensor, weight: Tensor) -> Tensor:
        """W a."""
        return F.linear(a, weight)

    def backward(self, step: Step, s: Tensor, weight: Tensor) -> Tensor:
        """W' s."""
        return s @ weight


@LRP_RULES.register("conv1d", "conv2d", "conv3d")
class Convolution(AffineRule):
    """[N, I, ..] to [N, O, ..], with any stride, padding, dilation and groups."""

    def forward(self, step: Step, a: Tensor, weight: Tensor) -> Tensor:
        """W a."""
        stride, padding, dilation, groups = self.geometry(step)
        return torch.convolution(a, weight, None, stride, padding, dilation, False, [0] * len(stride), groups)

    def backward(self, step: Step, s: Tensor, weight: Tensor) -> Tensor:
        """W' s."""
        stride, padding, dilation, groups = self.geometry(step)
        out: Tensor = torch.ops.aten.convolution_backward(
            s, step.inputs[0].detach(), weight, None, stride, padding, dilation, False, [0] * len(stride), groups,
            [True, False, False],
        )[0]  # fmt: skip
        return out

    def refuses(self, step: Step) -> str | None:
        """Padding that is not the same on both sides."""
        if self.geometry(step)[1] is None:
            return "a convolution with padding='same' and an even kernel"
        return super().refuses(step)

    def geometry(self, step: Step) -> tuple[list[int], Any, list[int], int]:
        """Stride, padding, dilation (one per dimension of the image; padding None if not symmetric) and groups."""
        weight = self.parameters(step)[0]
        names, values = ("stride", "padding", "dilation", "groups"), [1, 0, 1, 1]
        for i, name in enumerate(names):
            values[i] = step.kwargs.get(name, step.args[3 + i] if len(step.args) > 3 + i else values[i])
        n = weight.ndim - 2
        stride, dilation = _each(values[0], n), _each(values[2], n)
        padding: Any = values[1]
        if padding == "valid":
            padding = 0
        elif padding == "same":
            spans = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
            padding = None if any(span % 2 for span in spans) else [span // 2 for span in spans]
        return stride, None if padding is None else _each(padding, n), dilation, int(values[3])


class Folded(AffineRule):
    """A layer followed by a batch norm: one affine layer with scaled weights, so that epsilon and signs act on its output."""

    def __init__(self, layer: Step, norm: Step) -> None:
        self.layer = layer
        self.scale, self.shift = scale_and_shift(*norm.args, **norm.kwargs)
        assert isinstance(layer.rule, AffineRule)
        self.inner = layer.rule
        self.channels_last = layer.rule.channels_last  # type: ignore[misc]
        self.z = norm.values[0].detach()

    def affine(self, step: Step) -> Affine:
        """The folded layer at the explained point."""
        weight, bias = self.inner.parameters(self.layer)
        scaled = weight * self.scale.reshape(-1, *([1] * (weight.ndim - 1)))
        shift = self.shift if bias is None else self.shift + bias * self.scale
        return Affine(self.inner, self.layer, self.layer.inputs[0].detach(), scaled, shift, self.z)


def fold_batch_norms(steps: list[Step]) -> list[Step]:
    """The steps with every batch norm that alone uses the output of a convolution or linear layer folded into it."""
    uses: dict[int, int] = {}
    for step in steps:
        for x in step.inputs:
            uses[id(x)] = uses.get(id(x), 0) + 1
    made = {id(x): step for step in steps for x in step.outputs}
    folded: dict[int, Step] = {}
    gone: set[int] = set()
    for step in steps:
        before = made.get(id(step.inputs[0]))
        if not isinstance(step.rule, BatchNorm) or before is None or not isinstance(before.rule, AffineRule):
            continue
        if uses[id(step.inputs[0])] == 1 and step.values[0].ndim == before.values[0].ndim:
            if before.rule.channels_last and step.values[0].ndim != 2:
                continue  # a norm over tokens, not over the layer's outputs
            rule = Folded(before, step)
            folded[id(step)] = Step(
                before.layer, f"{before.kind} + batch_norm", rule, before.run, before.args, before.kwargs, before.inputs,
                step.outputs, step.values,
            )  # fmt: skip
            gone.add(id(before))
            before.values = []  # the unfolded output is not needed
    return [folded.get(id(step), step) for step in steps if id(step) not in gone]


def _each(value: Any, n: int) -> list[int]:
    values = list(value) if isinstance(value, tuple | list) else [value]
    return values * n if len(values) == 1 else values
