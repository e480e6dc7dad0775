"""The page of a comparison: its verdict, its figures, its tables. The layout is comparison.html, computing is evaluation/compare.py."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cxr_ray.metrics import MAIN_METRICS, MEAN, TABLE_METRICS
from cxr_ray.metrics.titles import NAMES, heading, p_text
from cxr_ray.plotting import comparison_plots
from cxr_ray.plotting.run_figures import Draw
from cxr_ray.report.render import interval, jinja, number, signed, write_figures
from cxr_ray.storage.atomic import write_atomic

PRIMARY = {"multilabel": ("auroc", MEAN), "binary": ("auroc", MEAN), "multiclass": ("f1", MEAN)}
"""The metric that a verdict is about, by task."""


def write(found: Mapping[str, Any], path: Path) -> None:
    """Write the page of a comparison (see `evaluation.compare`): one file that loads nothing, and its figures as PNG in a folder
    next to it."""
    figures = {name: draw() for name, draw in difference_figures(found).items()}
    page = (
        jinja()
        .get_template("comparison.html")
        .render(found=found, names=NAMES, first=TABLE_METRICS, figures=figures, verdicts=verdicts(found))
    )
    write_atomic(path, page)
    write_figures(path.with_name(f"figures-{path.stem}"), figures)


def difference_figures(found: Mapping[str, Any]) -> dict[str, Draw]:
    """`SECOND-minus-FIRST` to the plot of the paired differences, for each pair of runs that has any."""
    out: dict[str, Draw] = {}
    for pair in found["pairs"]:
        rows = [row for row in pair["rows"] if row["metric"] in MAIN_METRICS and (row["label"] in _labels(found))]
        if rows:
            title = f"{pair['second']} minus {pair['first']} on {found['part']}, {found['rows']:,} images"
            draw = partial(comparison_plots.differences, _labels(found), rows, title)
            out[f"{pair['second']}-minus-{pair['first']}"] = draw
    return out


def verdicts(found: Mapping[str, Any]) -> list[str]:
    """A sentence for each pair of runs: which is better in the primary metric, and whether chance explains it; then which labels
    differ by more than chance."""
    out = []
    for pair in found["pairs"]:
        rows = {(row["metric"], row["label"]): row for row in pair["rows"]}
        metric, label = PRIMARY[found["task"]]
        one = next((rows[metric, k] for k in (label, *found["labels"]) if (metric, k) in rows), None)
        line = f"{pair['second']} against {pair['first']}: " + (
            "no metric is defined for both."
            if one is None
            else _verdict(pair, one, heading(metric, one["label"], found["task"]))
        )
        out.append(line + _by_label(rows, found["labels"]))
    return out


def _verdict(pair: Mapping[str, Any], one: Mapping[str, Any], title: str) -> str:
    name = title if title.startswith("ROC") else title[0].lower() + title[1:]
    if one.get("low") is None:
        return f"{name} differs by {signed(one['value'])}; no interval was computed, so chance is not excluded."
    if one["low"] <= 0 <= one["high"]:
        return f"no difference in {name} is shown: {signed(one['value'])} ({interval(dict(one))}) is within what chance explains."
    winner, loser = (pair["second"], pair["first"]) if one["value"] > 0 else (pair["first"], pair["second"])
    return (
        f"{winner} is better than {loser} by {number(abs(one['value']))} {name}, more than chance explains "
        f"({interval(dict(one))}{_p(one)})."
    )


def _p(one: Mapping[str, Any]) -> str:
    return "" if one.get("p") is None else f", p {p_text(one)}"


def _by_label(rows: Mapping[tuple[str, str], Mapping[str, Any]], labels: Sequence[str]) -> str:
    """The labels whose intervals exclude 0, and how many of so many would by chance alone."""
    tried = [
        row
        for (metric, label), row in rows.items()
        if metric in MAIN_METRICS and label in labels and row.get("low") is not None
    ]
    clear = [row for row in tried if not row["low"] <= 0 <= row["high"]]
    if len(labels) < 2 or not tried:
        return ""
    chance = f"of {len(tried)} intervals by label, about {0.05 * len(tried):.1f} would exclude 0 by chance alone"
    if not clear:
        return f" No label differs by more than its interval ({chance})."
    listed = ", ".join(f"{row['label']} {signed(row['value'])} {NAMES[row['metric']]}" for row in clear[:6])
    more = f" and {len(clear) - 6} more" if len(clear) > 6 else ""
    return f" By label the interval excludes 0 for {listed}{more} ({chance})."


def _labels(found: Mapping[str, Any]) -> list[str]:
    return [*found["labels"], *([MEAN] if len(found["labels"]) > 1 else [])]
