"""Plots of a report, and their output as SVG or PNG. Uses matplotlib's objects: no pyplot, no shared state.

A figure stands alone, on a slide or in a paper: it has a title, axes with units, and a legend wherever colours or marks differ.
"""
# N rows, L labels

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import figure as matplotlib_figure
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.ticker import MaxNLocator

from cxr_ray.metrics.per_label import bin_of
from cxr_ray.metrics.ranking import at_each_score, ranked

Array = npt.NDArray[Any]

INK, QUIET, RULE, ACCENT = "#1d2733", "#6b7682", "#d5dae0", "#1f5f8b"
CALIBRATED, DULL = "#c07a2c", "#9aa5b1"
PART_COLOURS = {"train": DULL, "val": CALIBRATED, "test": ACCENT}
POINTS = 240  # of a plotted curve; more cannot be distinguished at this size
BINS = 10
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 8.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "cxr_ray",
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "path.simplify": True,
    "axes.titlesize": 8.0,
    "axes.titlelocation": "left",
    "legend.fontsize": 6.5,
    "legend.frameon": False,
}


class Figure(matplotlib_figure.Figure):
    """A figure that a notebook shows without pyplot, whose list of open figures would keep it in memory."""

    def _repr_png_(self) -> bytes:
        return png(self)


@matplotlib.rc_context(STYLE)
def roc(true_N: Array, score_N: Array, point: tuple[float, float] | None, *, label: str = "", part: str = "") -> Figure:
    """ROC curve of one label, with its area and the operating point (1 - specificity, recall) marked. Needs both classes."""
    figure, axes = _square("1 − specificity", "Recall")
    draw_roc(axes, true_N, score_N)
    _mark(axes, point)
    _name(axes, label, f"ROC curve{_on(part)}")
    axes.legend(loc="best", borderaxespad=0.1)
    return figure


def draw_roc(axes: Axes, true_N: Array, score_N: Array, colour: str = ACCENT) -> None:
    """The curve, named by its area, over the diagonal of chance."""
    _, tp_K, fp_K = at_each_score(true_N, score_N)
    area, _ = ranked(true_N, score_N)
    axes.plot([0, 1], [0, 1], color=RULE, linewidth=0.8, zorder=1, label="chance, AUC 0.5")
    x, y = thin(np.r_[0.0, fp_K] / fp_K[-1], np.r_[0.0, tp_K] / tp_K[-1])
    axes.plot(x, y, color=colour, linewidth=1.4, zorder=2, label=f"ROC AUC {area:.3f}")


@matplotlib.rc_context(STYLE)
def precision_recall(
    true_N: Array, score_N: Array, point: tuple[float, float] | None, *, label: str = "", part: str = ""
) -> Figure:
    """Precision over recall of one label, with the average precision, the operating point (recall, precision) and the prevalence."""
    figure, axes = _square("Recall", "Precision")
    draw_precision_recall(axes, true_N, score_N)
    _mark(axes, point)
    _name(axes, label, f"Precision-recall curve{_on(part)}")
    axes.legend(loc="best", borderaxespad=0.1)
    return figure


def draw_precision_recall(axes: Axes, true_N: Array, score_N: Array, colour: str = ACCENT) -> None:
    """The curve, named by the average precision, over the line of the prevalence."""
    _, tp_K, fp_K = at_each_score(true_N, score_N)
    prevalence, (_, area) = float(np.mean(true_N)), ranked(true_N, score_N)
    axes.axhline(prevalence, color=RULE, linewidth=0.8, zorder=1, label=f"prevalence {prevalence:.3f}")
    x, y = thin(tp_K / tp_K[-1], tp_K / (tp_K + fp_K))  # without (0, 1), which no threshold reaches
    style = "steps-pre"
    axes.plot(x, y, color=colour, linewidth=1.4, zorder=2, drawstyle=style, label=f"average precision {area:.3f}")


@matplotlib.rc_context(STYLE)
def reliability(
    true_N: Array, score_N: Array, calibrated_N: Array | None = None, *, label: str = "", part: str = ""
) -> Figure:
    """Reliability diagram: share of positives over mean probability in ten equal-width bins; a dot's area is proportional to its rows.

    `calibrated_N`, the same rows' probabilities after calibration, are plotted in another colour."""
    figure, axes = _square("Mean probability of a bin", "Share of positives")
    axes.plot([0, 1], [0, 1], color=RULE, linewidth=0.8, zorder=1, label="calibrated")
    for prob_N, colour, name in (
        (score_N, ACCENT, "as predicted"),
        (calibrated_N, CALIBRATED, "recalibrated"),
    ):
        if prob_N is None:
            continue
        bin_N = bin_of(prob_N, BINS)
        rows = np.bincount(bin_N, minlength=BINS)
        filled = rows > 0
        predicted = np.bincount(bin_N, weights=prob_N, minlength=BINS)[filled] / rows[filled]
        observed = np.bincount(bin_N, weights=true_N, minlength=BINS)[filled] / rows[filled]
        axes.plot(predicted, observed, color=colour, linewidth=0.7, alpha=0.6, zorder=2)
        sizes = 6 + 60 * rows[filled] / rows.max()
        axes.scatter(predicted, observed, s=sizes, color=colour, alpha=0.85, linewidths=0, zorder=3)
        axes.plot([], [], "o-", color=colour, linewidth=0.7, markersize=3.5, markeredgewidth=0, label=name)
    _name(axes, label, f"Reliability{_on(part)}; dot area: images")
    axes.legend(loc="best", borderaxespad=0.1)
    return figure


