"""Models by name for people's own training loops. Models of a config are built by factory.py, which this calls."""

import math
import os
from typing import Any

from pydantic import ValidationError

from cxr_ray import config
from cxr_ray.config.image_sizes import read_size
from cxr_ray.errors import UserError, closest, requirement
from cxr_ray.models.classifier import GRAY_RANGE, Classifier
from cxr_ray.models.factory import build, family_of
from cxr_ray.registry import MODELS

IMAGENET_GRAY = (0.449, 0.226)
"""Averages over colours of torchvision's mean (0.485, 0.456, 0.406) and deviation (0.229, 0.224, 0.225)."""
SHARED = tuple(name for name in config.Model.model_fields if name not in ("name", "freeze_epochs", "options"))


def list_models() -> list[str]:
    """Names of the models: torchvision's classifiers, the small ones of this package, and those that loaded plugins have registered."""
    return [entry.name for entry in MODELS]


def create_model(
    name: str,
    num_outputs: int | None = None,
    *,
    value_range: tuple[float, float] = GRAY_RANGE,
    image_size: int | tuple[int, int] | None = None,
    normalize: tuple[float, float] = IMAGENET_GRAY,
    **options: Any,
) -> Classifier:
    """A classifier of gray images [N, H, W] or [N, 1, H, W], in train mode: logits [N, `num_outputs`].

    Resizing to `image_size` (pixels, one number or height and width; default: the model's usual input; smaller images are refused)
    and normalisation by `normalize` (mean and deviation of gray values scaled to 0 to 1) are part of it. uint8 images have values 0
    to 255; `value_range` is (black, white) of float images, such as (0, 1) after `v2.ToDtype(torch.float32, scale=True)`.
    `save_model` keeps all of this with the weights. `options`: stem, weights, dropout, dropout_where and head, as in a config's
    `model` section, and the model's own, as `cxr-ray models NAME` lists them. Raises `UserError` for an unknown name or option, and
    as `models.build` does."""
    entry = MODELS[name]
    own = dict(options.pop("options", {}))
    shared = {key: options.pop(key) for key in SHARED if key in options}
    shared |= {key: os.fspath(value) for key, value in shared.items() if isinstance(value, os.PathLike)}
    for key in options:
        if key not in entry.options.model_fields:
            known = ["num_outputs", "value_range", "image_size", "normalize", *SHARED, *entry.options.model_fields]
            raise UserError(
                f"create_model: unknown option {key!r} of {name}{closest(key, known)}; known: {', '.join(known)}"
            )
    if num_outputs is None:
        raise UserError(
            f"create_model needs the number of labels or classes, as in create_model({name!r}, num_outputs=len(store.labels))"
        )
    if not isinstance(num_outputs, int):
        raise UserError(f"create_model: num_outputs must be a whole number, got {num_outputs!r}")
    mean, deviation = _pair("normalize", normalize, "(mean, deviation)")
    black, white = _pair("value_range", value_range, "(black, white)")
    try:
        model = config.Model(name=name, options={**own, **options}, **shared)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"create_model: {first['loc'][0]}: {requirement(first['msg'])}, got {first['input']!r}"
        ) from None
    size = image_size if image_size is not None else family_of(entry).natural_size
    return build(
        model,
        outputs=num_outputs,
        image_size=read_size(size, name="create_model: image_size"),
        mean=mean,
        deviation=deviation,
        value_range=(black, white),
    )


def _pair(name: str, value: Any, meaning: str) -> tuple[float, float]:
    """Two finite numbers. Raises `UserError`."""
    try:
        first, second = (float(number) for number in value)
    except (TypeError, ValueError):
        raise UserError(f"create_model: {name} must be two numbers {meaning}, got {value!r}") from None
    if isinstance(value, str) or not (math.isfinite(first) and math.isfinite(second)):
        raise UserError(f"create_model: {name} must be two finite numbers {meaning}, got {value!r}")
    return first, second
