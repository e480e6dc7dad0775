"""Models: the `Classifier` (all preprocessing and a network), built by name."""

from cxr_ray.models.classifier import CHANNELS, Classifier, check_size, every_head, parameter_count
from cxr_ray.models.factory import build, family_of, from_description, skeletons

__all__ = [
    "CHANNELS",
    "Classifier",
    "build",
    "check_size",
    "every_head",
    "family_of",
    "from_description",
    "parameter_count",
    "skeletons",
]
