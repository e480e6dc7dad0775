"""The figures of a sweep, a trial's marks named so that the page can point at them. How figures look is plots.py's."""
# T trials, K knobs

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
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cxr_ray.report.plots import ACCENT, CALIBRATED, INK, QUIET, STYLE, shade, svg

PALE = "#c3cfd9"
"""A trial that is neither the best nor the config as written."""
MARK = "trial-"
FOOT = 0.1
"""Share of an upright below its interval, where the config as written says what the interval cannot hold."""


class Shown(NamedTuple):
    """A trial as every figure draws it."""

    name: str
    best: bool = False
    base: bool = False
    """Whether it is the config as written."""
    stopped: bool = False
    """Whether it was ended before its last epoch."""


class Scale(NamedTuple):
    """What a knob, or an objective, was among the trials, and how it is laid out."""

    title: str
    kind: str
    """log, linear or choice."""
    low: float = 0.0
    high: float = 1.0
    choices: tuple[str, ...] = ()
    """Of kind choice, in their order."""
    down: bool = False
    """Whether less is better: the head of an upright is then `low`."""
    off: tuple[str, ...] = ()
    """Of an interval what the config as written says and the axis cannot hold: null, or 0 on a logarithm's. It stands at the foot."""

    def at(self, value: Any) -> float:
        """The value as a number on an axis: of a choice its place among them; NaN for what the axis cannot hold."""
        if self.kind == "choice":
            return float(self.choices.index(text(value)))
        return math.nan if text(value) in self.off else float(value)

    def place(self, value: Any) -> float:
        """The value on an upright, from its foot (0) to its head (1)."""
        if self.kind == "choice":
            return 0.5 if len(self.choices) == 1 else self.at(value) / (len(self.choices) - 1)
        if text(value) in self.off:
            return 0.0
        low, high, here = (math.log(v) if self.kind == "log" else v for v in (self.low, self.high, float(value)))
        share = 0.5 if high == low else (here - low) / (high - low)
        if self.off:  # which have the foot for themselves
            share = FOOT + (1 - FOOT) * share
        return 1 - share if self.down else share

    def ticks(self) -> list[tuple[float, str]]:
        """(place, text) of what is written at an upright."""
        if self.kind == "choice":
            return [(self.place(c), c) for c in self.choices]
        if self.kind == "log":
            inner = [10.0**e for e in range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)]
            values = inner if len(inner) > 1 else sorted({self.low, *inner, self.high})
        elif self.low == self.high:
            values = [self.low]
        else:
            values = [v for v in MaxNLocator(5).tick_values(self.low, self.high) if self.low <= v <= self.high]
        return [*((0.0, said) for said in self.off), *((self.place(v), text(float(v))) for v in values)]


def scale(title: str, values: Sequence[Any], kind: str, declared: Sequence[Any] = (), *, down: bool = False) -> Scale:
    """The scale of the values that the trials had and of those that the space declares: its ends, or its choices in their order.
    `kind` as in a search space; numbers of another kind (a list's) are choices while they are few."""
    values = [*declared, *values]
    off: tuple[str, ...] = ()
    if kind in ("loguniform", "uniform", "integer") and declared:
        held = [v for v in values if v is not None and (kind != "loguniform" or v > 0)]
        off = tuple(dict.fromkeys(text(v) for v in values if v not in held))
        values = held
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    few = len({text(v) for v in values}) <= 6
    if not numbers or kind == "choice" or (kind not in ("loguniform", "uniform", "integer") and few):
        order = sorted(values) if numbers else values
        return Scale(title, "choice", choices=tuple(dict.fromkeys(map(text, order))))
    log = kind == "loguniform" and min(values) > 0
    return Scale(title, "log" if log else "linear", float(min(values)), float(max(values)), down=down, off=off)


def text(value: Any) -> str:
    """A knob's value in a few characters: 0.00031, 500, zeros, null."""
    if isinstance(value, float) and not isinstance(value, bool):
        return f"{value:.3g}"
    return value if isinstance(value, str) else json.dumps(value)


