"""Grad-CAM, and which layer of a network has the maps that it weights."""
# N images, K maps, h and w height and width of a layer's maps, H and W of the network's input, T tokens

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops.misc import Permute

from cxr_ray.errors import UserError, closest
from cxr_ray.explanation.methods import METHODS, Attribution
from cxr_ray.explanation.passes import explaining, logits_of, select
from cxr_ray.registry import Options

POOLING = tuple(
    kind
    for name, kind in vars(nn.modules.pooling).items()
    if name.endswith(("Pool1d", "Pool2d")) and isinstance(kind, type)
)
INSTEAD = "saliency, integrated_gradients or occlusion can explain it"


class GradCamOptions(Options):
    """Options of Grad-CAM."""

    layer: str | None = None
    """Dotted name of the module whose output has the maps (`layer3`), or tokens. None: the last one, as `last_maps` finds it."""
    positive: bool = True
    """Keep only what raises the logit, as published; false: a signed map."""


@METHODS.register("gradcam", GradCamOptions)
def gradcam(network: nn.Module, inputs: Tensor, targets: Tensor, options: GradCamOptions) -> Attribution:
    """Maps of the last layer, weighted by the mean of their gradients, enlarged bilinearly (Selvaraju et al. 2017, arXiv:1610.02391).

    Raises `UserError` for a network without a convolution, and for a layer that does not exist or has no maps."""
    size = inputs.shape[-2], inputs.shape[-1]
    with explaining(network, inputs, targets) as (x, target):
        layer = last_maps(network, x[:1]) if options.layer is None else _named(network, options.layer)
        with _captured(network.get_submodule(layer.name)) as outputs:
            logits = select(network(x), target)
        if not outputs:
            raise UserError(f"gradcam: the layer {layer.name!r} is not used in the forward pass; name another")
        maps_NKhw = _as_maps(outputs[-1].detach(), layer, size)
        (gradient,) = torch.autograd.grad(logits.sum(), outputs[-1], allow_unused=True)
        if gradient is None:
            raise UserError(
                f"gradcam: the logit does not depend on the layer {layer.name!r}; name another, or leave layer out"
            )
        weight_NK11 = _as_maps(gradient, layer, size).mean((2, 3), keepdim=True)
        map_N1hw = (weight_NK11 * maps_NKhw).sum(1, keepdim=True)
        map_N1hw = map_N1hw.relu() if options.positive else map_N1hw
        enlarged = F.interpolate(map_N1hw, size=size, mode="bilinear", align_corners=False)
        return Attribution(enlarged.squeeze(1), logits.detach())


class Layer(NamedTuple):
    """A module whose output has the layout of the image."""

    name: str
    grid: tuple[int, int] | None
    """(h, w) of its tokens, which follow one class token; None for maps [N, K, h, w], and for a layer that the user names."""


def last_maps(network: nn.Module, inputs: Tensor) -> Layer:
    """The layer of the last maps, from one forward pass of `inputs` [1, C, H, W] within `explaining`.

    Maps are the output of the last convolution with more than one pixel, or of what follows it at the same size (norm, activation,
    skip), before any pooling; of Swin, whose maps have their channels last, the output of its last permutation. With class-token
    attention (ViT) only the class token leaves the last block, so the tokens are those that its attention reads: the output of
    the last layer norm before it. Raises `UserError` for a network without a convolution."""
    steps = _trace(network, inputs)
    anchors = [at for at, step in enumerate(steps) if step.anchor]
    if not anchors:
        raise UserError(
            f"gradcam needs a convolution, and {type(network).__name__} has none whose maps have more than one pixel; {INSTEAD}"
        )
    start = anchors[-1]
    grid = steps[start].shape[-2:]
    attentions = [at for at, step in enumerate(steps) if step.kind is nn.MultiheadAttention and at > start]
    if attentions:
        tokens = grid[0] * grid[1] + 1
        norms = [
            s
            for s in steps[start : attentions[-1]]
            if s.kind is nn.LayerNorm and len(s.shape) == 3 and s.shape[1] == tokens
        ]
        if not norms:
            raise UserError(
                f"gradcam: the tokens of {type(network).__name__} are no grid of {grid[0]} x {grid[1]} with a class token; {INSTEAD}"
            )
        return Layer(norms[-1].name, (grid[0], grid[1]))
    same = [s for s in steps[start:] if len(s.shape) == 4 and s.shape[-2:] == grid and not s.pooled]
    return Layer(same[-1].name, None)


