"""Plots of a sweep. Each mark carries its trial's name, so that the page can highlight it. The common style is plots.py."""
# T trials, K hyperparameters

import functools
import json
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from cxr_ray.plotting.plots import ACCENT, CALIBRATED, INK, QUIET, STYLE, Figure, shade, svg

PALE = "#c3cfd9"
"""Colour of a trial that is neither the best nor the base configuration."""
MARK = "trial-"
FOOT = 0.1
"""Share of an axis below its interval, for values of the base configuration that lie outside it."""


class Shown(NamedTuple):
    """How figures mark a trial."""

    name: str
    best: bool = False
    base: bool = False
    """Whether it is the base configuration."""
    stopped: bool = False
    """Whether it was stopped early."""


class Scale(NamedTuple):
    """The axis of a hyperparameter or an objective."""

    title: str
    kind: str
    """log, linear or choice."""
    low: float = 0.0
    high: float = 1.0
    choices: tuple[str, ...] = ()
    """For kind choice, in order."""
    down: bool = False
    """Whether lower is better: the top of the axis is then `low`."""
    off: tuple[str, ...] = ()
    """Values of the base configuration that the axis cannot show (null, or 0 on a logarithmic axis); they are shown at its foot."""

    def at(self, value: Any) -> float:
        """The value as a number on an axis: the position of a choice; NaN for a value that the axis cannot show."""
        if self.kind == "choice":
            return float(self.choices.index(text(value)))
        return math.nan if text(value) in self.off else float(value)

    def place(self, value: Any) -> float:
        """The value on a vertical axis, from the bottom (0) to the top (1)."""
        if self.kind == "choice":
            return 0.5 if len(self.choices) == 1 else self.at(value) / (len(self.choices) - 1)
        if text(value) in self.off:
            return 0.0
        share = self.share(value)
        if self.off:  # the foot is reserved for them
            share = FOOT + (1 - FOOT) * share
        return 1 - share if self.down else share

    def share(self, value: Any) -> float:
        """Where a number lies on the axis, from `low` (0) to `high` (1)."""
        low, high, here = (math.log(v) if self.kind == "log" else v for v in (self.low, self.high, float(value)))
        return 0.5 if high == low else (here - low) / (high - low)

    def edges(self, parts: int) -> list[float]:
        """The ends of `parts` equal parts of the axis."""
        spaced = np.geomspace if self.kind == "log" else np.linspace
        return [float(edge) for edge in spaced(self.low, self.high, parts + 1)]

    def ticks(self) -> list[tuple[float, str]]:
        """(place, text) of the tick labels of a vertical axis."""
        if self.kind == "choice":
            return [(self.place(c), c) for c in self.choices]
        if self.kind == "log":
            inner = [10.0**e for e in range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)]
            values = inner if len(inner) > 1 else sorted({self.low, *inner, self.high})
        elif self.low == self.high:
            values = [self.low]
        else:
            values = [v for v in MaxNLocator(5).tick_values(self.low, self.high) if self.low <= v <= self.high]
        return [*((0.0, label) for label in self.off), *((self.place(v), f"{v:.6g}") for v in values)]


def scale(title: str, values: Sequence[Any], kind: str, declared: Sequence[Any] = (), *, down: bool = False) -> Scale:
    """The axis for the trials' values and those of the search space (its bounds, or its choices in order).

    `kind` as in a search space; up to six different numbers of another kind (of a list) are treated as choices."""
    values = [*declared, *values]
    off: tuple[str, ...] = ()
    if kind in ("loguniform", "uniform", "integer") and declared:
        shown = [v for v in values if v is not None and (kind != "loguniform" or v > 0)]
        off = tuple(dict.fromkeys(text(v) for v in values if v not in shown))
        values = shown
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    few = len({text(v) for v in values}) <= 6
    if not numbers or kind == "choice" or (kind not in ("loguniform", "uniform", "integer") and few):
        order = sorted(values) if numbers else values
        return Scale(title, "choice", choices=tuple(dict.fromkeys(map(text, order))))
    log = kind == "loguniform" and min(values) > 0
    return Scale(title, "log" if log else "linear", float(min(values)), float(max(values)), down=down, off=off)


def text(value: Any) -> str:
    """A hyperparameter's value in a few characters: 0.00031, 500, zeros, null."""
    if isinstance(value, float) and not isinstance(value, bool):
        return f"{value:.3g}"
    return value if isinstance(value, str) else json.dumps(value)


