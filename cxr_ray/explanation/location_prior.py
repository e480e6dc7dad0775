"""The location prior: where findings of a label usually are, without any model. A map that tells more must score higher.

Chance by area is no baseline: one fixed point hits 0.389 of NIH's published boxes and 0.986 of Cardiomegaly, whose boxes cover 0.075
and 0.176 of the image.
"""
# N annotated images, H height, W width

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from cxr_ray.errors import UserError
from cxr_ray.explanation.localisation import hits

Masks = npt.NDArray[np.bool_]
Array = npt.NDArray[np.float64]


def location_prior(masks_NHW: Masks, labels_N: Sequence[str]) -> dict[str, Array]:
    """Label to its mean mask [H, W] over the annotated images of the training part, which every score takes as if it were a map.

    Its maximum is the most covered point."""
    label_N = np.asarray(labels_N)
    return {str(label): masks_NHW[label_N == label].mean(axis=0) for label in np.unique(label_N)}


def prior_maps(prior: Mapping[str, Array], labels_N: Sequence[str]) -> Array:
    """The prior of each image's label [N, H, W]. Raises `UserError` for a label without annotations in the training part."""
    missing = sorted(set(labels_N) - set(prior))
    if missing:
        raise UserError(
            f"{missing[0]} has no annotation in the training part, so there is no location prior to compare with; "
            "annotate training images too, or leave the label out"
        )
    return np.stack([prior[label] for label in labels_N])


def left_out_hits(masks_NHW: Masks) -> Array:
    """Whether the most covered point of all other images' masks is in each image's mask [N], of one label: the hit rate of a
    fixed point where there is no training part; the first of equally covered points."""
    if len(masks_NHW) < 2:
        raise ValueError(f"{len(masks_NHW)} masks: leaving one out needs two")
    total_HW = masks_NHW.sum(axis=0)
    return np.concatenate(
        [hits((total_HW - mask_HW)[None].astype(np.float64), mask_HW[None], ties="first") for mask_HW in masks_NHW]
    )
