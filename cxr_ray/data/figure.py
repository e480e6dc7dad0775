"""A figure of one image of a store with its labels, for notebooks. Figures of whole stores belong to their report."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

MEANING = {1.0: "positive", 0.0: "negative", -1.0: "uncertain"}
"""A label's raw value in words; NaN: not mentioned."""


class ShownFigure(Figure):
    """A figure that a notebook shows without pyplot, whose list of open figures would keep it in memory."""

    def _repr_png_(self) -> bytes:
        body = io.BytesIO()
        self.savefig(body, format="png", bbox_inches="tight")
        return body.getvalue()


def draw(image_HW: npt.NDArray[np.uint8], labels: Mapping[str, float], row: int, *, source: str) -> Figure:
    """The image, titled with its dataset and row, and beside it the labels by value, positive ones first."""
    figure = ShownFigure(figsize=(7.0, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    left.imshow(image_HW, cmap="gray", vmin=0, vmax=255)
    left.set_title(f"{source}, row {row}")
    left.set_axis_off()
    right.set_axis_off()
    right.text(0.0, 1.0, label_text(labels), va="top", fontsize=9, transform=right.transAxes)
    return figure


def label_text(labels: Mapping[str, float]) -> str:
    """Each value that occurs, in words, and below it its labels."""
    words = {label: MEANING.get(value, "not mentioned") for label, value in labels.items()}
    return "\n".join(
        "\n  ".join([f"{meaning}:", *(label for label, word in words.items() if word == meaning)])
        for meaning in (*MEANING.values(), "not mentioned")
        if meaning in words.values()
    )


def draw_neighbours(images_NHW: npt.NDArray[np.uint8], titles: Sequence[str], *, columns: int = 4) -> Figure:
    """The images in a grid, each below its title."""
    rows = -(-len(images_NHW) // columns)
    figure = ShownFigure(figsize=(2.4 * columns, 2.7 * rows), layout="constrained")
    for axes in (grid := figure.subplots(rows, columns, squeeze=False)).flat:
        axes.set_axis_off()
    for axes, image, title in zip(grid.flat, images_NHW, titles, strict=False):
        axes.imshow(image, cmap="gray", vmin=0, vmax=255)
        axes.set_title(title, fontsize=8)
    return figure
