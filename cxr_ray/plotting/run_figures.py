"""The figures of a run and of an evaluation by name: `epochs-auroc`, `roc-Edema`, `pr-Edema`, `reliability-Edema`, `confusion`,
`prevalence`. Nothing is drawn until a figure is asked for."""
# N rows, L labels

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray.errors import unknown
from cxr_ray.metrics import MEAN, TABLE_METRICS
from cxr_ray.metrics.titles import NAMES, heading
from cxr_ray.plotting import plots
from cxr_ray.plotting.plots import Figure

Draw = Callable[[], Figure]
OVERALL = "all labels together"
"""The choice of a metric that is of no label."""
SAMPLE_METRICS = ("sample_recall", "sample_precision", "sample_f1")
EPOCHS = ("loss", "accuracy", *TABLE_METRICS, "exact_match", "hamming", *SAMPLE_METRICS)
"""Metrics that are shown by epoch, in this order."""


def by_label(
    predictions: pd.DataFrame,
    labels: Sequence[str],
    values: Iterable[Mapping[str, Any]],
    recalibrated_NL: npt.NDArray[Any] | None = None,
    *,
    part: str = "",
) -> dict[str, dict[str, Draw]]:
    """ROC, precision-recall and reliability plots (roc, pr, reliability) of each label that has positives and negatives.

    `values` are rows of metric, label and value: the operating point. `recalibrated_NL` are other probabilities, shown as well. `part`
    is named in the titles."""
    by_key = {(v["metric"], v["label"]): float(v["value"]) for v in values}
    out: dict[str, dict[str, Draw]] = {}
    for i, label in enumerate(labels):
        truth_N = predictions[f"true/{label}"].to_numpy()
        known_N = ~np.isnan(truth_N)
        true_N = truth_N[known_N] == 1.0
        score_N = predictions[f"prob/{label}"].to_numpy()[known_N].astype(np.float64)
        if not true_N.any() or true_N.all():
            continue
        recall, specificity, precision = (by_key.get((m, label)) for m in ("recall", "specificity", "precision"))
        on_roc = None if recall is None or specificity is None else (1 - specificity, recall)
        on_pr = None if recall is None or precision is None else (recall, precision)
        other_N = None if recalibrated_NL is None else recalibrated_NL[known_N, i]
        out[label] = {
            "roc": partial(plots.roc, true_N, score_N, on_roc, label=label, part=part),
            "pr": partial(plots.precision_recall, true_N, score_N, on_pr, label=label, part=part),
            "reliability": partial(plots.reliability, true_N, score_N, other_N, label=label, part=part),
        }
    return out


def by_epoch(metrics: pd.DataFrame, *, chosen: int | None, task: str) -> dict[str, tuple[str, Draw]]:
    """Metric to (the label it is of: mean, or "" for overall ones; its plot by epoch), for two epochs or more.

    `metrics` as in metrics.csv; `chosen` is the selected epoch."""
    if not len(metrics) or metrics["epoch"].nunique() < 2:
        return {}
    return {
        metric: (label, partial(plots.progress, rows, chosen=chosen, title=heading(metric, label, task)))
        for metric, (label, rows) in _overall(metrics, task).items()
    }


def training(metrics: pd.DataFrame, *, chosen: int | None, task: str, title: str) -> dict[str, Draw]:
    """`training`: the plots of `by_epoch` in one picture; nothing for fewer than two epochs."""
    if not by_epoch(metrics, chosen=chosen, task=task):
        return {}
    panels = {heading(metric, label, task): rows for metric, (label, rows) in _overall(metrics, task).items()}
    return {"training": partial(plots.all_progress, panels, chosen=chosen, title=title)}


