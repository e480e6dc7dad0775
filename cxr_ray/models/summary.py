"""Size, explanation methods and layer shapes of a model, without allocating its weights. Printing: cli/commands/models.py."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cxr_ray import config
from cxr_ray.errors import UserError
from cxr_ray.models.classifier import CHANNELS, parameter_count
from cxr_ray.models.factory import build, family_of, skeletons
from cxr_ray.registry import MODELS


@dataclass(frozen=True)
class Listing:
    """A line of `cxr-ray models`."""

    name: str
    parameters: int | None
    """As published, for colour and 1,000 classes, or counted with a gray stem and 14 outputs; None if neither is known."""
    image_size: tuple[int, int]
    """(height, width) in pixels of its usual input."""
    stems: tuple[str, ...]
    explained_by: tuple[str, ...]
    about: str


@dataclass(frozen=True)
class Layer:
    """One call of a layer."""

    name: str
    kind: str
    shape: tuple[int, ...]
    """Of its output for one image."""
    trainable: int
    """Its own trainable weights; for a layer that is called twice they count once."""


def listing(name: str) -> Listing:
    """One model's line, quickly. Raises `UserError` for an unknown name."""
    entry = MODELS[name]
    family = family_of(entry)
    count = getattr(entry.options, "published_parameters", None) or _count(name, family.natural_size)
    return Listing(name, count, family.natural_size, tuple(CHANNELS), family.explained_by, entry.about)


def layers(model: config.Model, *, outputs: int, image_size: tuple[int, int]) -> list[Layer]:
    """Every layer of the network of the configuration `model` at `image_size` (height, width), in the order in which calls return.

    A layer is a module that calls no other, or has weights of its own. Weights of modules that are never called themselves (an
    attention's projection) count for the module around them. Auxiliary heads are included. No weights are allocated. Raises
    `UserError` as `models.build` does."""
    plain = model.model_copy(update={"weights": "none", "freeze_epochs": 0})
    with skeletons():
        network = build(plain, outputs=outputs, image_size=image_size, mean=0.0, deviation=1.0).backbone
    network.to("meta").eval().training = True  # the network's own mode only: it enables the auxiliary heads
    calls: list[tuple[str, nn.Module, tuple[int, ...]]] = []
    hooks = []
    for name, module in network.named_modules():

        def record(module: nn.Module, _inputs: object, output: object, name: str = name) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, Tensor):
                calls.append((name, module, tuple(first.shape[1:])))

        hooks.append(module.register_forward_hook(record))
    with torch.no_grad():
        network(torch.empty((1, CHANNELS[model.stem], *image_size), device="meta"))
    for hook in hooks:
        hook.remove()
    called = {name for name, _, _ in calls}
    own = dict.fromkeys(called, 0)
    for name, parameter in network.named_parameters():
        own[_owner(name, called)] += parameter.numel()
    inner = {_owner(name, called) for name in called if name}
    out = []
    for name, module, shape in calls:
        if name not in inner or own[name]:
            out.append(Layer(name or "(network)", type(module).__name__, shape, own[name]))
            own[name] = 0
    return out


def _owner(name: str, called: set[str]) -> str:
    """The innermost called module that contains `name`; the network itself ("") if there is none."""
    while name:
        name = name.rpartition(".")[0]
        if name in called:
            return name
    return ""


def _count(name: str, size: tuple[int, int]) -> int | None:
    with skeletons():
        try:
            built = build(config.Model(name=name), outputs=14, image_size=size, mean=0.0, deviation=1.0)
        except UserError:  # a user's own model may need options
            return None
    return parameter_count(built)
