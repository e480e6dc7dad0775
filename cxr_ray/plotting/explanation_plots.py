"""Maps of relevance over chest X-rays: overlays, methods side by side, pictures over signed maps. The common style is plots.py."""
# N maps, H x W pixels, C columns of a grid

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from cxr_ray.plotting.plots import INK, STYLE, Figure

OPACITY = 0.6
"""Of an overlay (the notebook's value)."""
UNSIGNED, SIGNED = "hot", "seismic"
"""Colour maps of maps without and with negative values."""
FAILED = "#c0392b"
QUANTILE = 0.995
"""Of the absolute values: where a scale ends, so that a few pixels do not make all others pale."""
CELL = 1.75
"""Width of a picture in inches."""
Maps = npt.NDArray[Any]


@dataclass(frozen=True)
class Scale:
    """The colours of a method's maps: from 0 to `limit` of an unsigned one, from -limit to limit of a signed one."""

    limit: float
    signed: bool

    @classmethod
    def of(cls, maps_NHW: Maps, limit: float | None = None) -> "Scale":
        """One scale for all maps of a method, symmetric about 0 if a value is negative. `limit` replaces the quantile."""
        values = np.asarray(maps_NHW)
        found = limit if limit is not None else (float(np.quantile(np.abs(values), QUANTILE)) if values.size else 0.0)
        if found == 0.0 and values.size:
            found = float(np.abs(values).max())
        return cls(found or 1.0, bool(values.size and values.min() < 0.0))

    @property
    def colours(self) -> str:
        return SIGNED if self.signed else UNSIGNED

    def mappable(self) -> ScalarMappable:
        return ScalarMappable(Normalize(-self.limit if self.signed else 0.0, self.limit), colormaps[self.colours])

    def rgba(self, map_HW: Maps) -> Maps:
        """Colours [H, W, 4]. Opacity is `OPACITY` for an unsigned map; of a signed one it grows with the absolute value, since its
        colour for 0 is white and would hide the picture."""
        out = self.mappable().to_rgba(map_HW, norm=True)
        out[..., 3] = OPACITY if not self.signed else 1.5 * OPACITY * np.clip(np.abs(map_HW) / self.limit, 0.0, 1.0)
        return out


@dataclass(frozen=True)
class Caption:
    """What is written above a map."""

    text: str
    failed: bool = False
    """The certificate of the map does not hold: the map is marked."""


@matplotlib.rc_context(STYLE)
def side_by_side(
    images_NHW: Maps,
    maps: Mapping[str, Maps],
    titles: Sequence[str],
    captions: Mapping[str, Sequence[Caption]],
    *,
    title: str,
    scales: Mapping[str, Scale],
) -> Figure:
    """Pictures, and to the right of each the overlay of every method; a scale below each method's column."""
    count, columns = len(images_NHW), 1 + len(maps)
    high = CELL * images_NHW.shape[1] / images_NHW.shape[2]
    figure = Figure(figsize=(columns * (CELL + 0.12) + 0.3, count * (high + 0.42) + 0.95), layout="constrained")
    figure.suptitle(title, fontsize=9, color=INK)
    grid = figure.subplots(count + 1, columns, squeeze=False, height_ratios=[high + 0.34] * count + [0.12])
    for n in range(count):
        _picture(grid[n, 0], images_NHW[n], titles[n])
        for column, (method, maps_NHW) in enumerate(maps.items(), start=1):
            _overlay(grid[n, column], images_NHW[n], maps_NHW[n], scales[method], captions[method][n])
            if n == 0:
                above = f"{method}\n{captions[method][n].text}".rstrip()
                grid[n, column].set_title(above, fontsize=6.5, pad=3, color=grid[n, column].title.get_color())
    grid[-1, 0].axis("off")
    for column, method in enumerate(maps, start=1):
        _bar(figure, grid[-1, column], scales[method], method)
    _legend(figure, captions, scales.values())
    return figure