@matplotlib.rc_context(STYLE)
def parallel(shown: Sequence[Shown], at_TK: Sequence[Sequence[float | None]], axes_K: Sequence[Scale]) -> Figure:
    """Parallel coordinates: every trial as a line from its hyperparameters to the objective (the last axis); better trials are
    darker. `at_TK` in 0 to 1; None if a trial has no value."""
    figure = Figure(figsize=(max(3.2, 1.75 * len(axes_K)), 3.9))
    axes = figure.add_axes((0.02, 0.02, 0.96, 0.7))
    _head(figure, "Trials by hyperparameter; a darker line is a better trial", shown, lines=True)
    colours = LinearSegmentedColormap.from_list("ink", ["#d5dee6", "#6d9bbd", "#123f5f"])
    for x, axis in enumerate(axes_K):
        axes.plot([x, x], [0, 1], color=QUIET, linewidth=0.8, zorder=1)
        axes.text(
            x, 1.06, _broken(axis.title), ha="center", va="bottom", fontsize=8, fontweight="bold", linespacing=1.1
        )
        for y, label in axis.ticks():
            axes.plot([x - 0.02, x + 0.02], [y, y], color=QUIET, linewidth=0.8, zorder=1)
            axes.text(x + 0.05, y, label, va="center", fontsize=7, color=INK, zorder=6,
                      bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "alpha": 0.75, "linewidth": 0})  # fmt: skip
    for one, at_K in zip(shown, at_TK, strict=True):
        y_K = np.array([np.nan if y is None else y for y in at_K], float)
        if np.isnan(y_K).sum() > 1 or np.isnan(y_K[-1]):
            continue
        colour = CALIBRATED if one.best else to_hex(colours(float(y_K[-1])))
        axes.plot(
            range(len(y_K)), y_K, color=colour, linewidth=2.4 if one.best else 1.2, zorder=5 if one.best else 2 + y_K[-1],
            linestyle=(0, (2, 1.5)) if one.base else "-", solid_joinstyle="round", gid=MARK + one.name,
        )  # fmt: skip
    axes.set_xlim(-0.4, len(axes_K) - 0.6)
    axes.set_ylim(-0.05, 1.05)
    axes.axis("off")
    return figure


@matplotlib.rc_context(STYLE)
def hyperparameter(
    shown: Sequence[Shown], scale: Scale, value_T: Sequence[Any], y_T: Sequence[float], title: str
) -> Figure:
    """The objective (`title`) over one hyperparameter, a dot for each trial, hollow if it was stopped early."""
    figure, axes = _axes((2.9, 2.65), left=0.62, top=0.5)
    _head(figure, scale.title, shown)
    names = scale.choices
    if scale.kind == "log":
        axes.set_xscale("log")
    for one, value, y in zip(shown, value_T, y_T, strict=True):
        if not math.isnan(x := scale.at(value)):
            _dot(axes, one, x + (_spread(one.name) if names else 0.0), y)
    if names:
        axes.set_xticks(range(len(names)), [n if len(n) <= 12 else n[:11] + "…" for n in names])
        axes.set_xlim(-0.5, len(names) - 0.5)
        if len(names) > 4:
            axes.tick_params(axis="x", labelrotation=35)
    elif scale.kind == "linear":
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(scale.title.rpartition(".")[2])
    axes.set_ylabel(title)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.margins(x=0.08, y=0.12)
    if scale.kind == "log":
        _log_ticks(axes)
    return figure


MOST_TICKS = 5


def _log_ticks(axes: Axes) -> None:
    """At most five labelled ticks on a logarithmic x axis. Matplotlib labels every minor tick of a short one, on top of each other."""
    low, high = axes.get_xlim()
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in (range(1, 10), (1, 2, 3, 5), (1, 3), (1,)):
        at = [float(f"{step}e{decade}") for decade in decades for step in steps]
        at = [value for value in at if low <= value <= high]
        if len(at) <= MOST_TICKS:
            break
    at = at[:: math.ceil(len(at) / MOST_TICKS)] if at else list(MaxNLocator(3).tick_values(low, high)[1:-1])
    axes.xaxis.set_major_locator(FixedLocator(at))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


@matplotlib.rc_context(STYLE)
def importance(names: Sequence[str], mean: Sequence[float], deviation: Sequence[float]) -> Figure:
    """Permutation importance of each hyperparameter with its standard deviation, the largest on top."""
    longest = max(len(n) for n in names) * 0.075 + 0.15
    height, width = 0.3 * len(names) + 0.85, longest + 3.0
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((longest / width, 0.42 / height, 2.8 / width, 1 - 0.8 / height))
    _head(figure, "Importance of the hyperparameters, with its standard deviation", ())
    axes.spines[["top", "right", "left"]].set_visible(False)
    order = np.argsort(-np.asarray(mean), kind="stable")
    axes.barh(range(len(names)), np.asarray(mean)[order], height=0.55, color=ACCENT)
    axes.errorbar(
        np.asarray(mean)[order],
        range(len(names)),
        xerr=np.asarray(deviation)[order],
        fmt="none",
        ecolor=INK,
        elinewidth=0.9,
    )
    axes.set_yticks(range(len(names)), [names[i] for i in order])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.axvline(0, color=QUIET, linewidth=0.8)
    axes.set_xlabel("Loss of R² when the hyperparameter is shuffled")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    return figure


