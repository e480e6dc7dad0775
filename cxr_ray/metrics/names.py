"""What a judged number is and how it is named: `val/auroc/Edema`, `val/accuracy`. Nothing is computed here."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cxr_ray.config.metric_names import MEAN, split_name
from cxr_ray.errors import UserError, unknown
from cxr_ray.labels import PARTS

COUNTS = ("positives", "predicted_positives", "true_positives")
RATES = ("recall", "specificity", "precision", "npv", "f1", "auroc", "ap", "brier", "ece")
"""Metrics of one label; of which less is better, `config.LESS_IS_BETTER` says."""
POOLED = ("recall", "specificity", "precision", "npv", "f1", "auroc", "ap")
"""Metrics that also have a micro and a weighted average."""
AT_PRECISION = {f"recall_at_precision_{least:g}": least for least in (0.1, 0.25, 0.5, 0.75, 0.9)}
"""The largest recall of a label whose precision is at least so much. A fixed few, so that each epoch of each run has them, whatever
a sweep asks for afterwards; of labels and their mean, without intervals."""
LABEL_METRICS = (*COUNTS, *RATES, *AT_PRECISION)
_SAMPLE = ("sample_recall", "sample_precision", "sample_f1", "finding_recall", "finding_precision", "finding_f1")
WHOLE_METRICS: dict[str, tuple[str, ...]] = {
    "multilabel": ("exact_match", "hamming", *_SAMPLE),
    "binary": ("accuracy", "exact_match", "hamming", *_SAMPLE),
    "multiclass": ("accuracy", "top2", "top3", "top5"),
}
MICRO, WEIGHTED = "micro", "weighted"
AVERAGES = (MEAN, MICRO, WEIGHTED)
"""Over labels that define the metric, each alike (macro); over all cells pooled; over labels, each by its positives."""
MAIN_METRICS = ("recall", "auroc", "precision")
"""What is told first, everywhere: the metrics of a label in the order of worth."""
TABLE_METRICS = (*MAIN_METRICS, "f1", "ap")
"""What a table of labels shows; the others are beside it."""


class Value(NamedTuple):
    """One defined number: a label's, the mean over labels (`label` "mean", "micro", "weighted"), or the whole table's (`label` "")."""

    metric: str
    label: str
    value: float
    positives: int
    """Known positive cells behind the value."""
    rows: int
    """Rows whose label is known; for averages and whole-table values, rows with any known cell."""


def parse(wanted: str, *, labels: Sequence[str], task: str) -> tuple[str, str, str]:
    """(part, metric, label) of a metric's name, before anything is computed; `macro` is read as `mean`.

    `loss` is measured by the engine, whole or of one label. Raises `UserError` naming the closest known name."""
    part, metric, label = split_name(wanted)
    if part not in PARTS:
        raise unknown("part", part, PARTS, where=f" in the metric {wanted!r}")
    whole = WHOLE_METRICS[task]
    if metric not in ("loss", *LABEL_METRICS, *whole):
        raise unknown("metric", metric, ["loss", *LABEL_METRICS, *whole], where=f" in {wanted!r}")
    if metric in whole:
        if label:
            raise UserError(f"the metric {metric!r} is of the whole table: say {part}/{metric} instead of {wanted!r}")
        return part, metric, ""
    if not label and metric == "loss":
        return part, metric, ""
    if not label:
        raise UserError(f"{metric!r} is a metric of one label: say {part}/{metric}/mean or {part}/{metric}/{labels[0]}")
    known = [*labels, *([] if metric in COUNTS else AVERAGES if metric in POOLED else [MEAN])]
    if label not in known:
        raise unknown("label", label, known, where=f" in the metric {wanted!r}")
    return part, metric, label


def find(values: Mapping[str, Sequence[Value]], wanted: str) -> float | None:
    """The value named `wanted` among those of each part (`{"val": judge(...)}`); None where it is undefined.

    A misspelt name is found out by `parse`, which is to be asked once before training."""
    part, metric, label = split_name(wanted)
    return next((v.value for v in values.get(part, ()) if v.metric == metric and v.label == label), None)
