"""Models: the `Classifier` (all preprocessing and a network), built by name."""

from cxr_ray.models.classifier import (
    CHANNELS,
    GRAY_RANGE,
    Classifier,
    ClassifierSpec,
    check_size,
    head_logits,
    parameter_count,
)
from cxr_ray.models.factory import build, family_of, rebuild, skeletons

__all__ = [
    "CHANNELS",
    "GRAY_RANGE",
    "Classifier",
    "ClassifierSpec",
    "build",
    "check_size",
    "family_of",
    "head_logits",
    "parameter_count",
    "rebuild",
    "skeletons",
]
