"""Numbers as pages show them."""

import pytest

from cxr_ray.report.render import interval, span


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ((0.712, 0.834), "0.71 to 0.83"),
        ((0.9961, 0.9989), "0.996 to 0.999"),  # not 1.00 to 1.00
        ((0.99951, 0.99972), "0.9995 to 0.9997"),
        ((1.0, 1.0), ""),
        ((-0.2, 0.1), "−0.20 to 0.10"),
    ],
)
def test_an_interval_has_as_many_decimals_as_tell_its_ends_apart(ends: tuple[float, float], text: str) -> None:
    assert span(ends) == text == interval({"low": ends[0], "high": ends[1]})
    assert interval({"value": 1.0}) == interval(None) == ""
