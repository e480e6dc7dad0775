"""Shapes as masks, against a drawn and ingested picture and against loops over pixels."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cxr_ray.imaging.decode import decode
from cxr_ray.imaging.pixels import Aspect, Transform
from cxr_ray.imaging.shapes import Box, Drawn, Placement, Polygon

SAME = Transform(1.0, 1.0, 0.0, 0.0)


def placement(size: tuple[int, int]) -> Placement:
    return Placement(size, SAME, size, size)


def encoded(pixels: np.ndarray) -> bytes:
    body = io.BytesIO()
    Image.fromarray(pixels).save(body, format="PNG")
    return body.getvalue()


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(["squash", "pad", "center_crop"]), st.integers(40, 120), st.integers(40, 120), st.integers(16, 40), st.integers(16, 40),
    st.data(),
)  # fmt: skip
def test_a_drawn_square_is_found_where_its_box_is(
    aspect: Aspect, height: int, width: int, h: int, w: int, data: st.DataObject
) -> None:
    """The white square of a decoded image lies where its box is placed: pixels that it covers for more than half are white."""
    x, y = data.draw(st.integers(0, width - 10)), data.draw(st.integers(0, height - 10))
    box_w, box_h = data.draw(st.integers(10, width - x)), data.draw(st.integers(10, height - y))
    picture = np.zeros((height, width), np.uint8)
    picture[y : y + box_h, x : x + box_w] = 255
    image = decode(encoded(picture), (h, w), aspect=aspect)
    placed = Placement((height, width), image.transform, (h, w), (h, w))
    as_box = placed.rasterize([Box(x, y, box_w, box_h)])
    corners = ((x, y), (x + box_w, y), (x + box_w, y + box_h), (x, y + box_h))
    np.testing.assert_array_equal(placed.rasterize([Polygon(corners)]), as_box)
    # The bilinear filter is as wide as a stored pixel: well inside the edge it is white, well outside black, whatever the scale.
    scale_y, scale_x, top, left = image.transform
    edges_y, edges_x = np.array([y, y + box_h]) * scale_y + top, np.array([x, x + box_w]) * scale_x + left
    near_y = np.abs(np.arange(h)[:, None] + 0.5 - edges_y).min(axis=1) < 1 + max(scale_y, 0)
    near_x = np.abs(np.arange(w)[:, None] + 0.5 - edges_x).min(axis=1) < 1 + max(scale_x, 0)
    clear = ~(near_y[:, None] | near_x[None, :])
    np.testing.assert_array_equal(as_box[clear], image.pixels[clear] > 127)
    drawn = placed.rasterize([Drawn(picture > 0)])
    np.testing.assert_array_equal(drawn[clear], as_box[clear])


def test_a_square_on_whole_pixels_is_exact_for_every_aspect() -> None:
    picture = np.zeros((64, 32), np.uint8)
    picture[16:32, 8:24] = 255
    for aspect, size in (("squash", (32, 16)), ("pad", (32, 32)), ("center_crop", (16, 16))):
        image = decode(encoded(picture), size, aspect=aspect)  # type: ignore[arg-type]
        found = Placement((64, 32), image.transform, size, size).rasterize([Box(8, 16, 16, 16)])
        np.testing.assert_array_equal(found, image.pixels > 127)


def test_boxes_follow_a_resize_after_the_ingest_and_a_frame_of_another_size() -> None:
    halves = Placement((64, 64), Transform(0.5, 0.5, 0.0, 0.0), (32, 32), (8, 8))
    expected = np.zeros((8, 8), bool)
    expected[2:4, 1:6] = True
    np.testing.assert_array_equal(halves.rasterize([Box(8, 16, 40, 16)]), expected)
    np.testing.assert_array_equal(halves.rasterize([Box(128, 256, 640, 256)], frame=(1024, 1024)), expected)
    np.testing.assert_array_equal(halves.rasterize([Drawn(np.kron(expected, np.ones((3, 3), bool)))]), expected)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 17), st.floats(-5, 17)), min_size=3, max_size=7))
def test_a_polygon_contains_the_centres_with_an_odd_number_of_edges_to_their_left(
    points: list[tuple[float, float]],
) -> None:
    size = (12, 10)
    expected = np.zeros(size, bool)
    for row in range(size[0]):
        for column in range(size[1]):
            x, y = column + 0.5, row + 0.5
            crossings = 0
            for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
                if min(y0, y1) <= y < max(y0, y1) and x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x:
                    crossings += 1
            expected[row, column] = crossings % 2 == 1
    found = placement(size).rasterize([Polygon(tuple(points))])
    if expected.any():
        np.testing.assert_array_equal(found, expected)
    else:
        assert found.sum() <= 1


@pytest.mark.parametrize("shape", [Box(5.1, 3.1, 0.2, 0.2), Polygon(((5.1, 3.1), (5.3, 3.1), (5.2, 3.3)))])
def test_a_shape_smaller_than_a_pixel_keeps_one(shape: Box | Polygon) -> None:
    found = placement((8, 8)).rasterize([shape])
    assert np.argwhere(found).tolist() == [[3, 5]]


def test_a_small_drawn_mask_keeps_a_pixel() -> None:
    mask = np.zeros((100, 100), bool)
    mask[31, 52] = True
    found = Placement((100, 100), Transform(0.08, 0.08, 0.0, 0.0), (8, 8), (8, 8)).rasterize([Drawn(mask)])
    assert np.argwhere(found).tolist() == [[2, 4]]


def test_what_was_cropped_away_is_lost_and_several_shapes_join() -> None:
    cropped = Placement((20, 10), Transform(1.0, 1.0, -5.0, 0.0), (10, 10), (10, 10))
    assert not cropped.rasterize([Box(0, 0, 4, 4)]).any()
    both = cropped.rasterize([Box(0, 5, 2, 2), Box(8, 5, 2, 2)])
    assert both.sum() == 8 and both[:2, :2].all() and both[:2, 8:].all()