@matplotlib.rc_context(STYLE)
def confusion(matrix_LL: Sequence[Sequence[int]], names: Sequence[str], *, part: str = "") -> Figure:
    """Heat map of a confusion matrix: shaded by share of the true class (row), with counts."""
    matrix = np.asarray(matrix_LL)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = 0.62 * len(names)
    longest = max(max(len(n) for n in names) * 0.068, 2.2 - side)
    figure = Figure(figsize=(side + longest + 0.5, side + 1.15))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    width, height = figure.get_size_inches()
    axes.set_position(((longest + 0.4) / width, 0.6 / height, side / width, side / height))
    edges = np.arange(len(names) + 1) - 0.5
    axes.pcolormesh(edges, edges, share, cmap=shade(), vmin=0, vmax=1, edgecolors="white", linewidth=1.5)
    axes.invert_yaxis()
    for i, row in enumerate(matrix):
        for j, count in enumerate(row):
            colour = "white" if share[i, j] > 0.55 else INK
            axes.text(j, i - 0.1, f"{count:,}", ha="center", va="center", color=colour, fontsize=9)
            axes.text(j, i + 0.22, f"{share[i, j]:.0%}", ha="center", va="center", color=colour, fontsize=6.5)
    axes.set_yticks(range(len(names)), names)
    crowded = max(len(n) for n in names) > 9
    axes.set_xticks(range(len(names)), [_wrap(n) for n in names] if crowded else names)
    axes.tick_params(length=0, pad=4)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_xlabel("Predicted class")
    axes.set_ylabel("True class")
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.text(0.08 / width, 1 - 0.08 / height, f"Confusion matrix{_on(part)}", va="top", fontweight="bold")
    below = "images, and their percentage\nof the true class (shade)"
    figure.text(0.08 / width, 1 - 0.23 / height, below, va="top", fontsize=6.5, color=QUIET)
    return figure


@matplotlib.rc_context(STYLE)
def progress(table: pd.DataFrame, *, chosen: int | None, title: str = "") -> Figure:
    """One metric (`title`) by epoch, a line for each part. `table`: epoch, part, value; `chosen` is the selected epoch, marked."""
    figure, axes = _axes((2.7, 2.1), (0.21, 0.18, 0.76, 0.67))
    _draw_progress(axes, table, chosen, title)
    return figure


@matplotlib.rc_context(STYLE)
def all_progress(panels: Mapping[str, pd.DataFrame], *, chosen: int | None, title: str) -> Figure:
    """The whole training in one picture: a panel of `progress` for each metric. `panels`: the metric in words to its table."""
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    width, height = 2.7 * columns, 2.1 * lines + 0.35
    figure = Figure(figsize=(width, height))
    figure.text(0.1 / width, 1 - 0.1 / height, title, va="top", fontsize=10, fontweight="bold")
    for n, (name, table) in enumerate(panels.items()):
        line, column = divmod(n, columns)
        low = height - 0.35 - 2.1 * (line + 1)
        box = (2.7 * (column + 0.21) / width, (low + 0.38) / height, 2.7 * 0.76 / width, 2.1 * 0.67 / height)
        axes = figure.add_axes(box)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(length=2.5)
        _draw_progress(axes, table, chosen, name)
    return figure


def _draw_progress(axes: Axes, table: pd.DataFrame, chosen: int | None, title: str) -> None:
    for part in ("train", "val"):
        rows = table[table["part"] == part].sort_values("epoch")
        if len(rows):
            colour = PART_COLOURS[part]
            x, y = rows["epoch"].to_numpy(), rows["value"].to_numpy(dtype=float)
            style: dict[str, Any] = {"marker": "o", "markersize": 2.6} if len(x) <= 30 else {}
            axes.plot(x, y, color=colour, linewidth=1.3, zorder=3 if part == "val" else 2, label=part, **style)
    if chosen is not None:
        axes.axvline(chosen, color=RULE, linewidth=0.9, zorder=1, label=f"selected: {chosen}")
    axes.set_title(f"{title} by epoch" if len(title) < 24 else title, fontweight="bold", pad=15)
    axes.set_ylabel(title, fontsize=8 if len(title) < 28 else 7)
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 0.985), ncols=3, borderpad=0, handlelength=1.4, columnspacing=1.2
    )
    axes.set_xlabel("Epoch")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.margins(x=0.04, y=0.12)
    if not (table["value"] > 1.0).any():  # shares end at 1, and so does the axis
        axes.set_ylim(top=min(axes.get_ylim()[1], 1.02))


