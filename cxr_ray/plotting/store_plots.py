"""Plots of a store: labels, split, sizes, samples. `about` says of which images a figure is. The common style is plots.py."""
# N images, L labels, H x W pixels of an image

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from cxr_ray.plotting.plots import ACCENT, CALIBRATED, DULL, INK, PART_COLOURS, QUIET, RULE, Figure, percent_axis, shade

VALUE_COLOURS = {"positive": ACCENT, "uncertain": CALIBRATED, "negative": DULL, "blank": "#e3e7eb"}
VALUE_NAMES = {"positive": "positive", "uncertain": "uncertain", "negative": "negative", "blank": "not mentioned"}


def label_frequency(counts: pd.DataFrame, about: str = "") -> Figure:
    """Label values by label, as shares. `counts`: see `summary.label_frequency`."""
    rows = max(1, int(counts[list(VALUE_NAMES)].sum(axis=1).max()))
    figure, axes = _bars(len(counts), width=6.4, title="What the dataset states, by label", about=about, legend=True)
    left = np.zeros(len(counts))
    for what, name in VALUE_NAMES.items():
        share = counts[what].to_numpy() / rows
        if share.any():
            axes.barh(range(len(counts)), share, left=left, height=0.7, color=VALUE_COLOURS[what], label=name)
        left += share
    for at, (positive, percent) in enumerate(zip(counts["positive"], counts["percent"], strict=True)):
        axes.text(1.01, at, f"{positive:,}  ({percent:.1f}%)", va="center", fontsize=7, color=INK)
    axes.set_yticks(range(len(counts)), counts["label"])
    axes.set_xlim(0, 1)
    percent_axis(axes.xaxis)
    axes.set_xlabel("Share of the images; on the right, the number of positives")
    _legend(axes)
    return figure


def class_counts(counts: pd.DataFrame, about: str = "") -> Figure:
    """Images of each class. `counts`: see `summary.label_frequency`."""
    figure, axes = _bars(len(counts), width=6.4, title="Images by class", about=about)
    axes.barh(range(len(counts)), counts["positive"], height=0.7, color=ACCENT)
    for at, (rows, percent) in enumerate(zip(counts["positive"], counts["percent"], strict=True)):
        axes.text(rows, at, f"  {rows:,} ({percent:.1f}%)", va="center", fontsize=7, color=INK)
    axes.set_yticks(range(len(counts)), counts["label"])
    axes.margins(x=0.22)
    axes.set_xlabel("Images")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return figure


def label_vectors(vectors: pd.DataFrame, most: int = 20, about: str = "") -> Figure:
    """The most frequent label vectors. `vectors`: see `summary.label_vectors`."""
    shown = vectors.head(most)
    figure, axes = _bars(len(shown), width=6.4, title="The most frequent label vectors", about=about)
    axes.barh(range(len(shown)), shown["rows"], height=0.7, color=ACCENT)
    for at, (rows, percent) in enumerate(zip(shown["rows"], shown["percent"], strict=True)):
        axes.text(rows, at, f"  {rows:,} ({percent:.1f}%)", va="center", fontsize=7, color=INK)
    axes.set_yticks(range(len(shown)), [shorten(" + ".join(names) or "none") for names in shown["labels"]])
    axes.margins(x=0.22)
    axes.set_xlabel(f"Images; {len(shown)} of {len(vectors):,} label vectors")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return figure


def co_occurrence(pairs: pd.DataFrame, about: str = "") -> Figure:
    """Heat map of labels that are positive together, shaded by share of the row's positives; with counts for up to 20 labels."""
    counts = pairs.to_numpy()
    share = counts / np.maximum(np.diag(counts), 1)[:, None]
    n = len(counts)
    side = max(2.4, 0.4 * n)
    figure = Figure(figsize=(side + 2.6, side + 1.1), layout="constrained")
    axes = figure.add_subplot()
    edges = np.arange(n + 1) - 0.5
    mesh = axes.pcolormesh(edges, edges, share, cmap=shade(), vmin=0, vmax=1, edgecolors="white", linewidth=1.0)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    for (i, j), count in np.ndenumerate(counts) if n <= 20 else ():
        axes.text(
            j,
            i,
            brief(int(count)),
            ha="center",
            va="center",
            fontsize=6.5,
            color="white" if share[i, j] > 0.55 else INK,
        )
    _title(axes, "Labels that are positive together", about)
    axes.set_xlabel("and positive for")
    axes.set_ylabel("Images positive for")
    axes.set_yticks(range(n), list(pairs.index))
    axes.set_xticks(range(n), list(pairs.columns), rotation=55, ha="right", rotation_mode="anchor")
    _bare(axes)
    bar = figure.colorbar(mesh, ax=axes, shrink=0.5, aspect=18)
    percent_axis(bar.ax.yaxis)
    bar.outline.set_visible(False)
    bar.set_label("Share of the images positive for the row's label", fontsize=7)
    return figure


