"""ROC and precision-recall curves of two parts side by side, a line for each label. The common style is plots.py."""
# N rows

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy.typing as npt

from cxr_ray.plotting.plots import INK, PART_COLOURS, QUIET, STYLE, Figure, draw_precision_recall, draw_roc, square_axes

Scores = tuple[npt.NDArray[Any], npt.NDArray[Any]]
SIDE = 1.75
"""Inches of a panel."""


@matplotlib.rc_context(STYLE)
def side_by_side(parts: Mapping[str, Mapping[str, Scores]], title: str) -> Figure:
    """The ROC curve of each part, then the precision-recall curve of each. `parts`: part to label to (truth, scores) [N]; a panel is
    empty, with the reason, where a label lacks a class in a part."""
    labels = list(dict.fromkeys(label for of in parts.values() for label in of))
    columns = [(kind, part) for kind in ("ROC curve", "precision-recall curve") for part in parts]
    figure = Figure(
        figsize=(len(columns) * (SIDE + 0.35) + 0.1, len(labels) * (SIDE + 0.75) + 0.45), layout="constrained"
    )
    figure.suptitle(title, fontsize=9, fontweight="bold", x=0.01, ha="left")
    grid = figure.subplots(len(labels), len(columns), squeeze=False)
    for line, label in enumerate(labels):
        for axes, (kind, part) in zip(grid[line], columns, strict=True):
            true_N, score_N = parts[part][label]
            is_roc = kind == "ROC curve"
            square_axes(axes, *(("1 − specificity", "Recall") if is_roc else ("Recall", "Precision")))
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_title(f"{label}\n{kind}, {part}", fontsize=7, color=INK)
            if not true_N.any() or true_N.all():
                why = f"no {'negatives' if len(true_N) and true_N.all() else 'positives'} in {part}"
                axes.text(0.5, 0.5, why, ha="center", va="center", fontsize=7, color=QUIET)
                continue
            (draw_roc if is_roc else draw_precision_recall)(axes, true_N, score_N, PART_COLOURS[part])
            axes.legend(loc="best", fontsize=6, borderaxespad=0.1)
    return figure
