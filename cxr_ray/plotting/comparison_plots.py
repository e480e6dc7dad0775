"""Plots of a comparison of runs: their values, and their paired differences. The common style is plots.py."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from cxr_ray.metrics import MEAN
from cxr_ray.metrics.titles import NAMES
from cxr_ray.plotting.plots import ACCENT, CALIBRATED, DULL, INK, QUIET, RULE, STYLE, Figure

COLOURS = (ACCENT, CALIBRATED, DULL, INK, QUIET)


@matplotlib.rc_context(STYLE)
def values(runs: Sequence[str], labels: Sequence[str], rows: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """One metric (`title`) of every run by label, with its interval. `rows`: run, label, value and, if there is an interval, low, high."""
    gap = 0.8 / max(1, len(runs))
    height = 0.2 * len(labels) * max(2, len(runs)) + 1.2
    longest = max(len(n) for n in labels) * 0.066 + 0.2
    width = longest + 3.6
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((longest / width, 0.45 / height, 3.4 / width, 1 - 1.1 / height))
    axes.spines[["top", "right", "left"]].set_visible(False)
    for i, run in enumerate(runs):
        colour, shift, named = COLOURS[i % len(COLOURS)], (i - (len(runs) - 1) / 2) * gap, run
        for row in (r for r in rows if r["run"] == run):
            y = labels.index(row["label"]) + shift
            if "low" in row:
                axes.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=1.4, zorder=2)
            axes.plot(row["value"], y, "o", color=colour, markersize=4.5, zorder=3, label=named)
            named = "_"  # one entry of the legend per run
    for y in range(1, len(labels)):
        axes.axhline(y - 0.5, color=RULE, linewidth=0.6, zorder=1)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(f"{title}, with its 95% interval" if any("low" in row for row in rows) else title)
    figure.text(0.08 / width, 1 - 0.08 / height, f"{title} of each run", va="top", fontweight="bold")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=max(1, min(3, len(runs))), fontsize=7)
    return figure


@matplotlib.rc_context(STYLE)
def differences(labels: Sequence[str], rows: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Paired differences by label, a panel for each metric. `rows`: metric, label, value and, if there is an interval, low, high."""
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    longest = max(max(len(n) for n in labels) * 0.066, 0.4) + 0.2
    each, gap, height = 1.85, 0.25, 0.24 * len(labels) + 1.35
    width = longest + len(metrics) * (each + gap)
    figure = Figure(figsize=(width, height))
    figure.text(0.08 / width, 1 - 0.08 / height, title, va="top", fontweight="bold")
    for i, metric in enumerate(metrics):
        left = (longest + i * (each + gap)) / width
        axes = figure.add_axes((left, 0.62 / height, each / width, 1 - 1.2 / height))
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.axvline(0, color=QUIET, linewidth=0.8, zorder=1)
        for row in (row for row in rows if row["metric"] == metric):
            y = labels.index(row["label"])
            known = row.get("low") is not None
            clear = known and not row["low"] <= 0 <= row["high"]
            colour = ACCENT if clear else DULL
            if known:
                axes.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=1.6, zorder=2)
            axes.plot(
                row["value"],
                y,
                "o" if known else "D",
                color=colour,
                markerfacecolor=colour if clear else "white",
                markersize=4.5,
                zorder=3,
            )
        if MEAN in labels and len(labels) > 1:
            axes.axhline(len(labels) - 1.5, color=RULE, linewidth=0.8, zorder=0)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_yticks(range(len(labels)), labels if i == 0 else [""] * len(labels))
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        limit = 1.1 * max(abs(x) for x in axes.get_xlim())
        axes.set_xlim(-limit, limit)
        axes.set_xlabel(f"Difference in {_lower(NAMES[metric])}")
    style: dict[str, Any] = {"marker": "o", "markersize": 4.5, "linewidth": 1.6}
    handles = [
        Line2D([], [], color=ACCENT, label="95% interval excludes 0", **style),
        Line2D([], [], color=DULL, markerfacecolor="white", label="chance may explain it", **style),
    ]
    if any(row.get("low") is None for row in rows):
        bare = style | {"marker": "D", "linewidth": 0}
        handles.append(Line2D([], [], color=DULL, markerfacecolor="white", label="no interval", **bare))
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0.02 / width, 1 - 0.24 / height)}
    figure.legend(handles=handles, ncols=3, fontsize=7, **place)
    return figure


def _lower(name: str) -> str:
    return name if name.startswith(("ROC", "F1")) else name.lower()