@matplotlib.rc_context(STYLE)
def prevalence(parts: Mapping[str, Mapping[str, Any]], labels: Sequence[str]) -> Figure:
    """Share of positives of every label (see `metrics.prevalence`), a dot for each part."""
    height = 0.24 * len(labels) + 0.95
    longest = min(max(len(n) for n in labels), 30) * 0.066 + 0.15
    width = longest + 3.0
    figure, axes = _axes((width, height), (longest / width, 0.42 / height, 2.75 / width, 1 - 0.9 / height))
    for i, label in enumerate(labels):
        shares = []
        for part, counts in parts.items():
            cell = counts["labels"].get(label)
            if cell and cell["known"]:
                shares.append((part, cell["positives"] / cell["known"]))
        if shares:
            axes.plot([0, max(s for _, s in shares)], [i, i], color=RULE, linewidth=0.8, zorder=1)
        for part, share in shares:
            axes.scatter(share, i, s=20, color=PART_COLOURS[part], linewidths=0, zorder=2, alpha=0.9)
    for part in parts:
        axes.scatter([], [], s=20, color=PART_COLOURS[part], linewidths=0, label=part)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlim(left=0)
    percent_axis(axes.xaxis)
    axes.set_xlabel("Share of positives, of images whose label is known")
    figure.text(0.08 / width, 1 - 0.08 / height, "Prevalence by part", va="top", fontweight="bold")
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, borderpad=0, handletextpad=0.2, columnspacing=1.2
    )
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    return figure


@matplotlib.rc_context(STYLE)
def svg(figure: Figure) -> str:
    """The figure as SVG from `<svg` on: no prologue, no date, equal text for equal figures."""
    FigureCanvasSVG(figure)
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


@matplotlib.rc_context(STYLE)
def png(figure: Figure) -> bytes:
    """The figure as PNG on white, 200 dpi, for a slide or a paper: no date, equal bytes for equal figures."""
    FigureCanvasAgg(figure)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=200, facecolor="white", metadata={"Software": None})
    return out.getvalue()


def _axes(size: tuple[float, float], box: tuple[float, float, float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size)
    axes = figure.add_axes(box)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=2.5)
    return figure, axes


def percent_axis(axis: Axis, ticks: int = 5) -> None:
    """Ticks of a share as percent, in round steps. A label states exactly where its tick is: 2.5% is not shown as 2%."""
    axis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(lambda x, _: f"{100 * x:.10g}%")


def _on(part: str) -> str:
    return f" on {part}" if part else ""


def _name(axes: Axes, label: str, what: str) -> None:
    """The title of a panel: the label in bold, and below it what is shown."""
    axes.set_title(label, fontweight="bold", pad=16, fontsize=8 if len(label) <= 30 else 6.5)
    axes.annotate(what, (0, 1), (0, 5), xycoords="axes fraction", textcoords="offset points", fontsize=7, color=QUIET)


def _square(x: str, y: str) -> tuple[Figure, Axes]:
    figure, axes = _axes((2.3, 2.55), (0.2, 0.155, 0.77, 0.695))
    square_axes(axes, x, y)
    return figure, axes


def square_axes(axes: Axes, x: str, y: str) -> None:
    """Two shares against each other."""
    axes.set_xlim(-0.015, 1.015)
    axes.set_ylim(-0.015, 1.015)
    ticks = [0, 0.25, 0.5, 0.75, 1]
    axes.set_xticks(ticks, ["0", "", "0.5", "", "1"])
    axes.set_yticks(ticks, ["0", "", "0.5", "", "1"])
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_aspect("equal")


def _mark(axes: Axes, point: tuple[float, float] | None) -> None:
    if point is not None:
        axes.plot(
            *point,
            marker="o",
            markersize=6,
            markerfacecolor="white",
            markeredgecolor=INK,
            markeredgewidth=1.2,
            zorder=4,
            clip_on=False,
            linestyle="none",
            label="operating point",
        )


def thin(x: Array, y: Array) -> tuple[Array, Array]:
    """The curve at no more than `POINTS` points, evenly spaced along its length, ends included."""
    if len(x) <= POINTS:
        return x, y
    length = np.r_[0.0, np.cumsum(np.hypot(np.diff(x), np.diff(y)))]
    chosen = np.unique(np.searchsorted(length, np.linspace(0, length[-1], POINTS)).clip(0, len(x) - 1))
    return x[chosen], y[chosen]


def shade() -> Any:
    """The colour map of heat maps, for shares from 0 to 1."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("ink", ["#f3f6f9", "#8fb3cd", "#184d72"])


def _wrap(name: str) -> str:
    """A class name wrapped to about nine letters a line, at spaces and `_`."""
    words = name.replace("_", " ").split()
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + 1 + len(word) <= 9:
            lines[-1] += " " + word
        else:
            lines.append(word)
    return "\n".join(lines)
