"""Scores of maps against masks, each against its definition in loops."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ray.datasets.annotations import read_annotations
from cxr_ray.errors import UserError
from cxr_ray.explanation import localisation as loc
from cxr_ray.explanation.location_prior import left_out_hits, location_prior, prior_maps
from cxr_ray.imaging.pixels import Transform
from cxr_ray.imaging.shapes import Placement


@st.composite
def pictures(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Maps with few gray levels, so that they have ties, and masks with at least one pixel."""
    n, h, w = draw(st.integers(1, 3)), draw(st.integers(1, 6)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    maps = rng.integers(-2, draw(st.integers(-1, 5)), (n, h, w)) / 4
    masks = rng.random((n, h, w)) < 0.4
    masks[:, rng.integers(h), rng.integers(w)] = True
    return maps, masks


@settings(max_examples=150, deadline=None)
@given(pictures())
def test_every_score_equals_its_definition(case: tuple[np.ndarray, np.ndarray]) -> None:
    maps, masks = case
    for at, (one, mask) in enumerate(zip(maps, masks, strict=True)):
        top = [mask[i] for i in np.ndindex(one.shape) if one[i] == one.max()]
        assert loc.hits(maps, masks)[at] == pytest.approx(sum(top) / len(top))
        assert loc.hits(maps, masks, ties="first")[at] == mask[np.unravel_index(one.argmax(), one.shape)]
        scaled = (one - one.min()) / (one.max() - one.min()) if one.max() > one.min() else np.zeros_like(one)
        np.testing.assert_allclose(loc.normalized(maps)[at], scaled)
        for threshold in (0.2, 0.55):
            marked = scaled > threshold
            assert loc.iou(maps, masks, threshold)[at] == pytest.approx((marked & mask).sum() / (marked | mask).sum())
        positive = sum(max(one[i], 0) for i in np.ndindex(one.shape))
        inside = sum(max(one[i], 0) for i in np.ndindex(one.shape) if mask[i])
        assert loc.energy_inside(maps, masks)[at] == pytest.approx(
            inside / positive if positive else np.nan, nan_ok=True
        )
        assert loc.focus(maps, masks)[at] == pytest.approx(scaled[mask].mean())
        ap, recall_before = 0.0, 0.0
        for level in sorted(set(one.ravel().tolist()), reverse=True):
            above = one >= level
            recall = (above & mask).sum() / mask.sum()
            ap += (recall - recall_before) * (above & mask).sum() / above.sum()
            recall_before = recall
        assert loc.pixel_auprc(maps, masks)[at] == pytest.approx(ap)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 8))
def test_otsus_threshold_separates_the_classes_best(seed: int, side: int) -> None:
    one = np.random.default_rng(seed).integers(0, 12, (1, side, side)) / 11
    gray = np.rint(loc.normalized(one)[0] * 255)
    if gray.max() == gray.min():
        return

    def between(limit: int) -> float:
        low, high = gray[gray <= limit], gray[gray > limit]
        if not len(low) or not len(high):
            return -1.0
        return len(low) * len(high) * (low.mean() - high.mean()) ** 2

    best = max(range(256), key=between)
    np.testing.assert_array_equal(loc.normalized(one)[0] > loc.otsu(one)[0], gray > best)


def test_a_constant_map_marks_nothing_and_hits_by_its_area() -> None:
    maps, masks = np.full((1, 4, 4), 0.7), np.zeros((1, 4, 4), bool)
    masks[0, :2, :2] = True
    assert loc.hits(maps, masks)[0] == 0.25
    assert loc.pixel_auprc(maps, masks)[0] == 0.25
    assert loc.iou(maps, masks, loc.otsu(maps))[0] == 0.0
    assert np.isnan(loc.energy_inside(np.zeros((1, 4, 4)), masks)[0])


