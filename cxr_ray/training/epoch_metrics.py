"""An epoch judged: the loss beside every metric, and the lines that say them. Metrics alone live in metrics/."""
# N rows, L labels

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from cxr_ray import config as cfg
from cxr_ray import losses, metrics
from cxr_ray.config.metric_names import join_name
from cxr_ray.data.plan import Plan
from cxr_ray.labels import nearest, resolve
from cxr_ray.metrics import Value, operating_points
from cxr_ray.metrics.table import decide

CONFUSION = "confusion"
"""Metric of metrics.csv that counts rows: its label is `TRUE > SAID`. A table in a long form, not a curve to follow."""


def epoch_values(
    logits_NL: torch.Tensor,
    truth_NL: npt.NDArray[np.float32],
    loss: losses.Loss,
    plan: Plan,
    limits_L: npt.NDArray[np.float64],
) -> list[Value]:
    """Loss, every metric and, for classes, the confusion matrix of all ranks' rows together.

    Gathered first: the mean of the ranks' AUROCs is not the AUROC. The loss is of the targets as they are; metrics take a
    smooth one for its nearer side."""
    prob_NL = losses.probabilities(logits_NL, task=plan.task).numpy()
    found = metrics.compute_metrics(
        nearest(truth_NL), prob_NL, labels=plan.labels, task=plan.task, thresholds_L=limits_L
    )
    counted = _confusion(truth_NL, prob_NL, plan.labels) if plan.task == "multiclass" else []
    return [*_losses(loss, logits_NL, truth_NL, plan.labels), *found, *counted]


def by_name(values: Mapping[str, Sequence[Value]]) -> dict[str, float]:
    """The values of each part as curves are named, such as val/auroc/Edema; the confusion matrix is none."""
    return {
        join_name(part, v.metric, v.label): v.value
        for part, held in values.items()
        for v in held
        if v.metric != CONFUSION
    }


def limits(
    rule: operating_points.Rule,
    logits_NL: torch.Tensor,
    truth_NL: npt.NDArray[np.float32],
    plan: Plan,
) -> npt.NDArray[np.float64]:
    """The thresholds [L] of `report.thresholds`; a rule chooses them on these rows, without a margin."""
    rule = operating_points.spread(rule, plan.labels, plan.groups)
    asked = operating_points.parse(rule, plan.labels, task=plan.task)
    if isinstance(asked, np.ndarray):
        return asked
    prob_NL = losses.probabilities(logits_NL, task=plan.task).numpy()
    half_L = np.full(len(plan.labels), operating_points.FIXED)
    table = decide(nearest(truth_NL), prob_NL, labels=plan.labels, task=plan.task, thresholds_L=half_L)
    return operating_points.limits(operating_points.choose(rule, table))


def epoch_lines(
    config: cfg.Config, plan: Plan, epoch: int, values: dict[str, list[Value]], speed: float, seconds: float
) -> list[str]:
    """The epoch's lines: losses, then recall, AUROC, precision (the order of worth), then the same of each shown label."""

    def at(name: str) -> str:
        value = metrics.find(values, name)
        return "  --" if value is None else f"{value:.3f}"

    head = f"epoch {epoch}/{config.train.epochs}"
    judged = "val" if "val" in values else "train"
    whole = "accuracy" if metrics.find(values, f"{judged}/accuracy") is not None else "exact_match"
    said = [f"{part} loss {at(f'{part}/loss')}" for part in ("train", "val") if part in values]
    said += [f"{m} {at(f'{judged}/{m}/mean')}" for m in metrics.MAIN_METRICS] + [f"{whole} {at(f'{judged}/{whole}')}"]
    lines = [f"{head}  {'  '.join(said)}  " + (f"{speed:,.0f} images/s  " if speed else "") + f"{seconds:.1f} s"]
    shown = resolve(config.report.labels, plan.labels, plan.groups)
    if 1 < len(shown) <= 14 and epoch:
        each = [f"{k} " + "/".join(at(f"{judged}/{m}/{k}") for m in metrics.MAIN_METRICS) for k in shown]
        lines.append(f"  {judged} {'/'.join(metrics.MAIN_METRICS)}: " + ", ".join(each))
    return lines


def _losses(
    loss: losses.Loss, logits_NL: torch.Tensor, truth_NL: npt.NDArray[np.float32], labels: Sequence[str]
) -> list[Value]:
    """Mean loss over the known cells, whole and of each label (for a loss that has a share for each)."""
    truth = torch.from_numpy(truth_NL)
    if not len(truth):
        return []
    cells_NL = loss.elements(logits_NL, truth).double()
    known = loss.cells(truth)
    side_NL = nearest(truth_NL)
    positives = int((side_NL == 1).sum())
    out = [Value("loss", "", float(cells_NL.sum()) / known, positives, len(truth))] if known else []
    if cells_NL.shape[1] == len(labels) > 1:
        for j, label in enumerate(labels):
            here = ~np.isnan(truth_NL[:, j])
            of_label = loss.cells(truth[:, [j]])
            if of_label:
                value = float(cells_NL[:, j].sum()) / of_label
                out.append(Value("loss", label, value, int((side_NL[:, j] == 1).sum()), int(here.sum())))
    return out


def _confusion(truth: npt.NDArray[np.float32], prob: npt.NDArray[np.float32], labels: Sequence[str]) -> list[Value]:
    """Rows of each class that were called each class: a value each, named `TRUE > SAID`."""
    if not len(truth):
        return []
    table = metrics.confusion(truth, prob)
    rows = int(table.sum())
    return [
        Value(CONFUSION, f"{true} > {said}", float(table[i, j]), int(table[i].sum()), rows)
        for i, true in enumerate(labels)
        for j, said in enumerate(labels)
    ]
