"""How well maps point at annotated findings, image by image: hit rate, IoU, pixel AUPRC, energy inside. Tables are in map_scores.py."""
# N images, H height, W width, P = H x W pixels, B bins of gray

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cxr_ray.metrics.ranking import ranked

Maps = npt.NDArray[np.floating]
Masks = npt.NDArray[np.bool_]
Array = npt.NDArray[np.float64]

THRESHOLDS = tuple(round(0.2 + 0.05 * at, 2) for at in range(13))
"""Thresholds of normalised maps among which `tuned_threshold` chooses: 0.2 to 0.8, as in CheXlocalize."""


def positive(maps_NHW: Maps, *, blur: float = 0.0) -> Array:
    """What raises the logit [N, H, W]: negative relevance is set to 0. Every score here takes maps of this kind.

    `blur`: standard deviation of a Gaussian, as a fraction of the shorter side, applied after it. A map of single pixels (gradients,
    LRP) points at a region only when neighbouring pixels are added up. Raises `ValueError` for a map that is not finite."""
    if not np.isfinite(maps_NHW).all():
        raise ValueError("a map has values that are not finite")
    kept = np.maximum(np.asarray(maps_NHW, dtype=np.float64), 0.0)
    if blur == 0.0:
        return kept
    sigma = blur * min(kept.shape[-2:])
    return np.asarray(ndimage.gaussian_filter(kept, sigma=(0.0, sigma, sigma), mode="constant"))


def normalized(maps_NHW: Maps) -> Array:
    """Each map from its minimum (0) to its maximum (1); a constant map is 0."""
    flat = np.asarray(maps_NHW, dtype=np.float64)
    low = flat.min(axis=(1, 2), keepdims=True)
    span = flat.max(axis=(1, 2), keepdims=True) - low
    return np.divide(flat - low, span, out=np.zeros_like(flat), where=span > 0)


def hits(maps_NHW: Maps, masks_NHW: Masks, *, ties: Literal["share", "first"] = "share") -> Array:
    """Whether the maximum of each map is inside its mask [N], 0 or 1: the pointing game (Zhang et al. 2016, arXiv:1608.00507).

    `ties`, if several pixels are the maximum. share: their share inside, so that a constant map scores the area of the mask;
    first: the first by row and column, as numpy's argmax, which CheXlocalize uses."""
    maps_NP, masks_NP = _flat(maps_NHW, masks_NHW)
    if ties == "first":
        return masks_NP[np.arange(len(maps_NP)), maps_NP.argmax(axis=1)].astype(np.float64)
    top_NP = maps_NP == maps_NP.max(axis=1, keepdims=True)
    return np.asarray((top_NP & masks_NP).sum(axis=1) / top_NP.sum(axis=1))


def otsu(maps_NHW: Maps) -> Array:
    """Otsu's threshold of each normalised map [N]: pixels above it are the foreground.

    The map is rounded to 256 grays, as published (CheXlocalize, OpenCV); the threshold maximises the variance between the two
    classes, the first of equals (Otsu 1979, doi:10.1109/TSMC.1979.4310076)."""
    gray_NP = np.rint(normalized(maps_NHW) * 255).astype(np.int64).reshape(len(maps_NHW), -1)
    thresholds = np.zeros(len(gray_NP))
    grays_B = np.arange(256)
    for at, gray_P in enumerate(gray_NP):
        count_B = np.bincount(gray_P, minlength=256)
        below_B, sum_B = np.cumsum(count_B), np.cumsum(count_B * grays_B)
        above_B = below_B[-1] - below_B
        with np.errstate(invalid="ignore", divide="ignore"):
            gap_B = sum_B / below_B - (sum_B[-1] - sum_B) / above_B
            variance_B = below_B * above_B * gap_B**2
        thresholds[at] = int(np.nanargmax(np.where((below_B > 0) & (above_B > 0), variance_B, -1.0)))
    # Half a gray higher, so that the rounded gray decides, as in the published code.
    return (thresholds + 0.5) / 255


