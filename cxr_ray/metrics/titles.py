"""Metrics in words, for pages, figures and tables that people read."""

from collections.abc import Mapping
from typing import Any

from cxr_ray.config.metric_names import split_name
from cxr_ray.metrics.names import AT_PRECISION, AVERAGES, MEAN

NAMES = {
    "accuracy": "Accuracy",
    "ap": "Average precision",
    "auroc": "ROC AUC",
    "brier": "Brier score",
    "ece": "Calibration error",
    "exact_match": "Exact match",
    "f1": "F1",
    "finding_f1": "F1, images with a finding",
    "finding_precision": "Precision, images with a finding",
    "finding_recall": "Recall, images with a finding",
    "hamming": "Hamming loss",
    "loss": "Loss",
    "npv": "Negative predictive value",
    "precision": "Precision",
    "recall": "Recall",
    "sample_f1": "F1, averaged over images",
    "sample_precision": "Precision, averaged over images",
    "sample_recall": "Recall, averaged over images",
    "specificity": "Specificity",
    "top2": "Top-2 accuracy",
    "top3": "Top-3 accuracy",
    "top5": "Top-5 accuracy",
    **{metric: f"Recall at a precision of {least:g}" for metric, least in AT_PRECISION.items()},
}


def heading(metric: str, label: str, task: str) -> str:
    """A metric of one label, of all, or their mean, above a number or a figure: ROC AUC, Mean recall, Macro F1."""
    if label != MEAN or task == "binary":
        return NAMES[metric]
    if metric == "f1" and task == "multiclass":
        return "Macro F1"
    name = NAMES[metric]
    return f"Mean {name if name.isupper() or name.startswith('ROC') else name.lower()}"


def metric_text(name: str) -> str:
    """A metric in words: `val/auroc/mean` is mean ROC AUC, `val/recall/Edema` recall of Edema."""
    _, metric, label = split_name(name)
    text = NAMES.get(metric, metric)  # a plugin's metric has no other name
    text = text if text.startswith(("ROC", "F1")) else text[0].lower() + text[1:]
    return f"{label} {text}" if label in AVERAGES else f"{text} of {label}" if label else text


def metric_title(name: str) -> str:
    """As `metric_text`, with a capital letter."""
    text = metric_text(name)
    return text[0].upper() + text[1:]


def p_text(row: Mapping[str, Any], resamples: int | None = None) -> str:
    """The `p` of a difference: `0.031`, or `≤ 0.002 (1,000 resamples)` where its resamples show no smaller one. Empty without it."""
    p = row.get("p")
    if p is None:
        return ""
    if row.get("p_is_bound"):
        return f"≤ {p:.1g}" + ("" if resamples is None else f" ({resamples:,} resamples)")
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1g}"
