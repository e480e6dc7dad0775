"""Which metrics exist, and their values and names: `val/auroc/Edema`, `val/accuracy`. Computes nothing."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cxr_ray.config.metric_names import ALIASES, MEAN, split_name
from cxr_ray.errors import UserError, unknown
from cxr_ray.labels import PARTS
from cxr_ray.registry import METRICS

COUNTS = ("positives", "predicted_positives", "true_positives")
RATES = ("recall", "specificity", "precision", "npv", "f1", "auroc", "ap", "brier", "ece")
"""Metrics of one label. `config.metric_names.LOWER_IS_BETTER` lists those where lower is better."""
POOLED = ("recall", "specificity", "precision", "npv", "f1", "auroc", "ap")
"""Metrics that also have a micro and a weighted average."""
AT_PRECISION = {f"recall_at_precision_{least:g}": least for least in (0.1, 0.25, 0.5, 0.75, 0.9)}
"""The largest recall of a label at a precision of at least this value. The list is fixed, so that every epoch of every run has them,
whatever a later sweep optimises. Computed per label and as mean, without intervals."""
LABEL_METRICS = (*COUNTS, *RATES, *AT_PRECISION)
_SAMPLE = ("sample_recall", "sample_precision", "sample_f1", "finding_recall", "finding_precision", "finding_f1")
OVERALL_METRICS: dict[str, tuple[str, ...]] = {
    "multilabel": ("exact_match", "hamming", *_SAMPLE),
    "binary": ("accuracy", "exact_match", "hamming", *_SAMPLE),
    "multiclass": ("accuracy", "top2", "top3", "top5"),
}
"""Metrics of all labels together, by task."""
MICRO, WEIGHTED = "micro", "weighted"
AVERAGES = (MEAN, MICRO, WEIGHTED)
"""Mean over the labels that define the metric (macro); over all cells pooled; mean over labels weighted by their positives."""
TAKEN_LABELS = ("all", *sorted((*AVERAGES, *ALIASES)))
"""What settings and metrics call several labels together. No label may be called so."""
MAIN_METRICS = ("recall", "auroc", "precision")
"""The metrics that every table, page and message shows first, in this order: most important first."""
TABLE_METRICS = (*MAIN_METRICS, "f1", "ap")
"""Columns of a table with one row per label. Other metrics are shown elsewhere."""


def added_metrics() -> list[str]:
    """Metrics of one label that plugins have registered. Raises `UserError` if one has the name of a metric that exists."""
    added = [entry.name for entry in METRICS]
    existing = {"loss", *LABEL_METRICS, *(name for group in OVERALL_METRICS.values() for name in group)}
    if taken := [name for name in added if name in existing or "/" in name]:
        raise UserError(f"a plugin registers the metric {taken[0]!r}: give it a name of its own, without a slash")
    return added


class Value(NamedTuple):
    """One defined metric: of a label, of an average over labels (`label` is one of `AVERAGES`), or overall (`label` is "")."""

    metric: str
    label: str
    value: float
    positives: int
    """Number of positive known cells that the value is computed from."""
    rows: int
    """Number of rows whose label is known; for averages and overall metrics, rows with any known cell."""


def parse(name: str, *, labels: Sequence[str], task: str) -> tuple[str, str, str]:
    """(part, metric, label) of a metric name, checked before anything is computed. `macro` is read as `mean`.

    `loss` is also valid, in total or of one label; the trainer measures it. Raises `UserError` with the closest known name."""
    part, metric, label = split_name(name)
    if part not in PARTS:
        raise unknown("part", part, PARTS, where=f" in the metric {name!r}")
    overall = OVERALL_METRICS[task]
    existing = ["loss", *LABEL_METRICS, *overall, *added_metrics()]
    if metric not in existing:
        raise unknown("metric", metric, existing, where=f" in {name!r}")
    if metric in overall:
        if label:
            raise UserError(f"the metric {metric!r} is of all labels together: use {part}/{metric} instead of {name!r}")
        return part, metric, ""
    if not label and metric == "loss":
        return part, metric, ""
    if not label:
        raise UserError(f"{metric!r} is a metric of one label: use {part}/{metric}/mean or {part}/{metric}/{labels[0]}")
    known = [*labels, *([] if metric in COUNTS else AVERAGES if metric in POOLED else [MEAN])]
    if label not in known:
        raise unknown("label", label, known, where=f" in the metric {name!r}")
    return part, metric, label


def find(values: Mapping[str, Sequence[Value]], name: str) -> float | None:
    """The value called `name` among the values of each part (`{"val": compute_metrics(...)}`); None if it is undefined.

    The name is not checked: call `parse` once before training."""
    part, metric, label = split_name(name)
    return next((v.value for v in values.get(part, ()) if v.metric == metric and v.label == label), None)
