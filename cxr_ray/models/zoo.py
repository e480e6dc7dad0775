"""Every classifier of torchvision by its name, with a stem for gray images and a head of the right size.

Architectures only: which weights they start from is the affair of weights.py.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, ClassVar

import torchvision
from torch import nn
from torchvision.models import get_model, get_model_builder, get_model_weights, list_models

from cxr_ray.errors import UserError
from cxr_ray.models.ends import Skeleton, gray_stem, replace_head
from cxr_ray.registry import MODELS, Options

IMAGENET_CLASSES = 1000
# Their second and third heads (aux) serve training alone and give several outputs: the classifier here has one.
WITH_AUX = {"googlenet", "inception_v3"}


class ZooOptions(Options):
    """torchvision's classifiers have no options of their own here."""

    natural_size: ClassVar[tuple[int, int]] = (224, 224)


@lru_cache
def _options(size: int) -> type[ZooOptions]:
    class Sized(ZooOptions):
        """torchvision's classifiers have no options of their own here."""

        natural_size: ClassVar[tuple[int, int]] = (size, size)

    return Sized


def _natural_size(name: str) -> int:
    """Side in pixels of the images that torchvision's default weights were judged on."""
    size = get_model_weights(name).DEFAULT.transforms.keywords["crop_size"]
    return int(size)


def _about(name: str) -> str:
    """The first sentence of torchvision's own docstring, without its markup."""
    text = " ".join((get_model_builder(name).__doc__ or "").strip().split("\n\n")[0].split())
    text = re.sub(r"`+([^`<]*?)\s*(?:<[^>]*>)?`+_*", r"\1", text)
    text = re.sub(r"^Constructs? an? ", "", text).strip().rstrip(".:")
    return f"torchvision: {text or name}"


def _build(name: str, image_size: tuple[int, int]) -> nn.Module:
    """torchvision's network `name` for images of `image_size`, in colour, with 1,000 outputs, untrained."""
    height, width = image_size
    settings: dict[str, Any] = {}
    if name in WITH_AUX:
        settings = {"aux_logits": False, "init_weights": True}
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
            f"{name} cuts images into pieces of {unit} x {unit}, which {height} x {width} does not divide into: "
            f"set data.image_size to a multiple of {unit}, such as [{_near(height, unit)}, {_near(width, unit)}]"
        ) from error
    return network


def _unit(name: str) -> int | None:
    """What a side must be a multiple of; None where any size will do."""
    if name.startswith("vit_"):
        with Skeleton():
            return int(get_model(name, weights=None).patch_size)
    # MaxViT halves five times, and each of the last four sizes must divide into partitions of 7 x 7.
    return 224 if name.startswith("maxvit") else None


def _near(side: int, unit: int) -> int:
    return max(unit, side // unit * unit)


def _maker(name: str) -> Callable[..., nn.Module]:
    def make(*, outputs: int, channels: int, image_size: tuple[int, int], options: ZooOptions) -> nn.Module:
        network = _build(name, image_size)
        if channels == 1:
            gray_stem(network)
        replace_head(network, IMAGENET_CLASSES, outputs)
        return network

    make.__doc__ = _about(name)
    make.__qualname__ = f"zoo.{name}"
    return make


for _name in list_models(module=torchvision.models):
    MODELS.register(_name, _options(_natural_size(_name)))(_maker(_name))
