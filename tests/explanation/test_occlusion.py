"""Occlusion against captum, and against a loop over windows."""

import pytest
import torch
from captum import attr
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ray.errors import UserError
from cxr_ray.explanation.methods import attribute
from cxr_ray.explanation.occlusion import starts
from tests.explanation.networks import images, small_cnn


@pytest.mark.parametrize(("window", "stride", "baseline"), [(4, 2, 0.0), (5, 3, -1.5), (3, 3, 0.5), (12, 1, 0.0)])
def test_occlusion_equals_captum(window: int, stride: int, baseline: float) -> None:
    net, x, targets = small_cnn(channels=3).eval(), images(3, (14, 12), channels=3), torch.tensor([0, 2, 1])
    captum = attr.Occlusion(net).attribute(
        x, sliding_window_shapes=(3, window, window), strides=(3, stride, stride), baselines=baseline, target=targets
    )
    for batch in (1, 5, 64):
        found = attribute("occlusion", net, x, targets, window=window, stride=stride, baseline=baseline, batch=batch)
        torch.testing.assert_close(found.maps, captum[:, 0].double(), rtol=1e-5, atol=1e-6)
    assert float(found.maps.abs().max()) > 0


def test_black_is_each_images_lowest_value() -> None:
    net, x, targets = small_cnn().eval(), images(2, (12, 12)), torch.tensor([0, 1])
    for at in range(2):
        black = float(x[at].min())
        expected = attribute("occlusion", net, x[at : at + 1], targets[at : at + 1], baseline=black)
        found = attribute("occlusion", net, x, targets, baseline=None)
        torch.testing.assert_close(found.maps[at], expected.maps[0])


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.data())
def test_windows_cover_every_pixel(side: int, data: st.DataObject) -> None:
    window = data.draw(st.integers(1, side))
    stride = data.draw(st.integers(1, window))
    covered = [pixel for start in starts(side, window, stride) for pixel in range(start, min(start + window, side))]
    assert set(covered) == set(range(side))
    assert starts(side, window, stride)[-1] < side


@pytest.mark.parametrize(
    ("options", "message"), [({"window": 13}, "window of 13"), ({"window": 3, "stride": 4}, "leaves gaps")]
)
def test_a_window_that_does_not_fit_is_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        attribute("occlusion", small_cnn(), images(1, (12, 12)), torch.tensor([0]), **options)
