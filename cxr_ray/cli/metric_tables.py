"""The metrics of an evaluation as text: the table by label, the line over all labels, and the operating points."""

from collections.abc import Sequence
from typing import Any

from cxr_ray.cli.terminal import merge_notes, table

LESS_IMPORTANT = ("true positives", "predicted positives", "brier", "ap", "f1", "specificity")
"""Columns of a table of metrics that a narrow terminal leaves out first."""


def metric_table(
    values: Sequence[dict[str, Any]], labels: Sequence[str], *, intervals: bool = False
) -> list[list[str]]:
    """`values` of an evaluation as a table of text: a head, one row per label, and the mean.

    Columns are counts and `TABLE_METRICS`: recall first, then ROC AUC, then precision. "-" if a value is undefined. With `intervals`
    each value has its interval on a second line."""
    from cxr_ray.metrics import COUNTS, TABLE_METRICS  # loads pandas, which `--help` does without

    shown = (*COUNTS, *TABLE_METRICS)
    by_name = {(v["metric"], v["label"]): v for v in values}

    def cell(metric: str, label: str) -> str:
        row = by_name.get((metric, label))
        if row is None:
            return "-"
        if metric in COUNTS:
            return f"{row['value']:,.0f}"
        return f"{row['value']:.3f}" + (f"\n{row['low']:.3f}-{row['high']:.3f}" if intervals and "low" in row else "")

    rows = [["label", *(name.replace("_", " ") for name in shown)]]
    return rows + [
        [label, *(cell(metric, label) for metric in shown)]
        for label in (*labels, *(["mean"] if len(labels) > 1 else []))
    ]


def overall_line(values: Sequence[dict[str, Any]], task: str) -> str:
    """The metrics over all labels in one line, with their intervals. With one label, they repeat the accuracy or its metrics."""
    overall = [v for v in values if not v["label"] and (v["metric"] == "accuracy" or task != "binary")]
    return ", ".join(
        f"{v['metric'].replace('_', ' ')} {v['value']:.3f}"
        + (f" ({v['low']:.3f} to {v['high']:.3f})" if "low" in v else "")
        for v in overall
    )


def print_operating(found: dict[str, Any], *, intervals: bool = False) -> None:
    """Print the thresholds that a rule selected with their cost in precision, and the operating points of fixed recalls; with
    `intervals` that of each value below it."""
    operating = found["operating"]
    against = ", each class against the rest" if found["task"] == "multiclass" else ""
    measured = ("recall", "precision", "alarms_per_100")

    def cells(point: dict[str, Any]) -> list[Any]:
        return [_with_interval(point, metric) if intervals else point.get(metric) for metric in measured]

    if operating["chosen_on_rows"]:
        rows = [
            [label, p["threshold"], p.get("recall"), *cells(operating["here"][label]), p.get("margin_precision")]
            for label, p in operating["points"].items()
        ]
        columns = [
            "label",
            "threshold",
            "recall on val",
            f"on {found['part']}",
            "precision",
            "alarms per 100",
            "precision change by margin",
        ]
        table(columns, rows, title=f"thresholds: {operating['rule']}, selected on val{against}")
        if against:
            print("the decision of classes stays the largest probability")
        unmet = {label: p["chosen"] for label, p in operating["points"].items() if not p["met"]}
        for line in merge_notes(unmet):
            print(f"note: {line}")
    if found["at_recall"]:
        rows = [
            [f"{r['recall']:g}", r["label"], r["val"]["threshold"], *cells(r["here"]), "" if r["val"]["met"] else "*"]
            for r in found["at_recall"]
        ]
        columns = ["target recall", "label", "threshold from val", "recall", "precision", "alarms per 100", ""]
        table(columns, rows, title=f"at a recall on val of at least the target, on {found['part']}{against}")
        for recall in dict.fromkeys(r["recall"] for r in found["at_recall"]):
            unmet = {
                r["label"]: r["val"]["chosen"].partition("; ")[2] or r["val"]["chosen"]
                for r in found["at_recall"]
                if r["recall"] == recall and not r["val"]["met"]
            }
            for line in merge_notes(unmet):
                print(f"* at {recall:g}: {line}")


def _with_interval(point: dict[str, Any], metric: str) -> str:
    """A value of an operating point, with its interval on a second line."""
    if (value := point.get(metric)) is None:
        return ""
    digits = 1 if metric == "alarms_per_100" else 3
    ends = point.get("intervals", {}).get(metric)
    return f"{value:.{digits}f}" + ("" if ends is None else f"\n{ends[0]:.{digits}f}-{ends[1]:.{digits}f}")
