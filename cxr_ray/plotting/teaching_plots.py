"""Figures of what a convolutional network computes: filters and their responses, feature maps, poolings. The style is plots.py."""
# C channels, F filters, K kernel side, H x W pixels

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from cxr_ray.plotting.plots import INK, QUIET, STYLE, Figure

Array = npt.NDArray[Any]
FILTERS = 32
"""Learned filters that are shown at most."""
CHANNELS = 8
"""Feature maps of a stage that are shown: those that vary most over the image."""


@matplotlib.rc_context(STYLE)
def filters(
    image_HW: Array, kernels: Mapping[str, Array], responses: Mapping[str, Array], learned_FKL: Array
) -> Figure:
    """Kernels with their numbers and responses to the picture above; the learned first filters below, each on its own scale."""
    shown = learned_FKL[:FILTERS]
    columns, lines = 8, -(-len(shown) // 8)
    figure = Figure(figsize=(7.2, 4.6 + 0.95 * lines), layout="constrained")
    parts = figure.subfigures(2, 1, squeeze=False, height_ratios=(4.2, 0.4 + 0.95 * lines))
    top, bottom = parts[:, 0]
    top.suptitle("Edges by kernels: the kernel, and the picture convolved with it", fontsize=8.5)
    axes = top.subplots(2, len(kernels) + 1, squeeze=False)
    _gray(axes[1, 0], image_HW, "the picture")
    axes[0, 0].axis("off")
    for column, (name, kernel) in enumerate(kernels.items(), start=1):
        _matrix(axes[0, column], kernel, name)
        limit = float(np.quantile(np.abs(responses[name]), 0.99)) or 1.0
        drawn = axes[1, column].imshow(
            responses[name], cmap="gray", vmin=-limit, vmax=limit, interpolation="antialiased"
        )
        _bare(axes[1, column], "response")
        bar = top.colorbar(
            drawn, ax=axes[1, column], orientation="horizontal", shrink=0.8, aspect=24, pad=0.02, extend="both"
        )
        bar.set_ticks([-limit, 0, limit], labels=[f"−{limit:.0f}", "0", f"{limit:.0f}"])
        bar.ax.tick_params(labelsize=6, length=2)
        bar.outline.set_visible(False)
    more = f", the first {len(shown)} of {len(learned_FKL)}" if len(learned_FKL) > len(shown) else ""
    bottom.suptitle(
        f"Learned filters of the first convolution, {learned_FKL.shape[1]} × {learned_FKL.shape[2]}{more}; gray is 0",
        fontsize=8.5,
    )
    grid = bottom.subplots(lines, columns, squeeze=False)
    for at, axis in enumerate(grid.flat):
        if at < len(shown):
            limit = float(np.abs(shown[at]).max()) or 1.0
            axis.imshow(shown[at], cmap="gray", vmin=-limit, vmax=limit, interpolation="nearest")
            _bare(axis, f"{at}: ±{limit:.2g}")
        else:
            axis.axis("off")
    return figure


@matplotlib.rc_context(STYLE)
def features(image_HW: Array, stages: Sequence[tuple[str, Array]]) -> Figure:
    """The picture, then a line of feature maps for each stage: its `CHANNELS` most varying channels, dark to bright."""
    figure = Figure(figsize=(7.6, 1.05 * (len(stages) + 1) + 0.35 * len(stages)), layout="constrained")
    figure.suptitle(
        "Feature maps after each stage: the channels that vary most, each from its smallest to its largest value",
        fontsize=8.5,
    )
    parts = figure.subfigures(len(stages) + 1, 1, squeeze=False)[:, 0]
    first = parts[0].subplots(1, CHANNELS)
    _gray(first[0], image_HW, "the picture")
    for axis in first[1:]:
        axis.axis("off")
    for part, (name, maps_CHW) in zip(parts[1:], stages, strict=True):
        channels, height, width = maps_CHW.shape
        part.suptitle(f"after {name}: {channels} maps of {height} × {width}", fontsize=7, x=0.01, ha="left")
        order = np.sort(np.argsort(-maps_CHW.reshape(channels, -1).std(axis=1), kind="stable")[:CHANNELS])
        for axis, channel in zip(part.subplots(1, CHANNELS), [*order, *[None] * (CHANNELS - len(order))], strict=True):
            if channel is None:
                axis.axis("off")
            else:
                axis.imshow(maps_CHW[channel], cmap="gray", interpolation="nearest")
                _bare(
                    axis, f"{channel}: {maps_CHW[channel].min():.1f} to {maps_CHW[channel].max():.1f}".replace("-", "−")
                )
    return figure


@matplotlib.rc_context(STYLE)
def pooling(image_HW: Array, pooled: Mapping[str, Sequence[Array]], *, settings: str) -> Figure:
    """The picture, and a line per kind of pooling: after one, two, three of them, each pixel drawn as a square."""
    times = max(len(each) for each in pooled.values())
    figure = Figure(figsize=(1.75 * (times + 1), 2.05 * len(pooled) + 0.4), layout="constrained")
    figure.suptitle(f"The picture after pooling: {settings}", fontsize=8.5)
    axes = figure.subplots(len(pooled), times + 1, squeeze=False)
    for line, (kind, each) in enumerate(pooled.items()):
        _gray(axes[line, 0], image_HW, f"the picture, {image_HW.shape[0]} × {image_HW.shape[1]}")
        for at in range(times):
            if at < len(each):
                _gray(
                    axes[line, at + 1],
                    each[at],
                    f"{at + 1} × {kind} pooling: {each[at].shape[0]} × {each[at].shape[1]}",
                )
            else:
                axes[line, at + 1].axis("off")
    return figure


def _gray(axes: Axes, image_HW: Array, title: str) -> None:
    axes.imshow(
        image_HW, cmap="gray", vmin=0, vmax=255, interpolation="nearest" if len(image_HW) < 64 else "antialiased"
    )
    _bare(axes, title)


def _matrix(axes: Axes, kernel: Array, name: str) -> None:
    limit = float(np.abs(kernel).max()) or 1.0
    axes.imshow(kernel, cmap="gray", vmin=-limit, vmax=limit, interpolation="nearest")
    for (y, x), value in np.ndenumerate(kernel):
        colour = "white" if value < 0 else INK
        axes.text(x, y, f"{value:g}".replace("-", "−"), ha="center", va="center", fontsize=7, color=colour)
    _bare(axes, name)


def _bare(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=6.5, pad=2, color=INK)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=True, color=QUIET, linewidth=0.3)
