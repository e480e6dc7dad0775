"""Every classifier of torchvision by name, with a stem for gray images and a head of the right size. First weights: weights.py."""

import re
from collections.abc import Callable
from typing import Any, ClassVar

import torchvision
from pydantic import ConfigDict, Field
from torch import nn
from torchvision.models import get_model, get_model_builder, get_model_weights, list_models

from cxr_ray.errors import UserError
from cxr_ray.models.family import LRP, MAPS, Family
from cxr_ray.models.heads import gray_stem, replace_head
from cxr_ray.models.skeleton import Skeleton
from cxr_ray.registry import MODELS

IMAGENET_CLASSES = 1000
# The cosine attention of Swin v2 has no rule of relevance propagation.
WITHOUT_RELEVANCE = re.compile("swin_v2")
SCALED_BY_HALF = ("googlenet", "inception_v3")


class TorchvisionOptions(Family):
    """torchvision's classifiers have no options of their own here."""

    published_parameters: ClassVar[int]
    """Number of weights of torchvision's own network, for colour and 1,000 classes."""


class GoogLeNetOptions(TorchvisionOptions):
    """GoogLeNet's auxiliary heads."""

    auxiliary: float = Field(default=0.3, ge=0.0)
    """Weight of the loss of each of its two auxiliary heads in training (Szegedy et al. 2015: 0.3); 0 leaves them out."""


def _options(name: str) -> type[TorchvisionOptions]:
    """The Options class of torchvision's `name`, from the metadata of its default weights."""
    weights = get_model_weights(name).DEFAULT
    side = int(weights.transforms.keywords["crop_size"])
    methods = MAPS if WITHOUT_RELEVANCE.match(name) else (*MAPS, *LRP)
    base = GoogLeNetOptions if name == "googlenet" else TorchvisionOptions
    attributes: dict[str, Any] = {
        "natural_size": (side, side),
        "explained_by": methods,
        "published_parameters": int(weights.meta["num_params"]),
    }
    # Fields and docstrings are the base's; searching the source for more would take seconds for eighty classes.
    attributes["model_config"] = ConfigDict(use_attribute_docstrings=False)
    return type(f"{name}_options", (base,), {"__module__": __name__, "__doc__": base.__doc__, **attributes})


def _about(name: str) -> str:
    """The first sentence of torchvision's own docstring, without its markup."""
    text = " ".join((get_model_builder(name).__doc__ or "").strip().split("\n\n")[0].split())
    text = re.sub(r"`+([^`<]*?)\s*(?:<[^>]*>)?`+_*", r"\1", text)
    text = re.sub(r"^Constructs? an? ", "", text).strip().rstrip(".:")
    # With published weights torchvision itself rescales the input of these two, from ImageNet's mean and deviation.
    scaled = "; its published weights go with data.normalize: [0.5, 0.5]" if name in SCALED_BY_HALF else ""
    return f"torchvision: {text or name}{scaled}"


def _build(name: str, image_size: tuple[int, int], *, auxiliary: bool) -> nn.Module:
    """torchvision's network `name` for colour images of `image_size`, with 1,000 outputs and random weights."""
    height, width = image_size
    settings: dict[str, Any] = {}
    if name in SCALED_BY_HALF:  # the two that have auxiliary heads
        # Inception's is left out: it cannot take images smaller than 299 px.
        settings = {"aux_logits": auxiliary, "init_weights": True}
    elif name.startswith("vit_"):
        if height != width:
            raise UserError(
                f"{name} takes square images, not {height} x {width}: set data.image_size to two equal numbers"
            )
        settings = {"image_size": height}
    elif name.startswith("maxvit"):
        settings = {"input_size": image_size}
    try:
        network: nn.Module = get_model(name, weights=None, **settings)
    except (AssertionError, ValueError) as error:
        unit = _unit(name)
        if unit is None:
            raise
        raise UserError(
            f"{name} splits images into patches of {unit} x {unit}, and {height} x {width} is no multiple of that: "
            f"set data.image_size to a multiple of {unit}, such as [{_near(height, unit)}, {_near(width, unit)}]"
        ) from error
    return network


def _unit(name: str) -> int | None:
    """What each side must be a multiple of; None for any size."""
    if name.startswith("vit_"):
        with Skeleton():
            return int(get_model(name, weights=None).patch_size)
    # MaxViT halves the size five times, and the last four sizes must be multiples of 7, its partition size.
    return 224 if name.startswith("maxvit") else None


def _near(side: int, unit: int) -> int:
    return max(unit, side // unit * unit)


def _maker(name: str) -> Callable[..., nn.Module]:
    def make(*, outputs: int, channels: int, image_size: tuple[int, int], options: TorchvisionOptions) -> nn.Module:
        weight = options.auxiliary if isinstance(options, GoogLeNetOptions) else 0.0
        network = _build(name, image_size, auxiliary=weight > 0.0)
        if channels == 1:
            gray_stem(network)
        replace_head(network, IMAGENET_CLASSES, outputs)
        if weight > 0.0:
            network.auxiliary, network.auxiliary_weight = ("aux1", "aux2"), weight  # type: ignore[assignment]
            for name_of_aux in ("aux1", "aux2"):
                replace_head(network.get_submodule(name_of_aux), IMAGENET_CLASSES, outputs)
        return network

    make.__doc__ = _about(name)
    make.__qualname__ = f"torchvision.{name}"
    return make


for _name in list_models(module=torchvision.models):
    MODELS.register(_name, _options(_name))(_maker(_name))