@matplotlib.rc_context(STYLE)
def parallel(shown: Sequence[Shown], at_TK: Sequence[Sequence[float | None]], axes_K: Sequence[Scale]) -> Figure:
    """Every trial as a line over its knobs to the objective (the last axis), the better the darker. `at_TK` in 0 to 1; None
    where a trial has no value."""
    figure = Figure(figsize=(max(3.2, 1.75 * len(axes_K)), 3.3))
    axes = figure.add_axes((0.02, 0.02, 0.96, 0.82))
    colours = LinearSegmentedColormap.from_list("ink", ["#d5dee6", "#6d9bbd", "#123f5f"])
    for x, axis in enumerate(axes_K):
        axes.plot([x, x], [0, 1], color=QUIET, linewidth=0.8, zorder=1)
        axes.text(
            x, 1.06, _broken(axis.title), ha="center", va="bottom", fontsize=8, fontweight="bold", linespacing=1.1
        )
        for y, said in axis.ticks():
            axes.plot([x - 0.02, x + 0.02], [y, y], color=QUIET, linewidth=0.8, zorder=1)
            axes.text(x + 0.05, y, said, va="center", fontsize=7, color=INK, zorder=6,
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
    """The objective (`title`) over one knob, a dot a trial: hollow where it was stopped early."""
    figure, axes = _axes((2.9, 2.1), left=0.62)
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
    axes.set_ylabel(title)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.margins(x=0.08, y=0.12)
    return figure


@matplotlib.rc_context(STYLE)
def importance(names: Sequence[str], mean: Sequence[float], deviation: Sequence[float]) -> Figure:
    """What the order of each knob among the trials is worth to the forest, the greatest on top, with the deviation."""
    longest = max(len(n) for n in names) * 0.075 + 0.15
    height, width = 0.3 * len(names) + 0.55, longest + 3.0
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((longest / width, 0.42 / height, 2.8 / width, 1 - 0.5 / height))
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
    axes.set_xlabel("Loss of R² when the knob is shuffled")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    return figure


@matplotlib.rc_context(STYLE)
def curves(shown: Sequence[Shown], line_T: Sequence[tuple[Sequence[int], Sequence[float]]], value: str) -> Figure:
    """The objective of every trial over its epochs; a cross where it was stopped early."""
    figure, axes = _axes((4.4, 2.8), left=0.62)
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
    """Two objectives against each other, the trials that none beats in both joined by a line."""
    figure, axes = _axes((3.9, 3.0), left=0.62)
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
    """Trial x label: shade within a label, from its worst trial to its best (see `shares`), values written in."""
    values = np.array([[np.nan if v is None else v for v in row] for row in value_TL], float).reshape(
        len(names), len(labels)
    )
    share = shares(values)
    width, height = 0.52 * len(labels) + 1.2, 0.24 * len(names) + 1.75
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0.7 / width, 1.3 / height, 0.52 * len(labels) / width, 0.24 * len(names) / height))
    edges = np.arange(len(labels) + 1) - 0.5, np.arange(len(names) + 1) - 0.5
    axes.pcolormesh(*edges, np.nan_to_num(share), cmap=shade(), vmin=0, vmax=1, edgecolors="white", linewidth=1.0)
    axes.invert_yaxis()
    for (i, j), value in np.ndenumerate(values):
        said = "–" if np.isnan(value) else f"{value:.2f}"
        axes.text(
            j, i, said, ha="center", va="center", fontsize=6.5, color="white" if share[i, j] > WHITE_FROM else INK
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_title(title, fontsize=9, loc="left")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


WHITE_FROM = 0.72
"""Share from which white can be read on its shade, and ink no longer."""
LEAST_RANGE = 0.05
"""Of a label's trials: differences under it are not to look large."""


def shares(value_TL: Any) -> Any:
    """0 (a label's worst trial) to 1 (its best) for values [T, L] of metrics of which more is better; NaN where undefined."""
    values = np.asarray(value_TL, float)
    if not np.isfinite(values).any():
        return np.full(values.shape, np.nan)
    worst, best = (np.nanmin(values, axis=0, initial=np.inf), np.nanmax(values, axis=0, initial=-np.inf))
    return 1 - (best - values) / np.maximum(best - worst, LEAST_RANGE)


def shade_of(share: float) -> tuple[str, str]:
    """(background, ink) of a cell of `heat` on the page."""
    return _shades()[round(100 * share)], "#ffffff" if share > WHITE_FROM else INK


@functools.cache
def _shades() -> list[str]:
    return [to_hex(colour) for colour in shade()(np.linspace(0, 1, 101))]


def marked(figure: Figure) -> str:
    """The figure as an `<svg>` for the page's own text, every trial's marks in a group of class `trial`; ids that nothing refers
    to are dropped, so that several figures may stand on one page."""
    page = re.sub(r"<metadata>.*?</metadata>\s*", "", svg(figure), flags=re.DOTALL)
    page = re.sub(rf'<g id="{MARK}([^"]+)">', lambda found: f'<g class="trial" data-trial="{found[1]}">', page)
    used = set(re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', page))
    return re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", page)


def titled(page: str, lines: Mapping[str, str]) -> str:
    """A figure of `marked` with a line for each trial, shown where a pointer rests on its marks."""
    return re.sub(
        r'<g class="trial" data-trial="([^"]+)">',
        lambda found: f"{found[0]}<title>{escape(lines.get(found[1], found[1]))}</title>",
        page,
    )


def _axes(size: tuple[float, float], *, left: float) -> tuple[Figure, Axes]:
    """Axes with `left` inches for the numbers and the title of the upright."""
    width, height = size
    figure = Figure(figsize=size)
    axes = figure.add_axes((left / width, 0.48 / height, 1 - (left + 0.1) / width, 1 - 0.6 / height))
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=2.5)
    return figure, axes


def _broken(title: str) -> str:
    """A knob's name in two lines, its section above; other words as they are."""
    section, dot, name = title.rpartition(".")
    return f"{section}.\n{name}" if dot else title


def _dot(axes: Axes, one: Shown, x: float, y: float) -> None:
    colour = CALIBRATED if one.best else INK if one.base else ACCENT
    axes.plot(
        x, y, marker="D" if one.base else "o", markersize=6.5 if one.best else 5, markeredgecolor=colour, markeredgewidth=1.2,
        markerfacecolor="white" if one.stopped else colour, alpha=0.9, zorder=3 if one.best or one.base else 2, gid=MARK + one.name,
    )  # fmt: skip


def _spread(name: str) -> float:
    """A trial's own place beside a choice's middle, so that equal dots do not hide each other: the same in every figure."""
    digits = int(re.sub(r"\D", "", name) or 0)
    return ((digits * 7) % 11 - 5) * 0.045
