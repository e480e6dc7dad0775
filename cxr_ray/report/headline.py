"""The first numbers of an evaluation, on its report and in the index: which metrics they are, their names, and their intervals."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cxr_ray.metrics import MAIN_METRICS, MEAN
from cxr_ray.metrics.titles import heading
from cxr_ray.report.render import interval

HEADLINE = {
    "multilabel": (*((m, MEAN) for m in MAIN_METRICS), ("ap", MEAN)),
    "binary": (("accuracy", ""), *((m, MEAN) for m in MAIN_METRICS)),
    "multiclass": (("accuracy", ""), ("f1", MEAN), ("recall", MEAN), ("auroc", MEAN)),
}

Values = Mapping[tuple[str, str], Mapping[str, Any]]


def headline_cells(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Name, value and interval of each headline metric of an evaluation."""
    values, task = by_metric(evaluation["values"], evaluation["labels"]), evaluation["task"]
    return [cell(values, metric, label, task) for metric, label in HEADLINE[task]]


def by_metric(rows: Iterable[Mapping[str, Any]], labels: Sequence[str]) -> dict[tuple[str, str], dict[str, Any]]:
    """Rows of `values` by metric and label. The mean over one label is that label's own row, which has the better interval."""
    values = {(row["metric"], row["label"]): dict(row) for row in rows}
    if len(labels) == 1:
        values |= {(metric, MEAN): row for (metric, of), row in values.items() if of == labels[0]}
    return values


def cell(values: Values, metric: str, label: str, task: str) -> dict[str, Any]:
    """Name and value of a metric (None: undefined) and its interval, and why it has none (empty if none was asked for)."""
    row = values.get((metric, label))
    why = (row or {}).get("no_interval", "")
    return {
        "name": heading(metric, label, task),
        "value": row and row["value"],
        "interval": interval(row) or ("no interval" if why else ""),
        "why": why,
    }
