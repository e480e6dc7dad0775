"""The arithmetic of convolution and pooling, against the book's worked numbers, loops and torch; filters and feature maps."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from cxr_ray.errors import UserError
from cxr_ray.explanation import teaching
from cxr_ray.models.create import create_model

NINE = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


def test_the_worked_convolution() -> None:
    """37, 47, 67, 77 is what [[1, 2], [3, 4]] gives; with [[1, 2], [4, 5]], as the exercise prints the kernel, it is 46 to 94."""
    np.testing.assert_array_equal(teaching.convolve(NINE, [[1, 2], [3, 4]]), [[37, 47], [67, 77]])
    np.testing.assert_array_equal(teaching.convolve(NINE, [[1, 2], [4, 5]]), [[46, 58], [82, 94]])


def test_the_worked_poolings() -> None:
    np.testing.assert_array_equal(teaching.pool(NINE, 2, stride=1), [[5, 6], [8, 9]])
    np.testing.assert_array_equal(teaching.pool(NINE, 2, kind="mean", stride=1), [[3, 4], [6, 7]])


def test_the_exercises_with_padding_and_stride() -> None:
    np.testing.assert_array_equal(
        teaching.convolve(NINE, [[1, 2], [3, 4]], padding=1),
        [[4, 11, 18, 9], [18, 37, 47, 21], [36, 67, 77, 33], [14, 23, 26, 9]],
    )
    np.testing.assert_array_equal(teaching.convolve(NINE, [[1, 2], [3, 4]], padding=1, stride=2), [[4, 18], [36, 77]])
    np.testing.assert_array_equal(teaching.pool(NINE, 2, padding=1), [[1, 3], [7, 9]])


@given(
    st.integers(3, 9), st.integers(3, 9), st.integers(1, 3), st.integers(1, 3), st.integers(0, 1), st.integers(0, 99)
)
def test_convolution_and_pooling_are_torchs(
    height: int, width: int, side: int, stride: int, padding: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    image, kernel = rng.normal(size=(height, width)), rng.normal(size=(side, side))
    as_torch = torch.from_numpy(image)[None, None]
    theirs = F.conv2d(as_torch, torch.from_numpy(kernel)[None, None], stride=stride, padding=padding)[0, 0].numpy()
    np.testing.assert_allclose(teaching.convolve(image, kernel, stride=stride, padding=padding), theirs)
    if padding * 2 <= side:
        for kind, their_pool in (("max", F.max_pool2d), ("mean", F.avg_pool2d)):
            ours = teaching.pool(image, side, kind=kind, stride=stride, padding=padding)  # type: ignore[arg-type]
            np.testing.assert_allclose(ours, their_pool(as_torch, side, stride, padding)[0, 0].numpy())


def test_sobels_kernels_are_named_by_the_edges_that_they_find() -> None:
    vertical, horizontal = np.zeros((9, 9)), np.zeros((9, 9))
    vertical[:, 5:] = horizontal[5:] = 1
    assert np.abs(teaching.convolve(vertical, teaching.VERTICAL_EDGES)).max() == 4
    assert not teaching.convolve(vertical, teaching.HORIZONTAL_EDGES).any()
    assert np.abs(teaching.convolve(horizontal, teaching.HORIZONTAL_EDGES)).max() == 4
    assert not teaching.convolve(horizontal, teaching.VERTICAL_EDGES).any()
    diagonal = np.add.outer(np.arange(9), np.arange(9)) > 8.0
    across = np.flip(diagonal, axis=1)
    own = np.abs(teaching.convolve(diagonal, teaching.DIAGONAL_EDGES))
    assert own.max() > np.abs(teaching.convolve(across, teaching.DIAGONAL_EDGES)).max()


def test_pooling_again_and_again() -> None:
    image = np.arange(16 * 16, dtype=float).reshape(16, 16)
    sizes = [each.shape for each in teaching.pooled(image, 3)]
    assert sizes == [(8, 8), (4, 4), (2, 2)]
    assert [each.shape for each in teaching.pooled(image[:5, :5], 3)] == [(2, 2), (1, 1)]
    assert teaching.pooled(image, 3)[2][-1, -1] == 255


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0,1;-1,0", [[0, 1], [-1, 0]]), ("[[0, 1.5]]", [[0, 1.5]]), ("diagonal", teaching.DIAGONAL_EDGES)],
)
def test_kernels_are_read(text: str, expected: list[list[float]]) -> None:
    np.testing.assert_array_equal(teaching.read_kernel(text), expected)


@pytest.mark.parametrize("text", ["1,2;3", "a,b", "[[1, 2], [3]]", "", "[1, 2]", "1,nan"])
def test_a_kernel_that_cannot_be_read_is_one_line(text: str) -> None:
    with pytest.raises(UserError, match=r"kernel.*write rows of numbers"):
        teaching.read_kernel(text)


def test_what_does_not_fit_is_one_line() -> None:
    with pytest.raises(UserError, match="4 x 4 does not fit into 3 x 3"):
        teaching.convolve(NINE, np.ones((4, 4)))
    with pytest.raises(UserError, match="padding 2 is more than half"):
        teaching.pool(NINE, 3, padding=2)
    with pytest.raises(UserError, match="stride is at least 1"):
        teaching.pool(NINE, 2, stride=-1)
    with pytest.raises(UserError, match="window of 4 is larger"):
        teaching.pooled(NINE, size=4)
    with pytest.raises(UserError, match="no convolution"):
        teaching.first_filters(nn.Sequential(nn.Flatten(), nn.Linear(9, 2)))
    with pytest.raises(UserError, match="no layer"):
        teaching.feature_maps(nn.Sequential(nn.Flatten(), nn.Linear(9, 2)), torch.zeros(1, 1, 3, 3))


def test_filters_and_stages_of_lenet() -> None:
    network = create_model("lenet", num_outputs=3, image_size=28).backbone.eval()
    filters = teaching.first_filters(network)
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    np.testing.assert_array_equal(filters, first.weight.detach().numpy()[:, 0])
    stages = teaching.feature_maps(network, torch.rand(1, 1, 28, 28))
    assert [stage.maps.shape for stage in stages] == [(6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 5, 5)]
