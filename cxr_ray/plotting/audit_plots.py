"""Figures of an audit: mean maps by group. The common style is plots.py."""
# H x W pixels of a map

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from cxr_ray.plotting.plots import INK, QUIET, STYLE, Figure

FRAME = "#28a0c8"
COLUMNS = 4


@matplotlib.rc_context(STYLE)
def mean_maps(
    maps: Mapping[str, npt.NDArray[np.float64]], frames: Mapping[str, Sequence[str]], *, grid: int, title: str
) -> Figure:
    """The mean share map of each group on one scale, in multiples of an even spread; cells that stand out are framed.

    `frames`: group to names of places; only cells (`line 1, column 2`) can be framed, regions are named in the title."""
    columns = min(COLUMNS, max(len(maps), 2))
    lines = -(-len(maps) // columns)
    figure = Figure(figsize=(1.95 * columns, 2.1 * lines + 0.85), layout="constrained")
    figure.suptitle(title, fontsize=9, color=INK)
    axes = figure.subplots(lines, columns, squeeze=False)
    limit = max((float(np.quantile(one * one.size, 0.995)) for one in maps.values()), default=1.0) or 1.0
    mappable = ScalarMappable(Normalize(0.0, limit), matplotlib.colormaps["hot"])
    for axis, (group, map_HW) in zip(axes.flat, maps.items(), strict=False):
        axis.imshow(map_HW * map_HW.size, cmap=mappable.cmap, norm=mappable.norm, interpolation="antialiased")
        found = [place for place in frames.get(group, []) if not place.startswith("line ")]
        axis.set_title(
            f"{_wrap(group)}\n{('stands out: ' + ', '.join(found)) if found else ''}".rstrip(), fontsize=6.5, color=INK
        )
        for place in frames.get(group, []):
            _frame(axis, place, map_HW.shape, grid)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set(color=QUIET, linewidth=0.3)
    for axis in list(axes.flat)[len(maps) :]:
        axis.axis("off")
    bar = figure.colorbar(mappable, ax=axes, orientation="horizontal", shrink=0.5, aspect=40, pad=0.02, extend="max")
    bar.set_label("mean absolute relevance, 1: spread evenly over the image", fontsize=6.5)
    bar.ax.tick_params(labelsize=6, length=2)
    bar.outline.set_visible(False)
    if frames:
        figure.supxlabel("blue frame: a cell that stands out", fontsize=6.5, color=INK)
    return figure


def _frame(axes: Axes, place: str, shape: tuple[int, ...], grid: int) -> None:
    if not place.startswith("line "):
        return
    line, column = (int(word.rpartition(" ")[2]) - 1 for word in place.split(","))
    high, wide = shape[0] / grid, shape[1] / grid
    corner = (column * wide - 0.5, line * high - 0.5)
    axes.add_patch(Rectangle(corner, wide, high, fill=False, edgecolor=FRAME, linewidth=1.4))


def _wrap(text: str, most: int = 30) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
