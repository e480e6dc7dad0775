"""What the settings of a training on features (`data.features`) must be, and what their defaults become."""

from cxr_ray import config as cfg
from cxr_ray.errors import UserError

AUGMENTATIONS = ("probability", "flip", "erase", "mixup")
"""Settings of `augment` that are each off at 0."""


def resolve(config: cfg.Config) -> cfg.Config:
    """`config`, on features without the augmentation and the low precision that are defaults for images.

    Raises `UserError` for settings of images that were set to something else than their default."""
    if config.data.features is None:
        return config
    defaults = cfg.Augment().model_dump()
    changed = [k for k in sorted(config.augment.model_fields_set) if getattr(config.augment, k) != defaults[k]]
    if any(k != "probability" or config.augment.probability for k in changed):
        raise _no_meaning(f"augment.{changed[0]}", "features of images cannot be augmented: leave it out")
    augment = config.augment.model_copy(update={"probability": 0.0})
    update: dict[str, object] = {"augment": augment}
    if config.train.precision == "auto":  # a linear head computes in float32 in any case
        update["train"] = config.train.model_copy(update={"precision": "fp32"})
    return config.model_copy(update=update)


def check(config: cfg.Config) -> None:
    """Raises `UserError` for a setting that has no meaning on features, also one that a sweep chose."""
    if config.data.features is None:
        return
    data, model = config.data, config.model
    for name in AUGMENTATIONS:
        if getattr(config.augment, name):
            raise _no_meaning(f"augment.{name}", "features of images cannot be augmented: set it to 0")
    if model.name != "linear":
        raise _no_meaning(f"model.name: {model.name}", "it takes images: set model.name to linear")
    if model.weights != "none":
        raise _no_meaning("model.weights", "the head starts at zero, and the features are made already: set it to none")
    if model.head != "replace" or model.dropout_where != "head":
        raise _no_meaning("model.head: append or model.dropout_where: maps", "the model is only a head")
    if data.image_size is not None:
        raise _no_meaning("data.image_size", "`cxr-ray embed --image-size` decides it: leave it out")
    if data.normalize not in ("dataset", "none"):
        raise _no_meaning(f"data.normalize: {data.normalize}", "set it to dataset or none")


def _no_meaning(setting: str, why: str) -> UserError:
    return UserError(f"{setting} has no meaning with data.features: {why}")