@dataclass(frozen=True)
class _Step:
    """What one module returned in a forward pass."""

    name: str
    kind: type[nn.Module]
    shape: tuple[int, ...]
    anchor: bool  # maps of more than one pixel, from a convolution or from a permutation to channels first
    pooled: bool


def _trace(network: nn.Module, inputs: Tensor) -> list[_Step]:
    """The modules of `network` in the order in which they finish."""
    steps: list[_Step] = []
    pooled: list[Tensor] = []  # kept, so that no other tensor gets their memory

    def add(name: str, module: nn.Module, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) and output else output
        if not isinstance(first, Tensor):
            return
        if isinstance(module, POOLING):
            pooled.append(first)
        to_maps = isinstance(module, nn.Conv2d) or (isinstance(module, Permute) and module.dims == [0, 3, 1, 2])
        anchor = to_maps and first.ndim == 4 and first.shape[-1] * first.shape[-2] > 1
        steps.append(
            _Step(name, type(module), tuple(first.shape), anchor, any(first.data_ptr() == p.data_ptr() for p in pooled))
        )

    handles = [
        module.register_forward_hook(lambda module, _inputs, output, name=name: add(name, module, output))
        for name, module in network.named_modules()
        if name
    ]
    try:
        logits_of(network, inputs, torch.zeros(1, dtype=torch.int64, device=inputs.device))
    finally:
        for handle in handles:
            handle.remove()
    return steps


def _named(network: nn.Module, name: str) -> Layer:
    names = [each for each, _ in network.named_modules() if each]
    if name not in names:
        hint = closest(name, names) or "; its layers: " + ", ".join(each for each, _ in network.named_children())
        raise UserError(f"gradcam: no layer {name!r} in {type(network).__name__}{hint}")
    return Layer(name, None)


@contextmanager
def _captured(module: nn.Module) -> Iterator[list[Tensor]]:
    """The outputs of `module` in the body. What follows gets copies, since an activation may change its input in place."""
    outputs: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        if not isinstance(first, Tensor):
            return None
        kept = first.detach().requires_grad_()  # nothing before the layer needs a gradient
        outputs.append(kept)
        return (kept.clone(), *output[1:]) if isinstance(output, tuple) else kept.clone()

    handle = module.register_forward_hook(keep)
    try:
        yield outputs
    finally:
        handle.remove()


def _as_maps(output: Tensor, layer: Layer, size: tuple[int, int]) -> Tensor:
    """A layer's output, or its gradient, as maps [N, K, h, w]."""
    if output.ndim == 4:
        return output
    if output.ndim == 3:
        grid = layer.grid or _grid(output.shape[1] - 1, size)
        if grid is not None and grid[0] * grid[1] == output.shape[1] - 1:
            return output[:, 1:].transpose(1, 2).reshape(len(output), -1, *grid)
    raise UserError(
        f"gradcam: the layer {layer.name!r} returns {list(output.shape)}, not maps [N, K, h, w] or a class token with a grid of tokens; "
        "name another, or leave layer out"
    )


def _grid(tokens: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """(h, w) of `tokens` square patches of an image of `size`; None if they do not fit."""
    for height in range(1, tokens + 1):
        if tokens % height == 0 and height * size[1] == (tokens // height) * size[0]:
            return height, tokens // height
    return None
