"""The figure of one image: labels are grouped by their value, and a notebook gets a PNG."""

import numpy as np

from cxr_ray.data import figure


def test_labels_are_grouped_by_value_positive_ones_first() -> None:
    text = figure.label_text({"a": 0.0, "b": 1.0, "c": float("nan"), "d": -1.0, "e": 1.0})
    assert text == "positive:\n  b\n  e\nnegative:\n  a\nuncertain:\n  d\nnot mentioned:\n  c"


def test_a_notebook_shows_it_without_pyplot() -> None:
    drawn = figure.draw(np.zeros((8, 6), np.uint8), {"a": 1.0}, 3, source="nih")
    assert drawn._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]


def test_neighbours_are_drawn_in_a_grid() -> None:
    drawn = figure.draw_neighbours(np.zeros((5, 8, 8), np.uint8), [f"row {n}" for n in range(5)], columns=2)
    assert [axes.get_title() for axes in drawn.axes] == ["row 0", "row 1", "row 2", "row 3", "row 4", ""]
    assert [len(axes.images) for axes in drawn.axes] == [1, 1, 1, 1, 1, 0]