def findings(counts: pd.DataFrame, about: str = "") -> Figure:
    """How many images have 0, 1, 2, ... positive labels. `counts`: see `summary.findings_per_image`."""
    figure, axes = _panels(1, size=(3.8, 2.6))
    _title(axes[0], "Findings per image", about)
    axes[0].bar(counts["findings"], counts["rows"], width=0.7, color=ACCENT)
    for number, rows, percent in counts.itertuples(index=False):
        axes[0].text(number, rows, f"{rows:,}\n{percent:.1f}%", ha="center", va="bottom", fontsize=6.5, linespacing=1.0)
    axes[0].set_xlabel("Positive labels in an image")
    axes[0].set_ylabel("Images")
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].margins(y=0.24)
    return figure


def split_balance(parts: Mapping[str, Mapping[str, Any]], labels: Sequence[str], about: str = "") -> Figure:
    """Share of positives of every label, a dot for each part; `parts`: `metrics.prevalence` of each."""
    figure, axes = _bars(len(labels), width=5.4, title="Share of positives in each part", about=about, legend=True)
    for at, label in enumerate(labels):
        cells = {part: counts["labels"][label] for part, counts in parts.items()}
        share = {part: cell["positives"] / cell["known"] for part, cell in cells.items() if cell["known"]}
        if share:
            axes.plot([min(share.values()), max(share.values())], [at, at], color=RULE, linewidth=2, zorder=1)
        for part, value in share.items():
            axes.scatter(value, at, s=22, color=PART_COLOURS[part], linewidths=0, zorder=2, alpha=0.9, clip_on=False)
    for part, counts in parts.items():
        axes.scatter([], [], s=22, color=PART_COLOURS[part], label=f"{part}, {counts['rows']:,} images")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlim(left=0)
    percent_axis(axes.xaxis)
    axes.set_xlabel("Share of positives")
    _legend(axes)
    return figure


def pixels(index: pd.DataFrame, images: npt.NDArray[np.uint8], about: str = "") -> Figure:
    """Histograms of image means and standard deviations, and of the gray values of the sample `images` [N, H, W]."""
    figure, axes = _panels(3, size=(7.0, 2.5))
    _title(axes[0], "Brightness of an image", about)
    _title(axes[1], "Contrast of an image")
    _title(axes[2], "Gray values")
    axes[0].hist(index["mean"], bins=list(range(0, 257, 8)), color=ACCENT)
    axes[0].set_xlabel("Mean gray value (0 to 255)")
    axes[0].set_ylabel("Images")
    axes[1].hist(np.sqrt(index["variance"]), bins=list(range(0, 129, 4)), color=ACCENT)
    axes[1].set_xlabel("Standard deviation of gray values")
    axes[1].set_ylabel("Images")
    share = np.bincount(images.reshape(-1), minlength=256) / max(1, images.size)
    axes[2].fill_between(range(256), share, color=ACCENT, linewidth=0, step="mid")
    axes[2].set_xlabel(f"Gray value (0 to 255), {len(images):,} images")
    axes[2].set_ylabel("Share of the pixels")
    inner = share[1:255].max(initial=0)
    if max(share[0], share[255]) > 3 * inner > 0:  # black bars and burned-in text would flatten the rest
        axes[2].set_ylim(0, 1.5 * inner)
        ends = ", ".join(f"{100 * share[v]:.1f}% are {v}" for v in (0, 255) if share[v] > 1.5 * inner)
        axes[2].text(0.5, 0.97, ends, transform=axes[2].transAxes, ha="center", va="top", fontsize=7, color=QUIET)
    percent_axis(axes[2].yaxis)
    return figure