@matplotlib.rc_context(STYLE)
def curves(shown: Sequence[Shown], line_T: Sequence[tuple[Sequence[int], Sequence[float]]], value: str) -> Figure:
    """The objective of every trial by epoch, with a cross if it was stopped early."""
    figure, axes = _axes((4.4, 3.3), left=0.62, top=0.5)
    _head(figure, f"{value} by epoch, a line per trial", shown, lines=True)
    for one, (x, y) in zip(shown, line_T, strict=True):
        if not len(x):
            continue
        colour = CALIBRATED if one.best else INK if one.base else PALE
        front = one.best or one.base
        axes.plot(x, y, color=colour, linewidth=2.0 if one.best else 1.1, zorder=4 if front else 2, gid=MARK + one.name,
                  linestyle=(0, (2, 1.5)) if one.base else "-", marker="o" if len(x) == 1 else None, markersize=3)  # fmt: skip
        if one.stopped:
            axes.plot(x[-1], y[-1], marker="x", markersize=5, color=QUIET, markeredgewidth=1.3, zorder=3)
    axes.set_xlabel("Epoch")
    axes.set_ylabel(value)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.margins(x=0.03, y=0.08)
    return figure


@matplotlib.rc_context(STYLE)
def pareto(
    shown: Sequence[Shown], point_T: Sequence[tuple[float, float]], front_T: Sequence[bool], titles: tuple[str, str]
) -> Figure:
    """Two objectives against each other; a line joins the Pareto front."""
    figure, axes = _axes((3.9, 3.5), left=0.62, top=0.5)
    _head(figure, "Two objectives; orange: the Pareto front", [one._replace(best=False) for one in shown])
    front = sorted(p for p, yes in zip(point_T, front_T, strict=True) if yes)
    if front:
        axes.plot(*zip(*front, strict=True), color=CALIBRATED, linewidth=0.9, zorder=1)
    for one, (x, y), on in zip(shown, point_T, front_T, strict=True):
        _dot(axes, one._replace(best=on), x, y)
    axes.set_xlabel(titles[0])
    axes.set_ylabel(titles[1])
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.margins(0.08)
    return figure


