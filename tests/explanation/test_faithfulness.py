"""Deletion and insertion, on a network whose evidence is known."""

import numpy as np
import pytest
import torch
from torch import nn

from cxr_ray.explanation.faithfulness import RANDOM, Blocks, CurveSettings, area_under, faithfulness, probability_curve

SETTINGS = CurveSettings(task="multilabel", side=2, steps=9, orders=20, baseline=0.0)


class Corner(nn.Module):
    """The logit of output 1 is the sum over the 2 x 2 corner at the top left, that of output 0 is 0."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = x[:, 0, :2, :2].sum((1, 2))
        return torch.stack([torch.zeros_like(found), found], dim=1)


def test_blocks_number_every_pixel_and_the_last_ones_may_be_smaller() -> None:
    blocks = Blocks((3, 5), 2)
    assert blocks.number_HW.tolist() == [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]] and blocks.count == 6
    assert Blocks((64, 32)).side == 2 and Blocks((8, 8)).side == 1


def test_blocks_are_ordered_by_their_mean() -> None:
    one = np.zeros((1, 3, 5))
    one[0, 2, 4], one[0, 0, 0], one[0, 0, 2] = 1.0, 3.0, 5.0  # means 1, 0.75, 1.25
    assert Blocks((3, 5), 2).by_relevance(one)[0].tolist() == [1, 5, 0, 2, 3, 4]


def test_a_curve_changes_block_after_block() -> None:
    x, order = torch.ones((1, 1, 6, 6)), np.array([[4, 0, 1, 2, 3, 5, 6, 7, 8]])
    high = 1 / (1 + np.exp(-4.0))
    curve = probability_curve(Corner(), x, torch.tensor([1]), order, SETTINGS)
    np.testing.assert_allclose(curve[0], [high, high, *[0.5] * 8], rtol=1e-6)
    inserted = probability_curve(Corner(), x, torch.tensor([1]), order, SETTINGS, insert=True)
    np.testing.assert_allclose(inserted[0], [0.5, 0.5, *[high] * 8], rtol=1e-6)
    np.testing.assert_allclose(area_under(curve), [np.trapezoid(curve[0], dx=1 / 9)])
    classes = probability_curve(
        Corner(), x, torch.tensor([1]), order, CurveSettings(task="multiclass", side=2, steps=9, baseline=0.0)
    )
    np.testing.assert_allclose(classes[0, [0, -1]], [high, 0.5], rtol=1e-6)


def test_a_right_map_beats_the_random_order_and_a_wrong_one_does_not() -> None:
    x, targets = torch.rand((3, 1, 6, 6)) + 0.5, torch.tensor([1, 1, 1])
    right, wrong = np.zeros((3, 6, 6)), np.ones((3, 6, 6))
    right[:, :2, :2] = 1.0
    wrong[:, :2, :2] = 0.0
    found = faithfulness(Corner(), x, targets, {"right": right, "wrong": wrong}, SETTINGS)
    assert (found["right"]["deletion"] < found[RANDOM]["deletion"]).all()
    assert (found["right"]["insertion"] > found[RANDOM]["insertion"]).all()
    assert (found["wrong"]["deletion"] > found[RANDOM]["deletion"]).all()
    alone = faithfulness(Corner(), x[1:2], targets[:1], {}, SETTINGS)
    assert alone[RANDOM]["deletion"][0] == pytest.approx(found[RANDOM]["deletion"][1])


def test_deleted_blocks_are_blurred_by_default() -> None:
    x = torch.zeros((1, 1, 40, 40))
    x[0, 0, :2, :2] = 8.0
    offset = np.arange(-39, 40)
    weight = np.exp(-(offset[abs(offset) <= 12] ** 2) / (2 * 4.0**2))
    weight /= weight.sum()
    padded = np.pad(x[0, 0].numpy(), 12, mode="reflect")
    blurred = [[(np.outer(weight, weight) * padded[r : r + 25, c : c + 25]).sum() for c in range(2)] for r in range(2)]
    settings = CurveSettings(task="multilabel", side=40, steps=1)
    curve = probability_curve(Corner(), x, torch.tensor([1]), np.array([[0]]), settings)
    np.testing.assert_allclose(curve[0, 1], 1 / (1 + np.exp(-np.sum(blurred))), rtol=1e-4)