def _overall(metrics: pd.DataFrame, task: str) -> dict[str, tuple[str, pd.DataFrame]]:
    """Each metric of `EPOCHS` that there is: (mean or overall, its rows of train and val)."""
    out: dict[str, tuple[str, pd.DataFrame]] = {}
    for metric in EPOCHS:
        rows = metrics[(metrics["metric"] == metric) & metrics["part"].isin(["train", "val"])]
        label = MEAN if (rows["label"] == MEAN).any() and not (rows["label"] == "").any() else ""
        rows = rows[rows["label"] == label]
        if len(rows) and not (task == "binary" and metric in ("exact_match", "hamming")):
            out[metric] = label, rows
    return out


def by_epoch_and_label(metrics: pd.DataFrame, *, chosen: int | None) -> dict[str, Draw]:
    """`epochs-METRIC-LABEL` to its plot by epoch, for every metric in words and every label, mean included."""
    if not len(metrics) or metrics["epoch"].nunique() < 2:
        return {}
    rows = metrics[metrics["part"].isin(["train", "val"]) & metrics["metric"].isin(NAMES) & (metrics["label"] != "")]
    return {
        f"epochs-{metric}-{label}": partial(plots.progress, of, chosen=chosen, title=f"{NAMES[str(metric)]}, {label}")
        for (metric, label), of in rows.groupby(["metric", "label"], sort=False)
    }


def courses(metrics: pd.DataFrame) -> dict[str, dict[str, dict[str, list[list[float]]]]]:
    """Metric in words to label to part to its [epoch, value] in order, of metrics.csv: every curve over the epochs, to choose from.
    Empty for fewer than two epochs."""
    if not len(metrics) or metrics["epoch"].nunique() < 2:
        return {}
    rows = metrics[metrics["part"].isin(["train", "val"])].dropna(subset=["value"]).sort_values("epoch", kind="stable")
    out: dict[str, dict[str, dict[str, list[list[float]]]]] = {}
    for metric in (*EPOCHS, *(m for m in NAMES if m not in EPOCHS)):
        for (label, part), of in rows[rows["metric"] == metric].groupby(["label", "part"], sort=False):
            points = [[int(e), float(f"{v:.4g}")] for e, v in zip(of["epoch"], of["value"], strict=True)]
            out.setdefault(NAMES[metric], {}).setdefault(str(label) or OVERALL, {})[str(part)] = points
    return out


def named(
    evaluation: Mapping[str, Any],
    predictions: pd.DataFrame | None,
    recalibrated_NL: npt.NDArray[Any] | None = None,
) -> dict[str, Draw]:
    """The figures of an evaluation by name; of `evaluation` labels and values are read, and the confusion matrix if it has one."""
    out: dict[str, Draw] = {}
    part = str(evaluation.get("part", ""))
    if evaluation.get("confusion"):
        out["confusion"] = partial(plots.confusion, evaluation["confusion"], evaluation["classes"], part=part)
    if predictions is not None:
        panels = by_label(predictions, evaluation["labels"], evaluation["values"], recalibrated_NL, part=part)
        out |= {f"{kind}-{label}": draw for label, of in panels.items() for kind, draw in of.items()}
    return out


def pick(figures: Mapping[str, Draw], name: str, *, where: str) -> Figure:
    """Draw the figure `name`. Raises `UserError` with the closest name, and with all names."""
    if name not in figures:
        raise unknown("figure", name, figures, where=where)
    return figures[name]()


def image(figure: Figure) -> str:
    """The figure as an HTML image that needs no file."""
    return f'<img src="{data_uri(plots.svg(figure))}" style="display: inline">'


def images(figures: Mapping[str, Draw], wanted: Sequence[str]) -> str:
    """The figures of these names that exist as HTML images, each with its name."""
    return "".join(
        f'<figure style="display: inline-block; margin: 0 1em 0 0">{image(figures[name]())}'
        f"<figcaption>{escape(name)}</figcaption></figure>"
        for name in wanted
        if name in figures
    )


def data_uri(svg: str) -> str:
    """An SVG as the address of an image, so that its ids and styles stay its own."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