def iou(maps_NHW: Maps, masks_NHW: Masks, thresholds: float | Array) -> Array:
    """Intersection over union [N] of each mask and the pixels of the normalised map above `thresholds` (one, or one per image [N]).

    0 where the map is constant, which marks nothing; NaN where both are empty."""
    limit_N11 = np.broadcast_to(np.asarray(thresholds, dtype=np.float64), (len(maps_NHW),))[:, None, None]
    marked_NHW = normalized(maps_NHW) > limit_N11
    both = (marked_NHW & masks_NHW).sum(axis=(1, 2)).astype(np.float64)
    either = (marked_NHW | masks_NHW).sum(axis=(1, 2))
    return np.divide(both, either, out=np.full(len(both), np.nan), where=either > 0)


def pixel_auprc(maps_NHW: Maps, masks_NHW: Masks) -> Array:
    """Average precision of each map's pixels [N] as a ranking of the mask's (Arun et al. 2021, doi:10.1148/ryai.2021200267).

    A constant map scores the mask's share of the image."""
    return np.array([ranked(mask_P, map_P)[1] for map_P, mask_P in zip(*_flat(maps_NHW, masks_NHW), strict=True)])


def energy_inside(maps_NHW: Maps, masks_NHW: Masks) -> Array:
    """Share of each map's positive relevance that lies inside the mask [N] (the energy-based pointing game, Wang et al. 2020,
    arXiv:1910.01279); NaN for a map without positive relevance."""
    maps_NP, masks_NP = _flat(np.maximum(maps_NHW, 0.0), masks_NHW)
    total = maps_NP.sum(axis=1)
    return np.divide((maps_NP * masks_NP).sum(axis=1), total, out=np.full(len(total), np.nan), where=total > 0)


def focus(maps_NHW: Maps, masks_NHW: Masks) -> Array:
    """Mean of the normalised map inside the mask [N] (average saliency focus, as mednet defines it)."""
    maps_NP, masks_NP = _flat(normalized(maps_NHW), masks_NHW)
    return np.asarray((maps_NP * masks_NP).sum(axis=1) / masks_NP.sum(axis=1))


def tuned_threshold(maps_NHW: Maps, masks_NHW: Masks, thresholds: Sequence[float] = THRESHOLDS) -> float:
    """The threshold with the highest mean IoU, to be used on other images; the lowest of equals."""
    means = [float(iou(maps_NHW, masks_NHW, threshold).mean()) for threshold in thresholds]
    return thresholds[int(np.argmax(means))]


def iou_of_all(iou_N: Array, probability_N: Array, negative_M: Array, cutoff: float) -> tuple[Array, Array]:
    """IoU by CheXlocalize's second protocol: (of positive images [N], of negative images [M]).

    An image whose probability is below `cutoff` gets no map. A positive image without a map scores 0, a negative image with one
    too; a negative image without a map is undefined (NaN) and not part of the mean."""
    return np.where(probability_N >= cutoff, iou_N, 0.0), np.where(negative_M >= cutoff, 0.0, np.nan)


def tuned_cutoff(iou_N: Array, probability_N: Array, negative_M: Array) -> float:
    """The cut-off of the probability with the highest mean IoU over all images; the lowest of equals."""
    candidates = np.unique(probability_N)
    positive_above = [(probability_N >= cutoff) for cutoff in candidates]
    found = [
        float(iou_N[above].sum()) / (len(iou_N) + int((negative_M >= cutoff).sum()))
        for above, cutoff in zip(positive_above, candidates, strict=True)
    ]
    return float(candidates[int(np.argmax(found))])


def _flat(maps_NHW: Maps, masks_NHW: Masks) -> tuple[Array, Masks]:
    if maps_NHW.shape != masks_NHW.shape:
        raise ValueError(f"maps {list(maps_NHW.shape)} and masks {list(masks_NHW.shape)} differ")
    if not masks_NHW.any(axis=(1, 2)).all():
        raise ValueError("a mask has no pixel: only annotated images have these scores")
    return np.asarray(maps_NHW, np.float64).reshape(len(maps_NHW), -1), masks_NHW.reshape(len(masks_NHW), -1)