def test_negative_relevance_is_left_out_before_it_is_blurred() -> None:
    maps = np.zeros((1, 21, 21))
    maps[0, 10, 10], maps[0, 3, 3] = 1.0, -5.0
    found = loc.positive(maps, blur=0.1)
    assert found.min() >= 0 and found[0].argmax() == 10 * 21 + 10
    x = np.arange(21) - 10.0
    weight = np.exp(-(x**2) / (2 * 2.1**2))
    expected = np.outer(weight, weight) / weight.sum() ** 2
    np.testing.assert_allclose(found[0], expected, atol=2e-4)
    np.testing.assert_array_equal(loc.positive(maps), np.maximum(maps, 0))
    with pytest.raises(ValueError, match="not finite"):
        loc.positive(np.full((1, 2, 2), np.nan))


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_cutoff_and_the_threshold_are_the_best_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 6)), int(rng.integers(0, 6))
    iou, probability, negative = rng.random(n), rng.integers(0, 5, n) / 4, rng.integers(0, 5, m) / 4

    def mean(cutoff: float) -> float:
        cells = [value if p >= cutoff else 0.0 for value, p in zip(iou, probability, strict=True)]
        return float(np.mean(cells + [0.0 for p in negative if p >= cutoff]))

    chosen = loc.tuned_cutoff(iou, probability, negative)
    assert mean(chosen) == pytest.approx(max(mean(cutoff) for cutoff in probability))
    positives, negatives = loc.iou_of_all(iou, probability, negative, chosen)
    assert np.nanmean(np.concatenate([positives, negatives])) == pytest.approx(mean(chosen))
    maps, masks = rng.random((3, 5, 5)), rng.random((3, 5, 5)) < 0.5
    masks[:, 0, 0] = True
    threshold = loc.tuned_threshold(maps, masks)
    assert loc.iou(maps, masks, threshold).mean() == max(loc.iou(maps, masks, t).mean() for t in loc.THRESHOLDS)


def test_maps_and_masks_of_different_sizes_and_empty_masks_are_refused() -> None:
    with pytest.raises(ValueError, match="differ"):
        loc.hits(np.zeros((1, 4, 4)), np.ones((1, 4, 5), bool))
    with pytest.raises(ValueError, match="no pixel"):
        loc.hits(np.zeros((1, 4, 4)), np.zeros((1, 4, 4), bool))


def test_the_location_prior_is_the_mean_mask_of_a_label() -> None:
    masks = np.zeros((3, 2, 2), bool)
    masks[0, 0, 0] = masks[1, 0, 0] = masks[1, 1, 1] = masks[2, 0, 1] = True
    prior = location_prior(masks, ["a", "a", "b"])
    np.testing.assert_array_equal(prior["a"], [[1.0, 0.0], [0.0, 0.5]])
    np.testing.assert_array_equal(prior_maps(prior, ["b", "a"]), [prior["b"], prior["a"]])
    with pytest.raises(UserError, match="c has no annotation in the training part"):
        prior_maps(prior, ["a", "c"])


def test_the_published_boxes_are_hit_by_one_fixed_point(published_tables: Path, tmp_path: Path) -> None:
    """NIH's list: the most covered point of all other images' boxes of a label, on a grid of 64 x 64, hits 0.389 of all boxes."""
    text = gzip.decompress((published_tables / "BBox_List_2017.csv.gz").read_bytes()).decode()
    header, _, body = text.partition("\n")
    (tmp_path / "boxes.csv").write_text(
        header.rstrip(",\r") + "\n" + body
    )  # its header has three columns more than its rows
    items = read_annotations(str(tmp_path / "boxes.csv")).items
    assert len(items) == 984
    grid = Placement((1024, 1024), Transform(1 / 16, 1 / 16, 0.0, 0.0), (64, 64), (64, 64))
    masks = np.stack([grid.rasterize(item.parts(), item.frame) for item in items])
    labels = np.array([item.label for item in items])
    found = {str(label): left_out_hits(masks[labels == label]) for label in np.unique(labels)}
    assert {label: round(float(hit.mean()), 3) for label, hit in found.items()} == {
        "Cardiomegaly": 0.986, "Infiltration": 0.480, "Pneumonia": 0.433, "Effusion": 0.333, "Pneumothorax": 0.296, "Mass": 0.200,
        "Atelectasis": 0.172, "Nodule": 0.000,
    }  # fmt: skip
    assert round(float(np.concatenate(list(found.values())).mean()), 3) == 0.389
