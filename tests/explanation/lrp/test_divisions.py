"""Each division of an affine layer against the papers' rule with every z_ij written out, for any geometry of a convolution."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cxr_ray.explanation.lrp.affine import AffineRule
from cxr_ray.explanation.lrp.divisions import AlphaBeta, Box, Division, Epsilon, Flat, Gamma
from cxr_ray.explanation.lrp.recorder import record
from cxr_ray.explanation.lrp.rules import Share
from tests.explanation.lrp import papers
from tests.explanation.lrp.networks import images, randomised
from tests.explanation.lrp.papers import numbers


def divide(layer: nn.Module, x: Tensor, division: Division, c: Tensor) -> tuple[Tensor, Share]:
    """Relevance of the inputs of one layer whose outputs have the coefficients `c`, and the share."""
    tape = record(nn.Sequential(layer, nn.Flatten()), x)
    rule = tape.steps[0].rule
    assert isinstance(rule, AffineRule)
    with torch.no_grad():
        share = division.divide(rule.affine(tape.steps[0]), c, len(x))
    return (share.coefficients[0] * x if share.relevance is None else share.relevance), share


GEOMETRIES = st.fixed_dictionaries(
    {
        "kernel_size": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "stride": st.integers(1, 3),
        "padding": st.integers(0, 2),
        "dilation": st.integers(1, 2),
        "bias": st.booleans(),
    }
)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6), groups=st.integers(1, 2), geometry=GEOMETRIES, rule=st.sampled_from(range(6)), positive=st.booleans()
)  # fmt: skip
def test_convolutions_of_any_geometry(
    seed: int, groups: int, geometry: dict[str, Any], rule: int, positive: bool
) -> None:
    layer = randomised(nn.Conv2d(2 * groups, groups, groups=groups, **geometry), seed)
    assert isinstance(layer, nn.Conv2d)
    x = images(seed + 1, 2, 2 * groups, 5, 6)
    x = x.abs() if positive else x
    W, b, connected, _ = papers.convolution(layer, tuple(x.shape[1:]))  # type: ignore[arg-type]
    low, high = float(x.min()), float(x.max())
    ours, theirs = [
        (Epsilon(0.2), papers.epsilon(0.2)), (AlphaBeta(2.0, 1.0), papers.alphabeta(2.0, 1.0)),
        (AlphaBeta(1.0, 0.0), papers.alphabeta(1.0, 0.0)), (Gamma(0.5), papers.gamma(0.5)), (Flat(), papers.flat(connected)),
        (Box(low, high), papers.box(low, high)),
    ][rule]  # fmt: skip
    z = layer(x).detach()
    c = images(seed + 2, *z.shape)
    found, share = divide(layer, x, ours, c)
    for n in range(2):
        R = numbers(z[n] * c[n]).ravel()
        if isinstance(ours, Flat):
            R = R * (connected.sum(1) > 0)
        wanted = theirs(numbers(x[n]).ravel(), W, b, R)
        assert np.abs(numbers(found[n]).ravel() - wanted).max() <= 1e-10 * max(1.0, float(np.abs(wanted).max()))
        absorbed = [float(torch.as_tensor(part).expand(2)[n]) for part in (share.bias, share.epsilon)]
        assert wanted.sum() + sum(absorbed) == pytest.approx(float((z[n] * c[n]).sum()), rel=1e-9, abs=1e-9)


def test_padding_by_name() -> None:
    x = images(1, 1, 1, 6, 6)
    for padding, number in (("same", 1), ("valid", 0)):
        named = randomised(nn.Conv2d(1, 2, 3, padding=padding), 3)
        plain = randomised(nn.Conv2d(1, 2, 3, padding=number), 3)
        c = torch.ones_like(named(x)).detach()
        assert torch.equal(divide(named, x, Epsilon(0.1), c)[0], divide(plain, x, Epsilon(0.1), c)[0])


def test_flat_gives_pixels_under_padding_nothing() -> None:
    layer = randomised(nn.Conv2d(1, 1, 3, padding=1, bias=False), 0)
    x = images(1, 1, 1, 3, 3)
    found, share = divide(layer, x, Flat(), 1.0 / layer(x).detach())  # every output has the relevance 1
    corner = 1 / 4 + 2 / 6 + 1 / 9  # under the outputs at the corner, at two edges and in the middle
    assert float(found[0, 0, 0, 0]) == pytest.approx(corner)
    assert float(found.sum()) == pytest.approx(9.0) and share.bias == 0.0


def test_box_takes_its_bounds_from_each_image() -> None:
    layer, x = randomised(nn.Conv2d(1, 2, 2), 0), images(1, 2, 1, 3, 3)
    c = images(2, 2, 2, 2, 2)
    found, _ = divide(layer, x, Box(), c)
    for n in range(2):
        one, _ = divide(layer, x[n : n + 1], Box(float(x[n].min()), float(x[n].max())), c[n : n + 1])
        assert torch.allclose(found[n], one[0])