@matplotlib.rc_context(STYLE)
def overlays(
    images_NHW: Maps,
    maps_NHW: Maps,
    captions: Sequence[Caption],
    *,
    title: str,
    name: str,
    scale: Scale,
    columns: int = 4,
) -> Figure:
    """Overlays of one method in a grid, on one scale."""
    count = len(images_NHW)
    columns = min(columns, max(count, 2))
    lines = -(-count // columns)
    high = CELL * images_NHW.shape[1] / images_NHW.shape[2]
    figure = Figure(figsize=(columns * (CELL + 0.12) + 0.2, lines * (high + 0.42) + 0.95), layout="constrained")
    figure.suptitle(title, fontsize=9, color=INK)
    axes = figure.subplots(lines, columns, squeeze=False)
    for n, at in enumerate(axes.flat):
        if n < count:
            _overlay(at, images_NHW[n], maps_NHW[n], scale, captions[n])
        else:
            at.axis("off")
    _bar(figure, list(axes[-1]), scale, name, below=axes)
    _legend(figure, {name: captions}, [scale])
    return figure


@matplotlib.rc_context(STYLE)
def picture_grid(
    images_NHW: Maps,
    maps_NHW: Maps,
    titles: Sequence[str],
    captions: Sequence[Caption],
    *,
    title: str,
    name: str,
    scale: Scale,
) -> Figure:
    """Pictures, and below each its map alone, three to a row: the notebook's 2 x 3 grid for three images."""
    count, columns = len(images_NHW), 3
    lines = -(-count // columns)
    high = CELL * images_NHW.shape[1] / images_NHW.shape[2]
    figure = Figure(figsize=(columns * (CELL + 0.12) + 0.2, 2 * lines * (high + 0.4) + 0.95), layout="constrained")
    figure.suptitle(title, fontsize=9, color=INK)
    axes = figure.subplots(2 * lines, columns, squeeze=False)
    for at in axes.flat:
        at.axis("off")
    mappable = scale.mappable()
    for n in range(count):
        line, column = divmod(n, columns)
        _picture(axes[2 * line, column], images_NHW[n], titles[n])
        below = axes[2 * line + 1, column]
        below.imshow(maps_NHW[n], cmap=mappable.cmap, norm=mappable.norm, interpolation="antialiased")
        _caption(below, captions[n])
    _bar(figure, list(axes[-1]), scale, name, below=axes)
    _legend(figure, {name: captions}, [scale])
    return figure


def _picture(axes: Axes, image_HW: Maps, title: str) -> None:
    axes.imshow(image_HW, cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
    axes.set_title(title, fontsize=6.5, pad=3, color=INK)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _overlay(axes: Axes, image_HW: Maps, map_HW: Maps, scale: Scale, caption: Caption) -> None:
    _picture(axes, image_HW, "")
    axes.imshow(scale.rgba(map_HW), interpolation="antialiased")
    _caption(axes, caption)


def _caption(axes: Axes, caption: Caption) -> None:
    axes.set_title(caption.text, fontsize=6.5, pad=3, color=FAILED if caption.failed else INK)
    if caption.failed:
        axes.set_axis_on()
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set(visible=True, color=FAILED, linewidth=2.0, linestyle=(0, (3, 2)))


def _bar(figure: Figure, where: Any, scale: Scale, name: str, *, below: Any = None) -> None:
    """The colour bar of a method: in the axes `where`, or below all axes `below`."""
    options: dict[str, Any] = (
        {"ax": below, "shrink": 0.5, "aspect": 40, "pad": 0.02} if below is not None else {"cax": where}
    )
    bar = figure.colorbar(
        scale.mappable(), orientation="horizontal", extend="both" if scale.signed else "max", **options
    )
    bar.set_label(f"{name}: {'relevance' if scale.signed else 'magnitude'} per pixel", fontsize=6.5)
    ends = [-scale.limit, 0.0, scale.limit] if scale.signed else [0.0, scale.limit]
    bar.set_ticks(ends, labels=[_short(end) for end in ends])
    bar.ax.tick_params(labelsize=6, length=2)
    bar.outline.set_visible(False)


def _short(value: float) -> str:
    return f"{value:.2g}".replace("-", "−")


def _legend(figure: Figure, captions: Mapping[str, Sequence[Caption]], scales: Any) -> None:
    """What the colours mean, and the mark of a map that does not add up, if there is one."""
    lines = []
    if any(scale.signed for scale in scales):
        lines.append("red: for the label, blue: against it")
    if any(caption.failed for of in captions.values() for caption in of):
        lines.append("dashed red frame: the map does not add up to its logit, so do not read it")
    if lines:
        figure.supxlabel("; ".join(lines), fontsize=6.5, color=INK)
