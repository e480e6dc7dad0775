"""What is known of a model without making its weights: its size, what explains it, and every layer's shape."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cxr_ray import config
from cxr_ray.errors import UserError
from cxr_ray.models import classifier
from cxr_ray.models import factory as models
from cxr_ray.registry import MODELS


@dataclass(frozen=True)
class Listing:
    """A line of `cxr-ray models`."""

    name: str
    parameters: int | None
    """As published, for colour and 1,000 classes, or counted with a gray stem and 14 outputs; None where neither is at hand."""
    image_size: tuple[int, int]
    """(height, width) in pixels that it is usually fed."""
    stems: tuple[str, ...]
    explained_by: tuple[str, ...]
    about: str


@dataclass(frozen=True)
class Layer:
    """A layer of a network: one call of it."""

    name: str
    kind: str
    shape: tuple[int, ...]
    """Of what it gives for one image."""
    trainable: int
    """Weights of its own that training moves; those of a layer that is called twice are counted once."""


def listing(name: str) -> Listing:
    """One model's line, quickly. Raises `UserError` for an unknown name."""
    entry = MODELS[name]
    family = models.family_of(entry)
    count = getattr(entry.options, "published_parameters", None) or _count(name, family.natural_size)
    return Listing(name, count, family.natural_size, tuple(classifier.CHANNELS), family.explained_by, entry.about)


def layers(model: config.Model, *, outputs: int, image_size: tuple[int, int]) -> list[Layer]:
    """Every layer of the network that `model` asks for, in the order of their ends, at `image_size` (height, width).

    A layer is a module that calls no other, or has weights of its own; weights of modules that are never called themselves (an
    attention's projection) count for the one that holds them. Auxiliary heads are run too. No weights are made. Raises
    `UserError` as `models.build` does."""
    plain = model.model_copy(update={"weights": "none", "freeze_epochs": 0})
    with models.skeletons():
        network = models.build(plain, outputs=outputs, image_size=image_size, mean=0.0, deviation=1.0).backbone
    network.to("meta").eval().training = True  # its own mode alone: that brings the auxiliary heads out
    calls: list[tuple[str, nn.Module, tuple[int, ...]]] = []
    hooks = []
    for name, module in network.named_modules():

        def ended(module: nn.Module, _inputs: object, given: object, name: str = name) -> None:
            first = given[0] if isinstance(given, tuple) else given
            if isinstance(first, Tensor):
                calls.append((name, module, tuple(first.shape[1:])))

        hooks.append(module.register_forward_hook(ended))
    channels = classifier.CHANNELS[model.stem]
    with torch.no_grad():
        network(torch.empty((1, channels, *image_size), device="meta"))
    for hook in hooks:
        hook.remove()
    called = {name for name, _, _ in calls}
    own = dict.fromkeys(called, 0)
    for name, parameter in network.named_parameters():
        own[_holder(name, called)] += parameter.numel()
    inner = {_holder(name, called) for name in called if name}
    out = []
    for name, module, shape in calls:
        if name not in inner or own[name]:
            out.append(Layer(name or "(network)", type(module).__name__, shape, own[name]))
            own[name] = 0
    return out


def _holder(name: str, called: set[str]) -> str:
    """The innermost called module that `name` lies in; the network itself where none is."""
    while name:
        name = name.rpartition(".")[0]
        if name in called:
            return name
    return ""


def _count(name: str, size: tuple[int, int]) -> int | None:
    with models.skeletons():
        try:
            built = models.build(config.Model(name=name), outputs=14, image_size=size, mean=0.0, deviation=1.0)
        except UserError:  # a user's own model may need options
            return None
    return classifier.parameter_count(built)
