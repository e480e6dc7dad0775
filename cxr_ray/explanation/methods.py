"""Explanation methods by name: what every one of them takes and returns. A method is in a module of its own."""
# N images, C channels, H height, W width, L outputs

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import Tensor, nn

from cxr_ray.registry import Options, Registry


@dataclass(frozen=True)
class Certificate:
    """How the explained logit divides, per image [N]: `relevance + bias + clip + epsilon = logit` if the map adds up.

    A rule whose identity differs (alpha-beta) states it in `identity`."""

    logit: Tensor
    """[N], of the explained output."""
    relevance: Tensor
    """[N], sum of the map."""
    bias: Tensor
    """[N], relevance that biases took."""
    clip: Tensor
    """[N], relevance that constants of clipped activations took (6 of a saturated ReLU6)."""
    epsilon: Tensor
    """[N], relevance that the stabiliser of denominators absorbed."""
    adds_up: Tensor
    """[N], bool: whether the identity holds, layer by layer, to the tolerance of the dtype."""
    identity: str
    """The identity in words and symbols."""
    layers: list[dict[str, Any]] = field(default_factory=list)
    """One row per layer, from the output to the input: name, kind, relevance in and out, what it absorbed (each [N])."""


@dataclass(frozen=True)
class Attribution:
    """Maps of one method for a batch."""

    maps: Tensor
    """[N, H, W], signed unless the method says otherwise, in the frame of the network's input and summed over its channels."""
    logits: Tensor
    """[N], of the explained outputs."""
    certificate: Certificate | None = None
    """Of methods that distribute the logit (LRP); None otherwise."""


Method: TypeAlias = Callable[..., Attribution]
"""`method(network, inputs, targets, options) -> Attribution`.

`network`: an `nn.Module` in eval mode, from normalised [N, C, H, W] to logits [N, L] (a `Classifier`'s `backbone`).
`targets`: int64 [N], the explained output of each image. `options`: an instance of the method's registered `Options`.
Works in the dtype and on the device of `inputs`, leaves no gradient on the network's weights and its hooks removed.
Raises `UserError` for a network that it cannot serve, with the methods that can."""

METHODS: Registry[Method] = Registry(
    "explanation method",
    [
        "cxr_ray.explanation.gradients",
        "cxr_ray.explanation.gradcam",
        "cxr_ray.explanation.occlusion",
        "cxr_ray.explanation.lrp",
    ],
)


def attribute(name: str, network: nn.Module, inputs: Tensor, targets: Tensor, **options: Any) -> Attribution:
    """Maps of the method `name`. Raises `UserError` for unknown names and options, and where the method cannot serve the network."""
    entry = METHODS[name]
    parsed: Options = entry.parse(options, where="options")
    return entry.make(network, inputs, targets, parsed)