@matplotlib.rc_context(STYLE)
def heat(names: Sequence[str], labels: Sequence[str], value_TL: Sequence[Sequence[float | None]], title: str) -> Figure:
    """Trial x label: shaded within a label from its worst trial to its best (see `shares`), with the values."""
    values = np.array([[np.nan if v is None else v for v in row] for row in value_TL], float).reshape(
        len(names), len(labels)
    )
    share = shares(values)
    width, height = max(0.52 * len(labels) + 1.2, 3.4), 0.24 * len(names) + 2.0
    figure = Figure(figsize=(width, height))
    figure.text(0.08 / width, 1 - 0.08 / height, f"{title} on val", va="top", fontweight="bold")
    below = "dark: a label's best trial, pale: its worst"
    figure.text(0.08 / width, 1 - 0.25 / height, below, va="top", fontsize=6.5, color=QUIET)
    axes = figure.add_axes((0.7 / width, 1.3 / height, 0.52 * len(labels) / width, 0.24 * len(names) / height))
    edges = np.arange(len(labels) + 1) - 0.5, np.arange(len(names) + 1) - 0.5
    axes.pcolormesh(*edges, np.nan_to_num(share), cmap=shade(), vmin=0, vmax=1, edgecolors="white", linewidth=1.0)
    axes.invert_yaxis()
    for (i, j), value in np.ndenumerate(values):
        label = "–" if np.isnan(value) else f"{value:.2f}"
        axes.text(
            j, i, label, ha="center", va="center", fontsize=6.5, color="white" if share[i, j] > WHITE_FROM else INK
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_ylabel("Trial, the best first")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


WHITE_FROM = 0.72
"""Share from which white text is more readable on the shade than ink."""
LEAST_RANGE = 0.05
"""Range of a label's values below which differences must not look large."""


def shares(value_TL: Any) -> Any:
    """0 (a label's worst trial) to 1 (its best) for values [T, L] of metrics of which higher is better; NaN if undefined.

    0 in a column of zeros: nothing in it is good."""
    values = np.asarray(value_TL, float)
    if not np.isfinite(values).any():
        return np.full(values.shape, np.nan)
    worst, best = (np.nanmin(values, axis=0, initial=np.inf), np.nanmax(values, axis=0, initial=-np.inf))
    return np.where(best == 0.0, 0.0 * values, 1 - (best - values) / np.maximum(best - worst, LEAST_RANGE))


def winners(value_TL: Any) -> Any:
    """Whether a trial has the highest value of a label, bool [T, L]. A column in which all are equal has no winner."""
    values = np.asarray(value_TL, float)
    worst, best = (np.nanmin(values, axis=0, initial=np.inf), np.nanmax(values, axis=0, initial=-np.inf))
    return (values == best) & (best > worst)


def shade_of(share: float) -> tuple[str, str]:
    """(background, text colour) of a cell of the heat map on the page."""
    return _shades()[round(100 * share)], "#ffffff" if share > WHITE_FROM else INK


@functools.cache
def _shades() -> list[str]:
    return [to_hex(colour) for colour in shade()(np.linspace(0, 1, 101))]


def marked(figure: Figure) -> str:
    """The figure as inline `<svg>`, every trial's marks in a group of class `trial`; unused ids are dropped, so that one page may
    have several figures."""
    page = re.sub(r"<metadata>.*?</metadata>\s*", "", svg(figure), flags=re.DOTALL)
    page = re.sub(rf'<g id="{MARK}([^"]+)">', lambda found: f'<g class="trial" data-trial="{found[1]}">', page)
    used = set(re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', page))
    return re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", page)


def titled(page: str, lines: Mapping[str, str]) -> str:
    """A figure of `marked` with a tooltip for each trial."""
    return re.sub(
        r'<g class="trial" data-trial="([^"]+)">',
        lambda found: f"{found[0]}<title>{escape(lines.get(found[1], found[1]))}</title>",
        page,
    )


def _head(figure: Figure, title: str, shown: Sequence[Shown], *, lines: bool = False) -> None:
    """The title, and below it the marks that occur: the best trial, the base configuration, trials that ended early."""
    width, height = figure.get_size_inches()
    small = len(title) * 0.066 > width - 0.16
    figure.text(0.08 / width, 1 - 0.08 / height, title, va="top", fontweight="bold", fontsize=6.5 if small else 8)
    style: dict[str, Any] = {"markersize": 5, "markeredgewidth": 1.2, "linewidth": 1.4 if lines else 0}
    dot = "none" if lines else "o"
    marks = [
        (one.best for one in shown),
        (one.base for one in shown),
        (one.stopped for one in shown),
    ]
    handles = [
        Line2D([], [], color=CALIBRATED, marker=dot, label="best", **style),
        Line2D([], [], color=INK, marker="none" if lines else "D", linestyle=(0, (2, 1.5)), label="base configuration", **style),
        Line2D([], [], color=QUIET if lines else ACCENT, marker="x" if lines else "o", markerfacecolor="white",
               label="ended early", **style | {"linewidth": 0}),
    ]  # fmt: skip
    found = [handle for handle, has in zip(handles, marks, strict=True) if any(has)]
    if found:
        figure.legend(handles=found, loc="upper left", bbox_to_anchor=(0.04 / width, 1 - 0.24 / height), ncols=3,
                      borderpad=0, borderaxespad=0, handlelength=1.6, columnspacing=1.0, handletextpad=0.5)  # fmt: skip


def _axes(size: tuple[float, float], *, left: float, top: float = 0.0) -> tuple[Figure, Axes]:
    """Axes with `left` inches for the tick labels and the title of the vertical axis, and `top` inches for the figure's title."""
    width, height = size
    figure = Figure(figsize=size)
    axes = figure.add_axes((left / width, 0.48 / height, 1 - (left + 0.1) / width, 1 - (0.6 + top) / height))
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=2.5)
    return figure, axes


def _broken(title: str) -> str:
    """A hyperparameter's name in two lines, its section above; other text unchanged."""
    section, dot, name = title.rpartition(".")
    return f"{section}.\n{name}" if dot else title


def _dot(axes: Axes, one: Shown, x: float, y: float) -> None:
    colour = CALIBRATED if one.best else INK if one.base else ACCENT
    axes.plot(
        x, y, marker="D" if one.base else "o", markersize=6.5 if one.best else 5, markeredgecolor=colour, markeredgewidth=1.2,
        markerfacecolor="white" if one.stopped else colour, alpha=0.9, zorder=3 if one.best or one.base else 2, gid=MARK + one.name,
    )  # fmt: skip


def _spread(name: str) -> float:
    """A trial's horizontal offset from the centre of a choice, so that equal dots do not overlap; the same in every figure."""
    digits = int(re.sub(r"\D", "", name) or 0)
    return ((digits * 7) % 11 - 5) * 0.045