def sizes(counts: pd.DataFrame, about: str = "") -> Figure:
    """Widths and heights of the original files, a dot for each size with an area proportional to its images."""
    figure, axes = _panels(1, size=(3.6, 3.6))
    _title(axes[0], "Sizes of the files", about or "dot area: number of images")
    most = counts["rows"].max() if len(counts) else 1
    area = 8 + 160 * counts["rows"] / most
    axes[0].scatter(counts["width"], counts["height"], s=area, color=ACCENT, alpha=0.5, linewidths=0)
    high = 1.08 * max(counts[["width", "height"]].max().max(), 1) if len(counts) else 1
    axes[0].plot([0, high], [0, high], color=RULE, linewidth=0.8, zorder=0)
    axes[0].set_xlim(0, high)
    axes[0].set_ylim(0, high)
    axes[0].set_aspect("equal")
    axes[0].set_xlabel("Width of the file (px)")
    axes[0].set_ylabel("Height of the file (px)")
    for axis in (axes[0].xaxis, axes[0].yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True))
    return figure


def grid(
    images: npt.NDArray[np.uint8], titles: Sequence[str], *, columns: int = 6, title: str = "", about: str = ""
) -> Figure:
    """Images [N, H, W] in a grid, each below its own text, all on the scale from 0 to 255."""
    columns = min(columns, max(1, len(images)))
    lines = -(-len(images) // columns)
    wide = 7.2 / max(columns, 4)  # inches of a cell
    high = wide * images.shape[1] / images.shape[2]
    room = 0.12 * max((above.count("\n") + 1 for above in titles), default=1) + 0.1
    top = (0.3 if title else 0.0) + (0.16 if about else 0.0)
    size = np.array([columns * wide, lines * (high + room) + top])
    figure = Figure(figsize=tuple(size))
    for at, (picture, above) in enumerate(zip(images, titles, strict=True)):
        line, column = divmod(at, columns)
        corner = np.array([column * wide + 0.02, size[1] - top - (line + 1) * (high + room) + 0.02])
        axes = figure.add_axes((*(corner / size), *(np.array([wide - 0.04, high - 0.04]) / size)))
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="antialiased", aspect="auto")
        axes.set_title(above, fontsize=6.5, pad=2, color=INK)
        axes.axis("off")
    if title:
        figure.text(0.05 / size[0], 1 - 0.07 / size[1], title, va="top", fontsize=8, fontweight="bold", color=INK)
    if about:
        figure.text(0.05 / size[0], 1 - 0.23 / size[1], about, va="top", fontsize=7, color=QUIET)
    return figure


def shorten(text: str, most: int = 46) -> str:
    """`text`, cut to `most` characters with an ellipsis."""
    return text if len(text) <= most else text[: most - 1].rstrip(" +") + "…"


def _bars(rows: int, *, width: float, title: str, about: str, legend: bool = False) -> tuple[Figure, Axes]:
    """A figure for horizontal bars, the first at the top, with room for a legend between title and bars."""
    figure = Figure(figsize=(width, 0.21 * rows + 1.2 + 0.2 * legend), layout="constrained")
    axes = figure.add_subplot()
    axes.set_ylim(rows - 0.4, -0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    _title(axes, title, about, room=14 if legend else 0)
    return figure, axes


def _title(axes: Axes, title: str, about: str = "", *, room: float = 0) -> None:
    """A title in bold, and below it what the figure is of; `room` in points for a legend below."""
    axes.set_title(title, fontweight="bold", pad=6 + room + 11 * bool(about))
    if about:
        place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
        axes.annotate(shorten(about, 60), (0, 1), (0, 6 + room), fontsize=7, color=QUIET, **place)


def _legend(axes: Axes) -> None:
    """A line of colours and their names, in the room that `_title` left."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=4,
        borderpad=0,
        borderaxespad=0.3,
        handlelength=1.2,
        fontsize=7.5,
    )


def _panels(count: int, *, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=size, layout="constrained")
    axes = list(figure.subplots(1, count, squeeze=False)[0])
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(length=2.5)
    return figure, axes


def _bare(axes: Axes) -> None:
    axes.tick_params(length=0, pad=3, labelsize=7)
    for spine in axes.spines.values():
        spine.set_visible(False)


def brief(count: int) -> str:
    """At most four characters: 950, 1.2k, 13k."""
    if count < 1000:
        return str(count) if count else ""
    return f"{count / 1000:.1f}k" if count < 10_000 else f"{count // 1000}k"
