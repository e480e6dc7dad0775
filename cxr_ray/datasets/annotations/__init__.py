"""Where readers marked findings or organs: boxes, outlines and masks as records that know nothing of models."""

from cxr_ray.datasets.annotations.base import ANNOTATIONS, Annotation, Annotations, read_annotations
from cxr_ray.datasets.annotations.placing import marked_masks, of_store, placement

__all__ = ["ANNOTATIONS", "Annotation", "Annotations", "marked_masks", "of_store", "placement", "read_annotations"]
