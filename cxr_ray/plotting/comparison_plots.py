"""Plots of a comparison of runs. The common style is plots.py."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.ticker import MaxNLocator

from cxr_ray.plotting.plots import ACCENT, CALIBRATED, DULL, INK, QUIET, RULE, STYLE, Figure

COLOURS = (ACCENT, CALIBRATED, DULL, INK, QUIET)


@matplotlib.rc_context(STYLE)
def values(runs: Sequence[str], labels: Sequence[str], rows: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """One metric (`title`) of every run by label, with its interval. `rows`: run, label, value and, if there is an interval, low, high."""
    gap = 0.8 / max(1, len(runs))
    height = 0.2 * len(labels) * max(2, len(runs)) + 0.9
    longest = max(len(n) for n in labels) * 0.066 + 0.2
    width = longest + 3.6
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((longest / width, 0.45 / height, 3.4 / width, 1 - 0.8 / height))
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
    axes.set_xlabel(title)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=max(1, min(3, len(runs))), frameon=False, fontsize=7)
    return figure
