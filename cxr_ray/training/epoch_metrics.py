"""Metrics of an epoch: the loss, every metric of metrics/, and the lines that are logged. Storing them: history.py."""
# N rows, L labels

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from cxr_ray import config as cfg
from cxr_ray import losses, metrics
from cxr_ray.config.metric_names import join_name
from cxr_ray.data.plan import Plan
from cxr_ray.labels import hard_targets, resolve
from cxr_ray.metrics import Value, operating_points
from cxr_ray.metrics.table import decide

CONFUSION = "confusion"
"""Metric of metrics.csv that counts rows, with the label `TRUE > PREDICTED`: a table in long form, not a curve."""


def epoch_values(
    logits_NL: torch.Tensor,
    truth_NL: npt.NDArray[np.float32],
    loss: losses.Loss,
    plan: Plan,
    thresholds_L: npt.NDArray[np.float64],
) -> list[Value]:
    """Loss, every metric and, for classes, the confusion matrix of all ranks' rows.

    Rows are gathered first: the mean of the ranks' AUROCs is not the AUROC. The loss uses the targets unchanged; metrics round
    smooth ones."""
    prob_NL = losses.probabilities(logits_NL, task=plan.task).numpy()
    values = metrics.compute_metrics(
        hard_targets(truth_NL), prob_NL, labels=plan.labels, task=plan.task, thresholds_L=thresholds_L
    )
    counts = _confusion(truth_NL, prob_NL, plan.labels) if plan.task == "multiclass" else []
    return [*_losses(loss, logits_NL, truth_NL, plan.labels), *values, *counts]


def by_name(parts: Mapping[str, Sequence[Value]]) -> dict[str, float]:
    """The values of each part under the names of curves, such as val/auroc/Edema; without the confusion matrix."""
    return {
        join_name(part, v.metric, v.label): v.value
        for part, values in parts.items()
        for v in values
        if v.metric != CONFUSION
    }


def thresholds(
    rule: operating_points.Rule,
    logits_NL: torch.Tensor,
    truth_NL: npt.NDArray[np.float32],
    plan: Plan,
) -> npt.NDArray[np.float64]:
    """The thresholds [L] of `report.thresholds`; a rule chooses them on these rows, without a safety margin."""
    rule = operating_points.expand_groups(rule, plan.labels, plan.groups)
    parsed = operating_points.parse(rule, plan.labels, task=plan.task)
    if isinstance(parsed, np.ndarray):
        return parsed
    prob_NL = losses.probabilities(logits_NL, task=plan.task).numpy()
    default_L = np.full(len(plan.labels), operating_points.DEFAULT)
    table = decide(hard_targets(truth_NL), prob_NL, labels=plan.labels, task=plan.task, thresholds_L=default_L)
    return operating_points.thresholds_of(operating_points.choose(rule, table))


def epoch_lines(
    config: cfg.Config, plan: Plan, epoch: int, parts: dict[str, list[Value]], speed: float, seconds: float
) -> list[str]:
    """The epoch's log lines: losses and the main metrics, then the same for each label of `report.labels`."""

    def shown(name: str) -> str:
        value = metrics.find(parts, name)
        return "  --" if value is None else f"{value:.3f}"

    part = "val" if "val" in parts else "train"
    overall = "accuracy" if metrics.find(parts, f"{part}/accuracy") is not None else "exact_match"
    columns = [f"{p} loss {shown(f'{p}/loss')}" for p in ("train", "val") if p in parts]
    columns += [f"{m} {shown(f'{part}/{m}/mean')}" for m in metrics.MAIN_METRICS]
    columns += [f"{overall} {shown(f'{part}/{overall}')}"]
    columns += [f"{speed:,.0f} images/s"] if speed else []
    columns += [f"{seconds:.1f} s"]
    lines = [f"epoch {epoch}/{config.train.epochs}  {'  '.join(columns)}"]
    labels = resolve(config.report.labels, plan.labels, plan.groups)
    if 1 < len(labels) <= 14 and epoch:
        per_label = [f"{k} " + "/".join(shown(f"{part}/{m}/{k}") for m in metrics.MAIN_METRICS) for k in labels]
        lines.append(f"  {part} {'/'.join(metrics.MAIN_METRICS)}: " + ", ".join(per_label))
    return lines


def _losses(
    loss: losses.Loss, logits_NL: torch.Tensor, truth_NL: npt.NDArray[np.float32], labels: Sequence[str]
) -> list[Value]:
    """Mean loss over the known cells: of all labels and, if the loss has an element per label, of each."""
    truth = torch.from_numpy(truth_NL)
    if not len(truth):
        return []
    elements_NL = loss.elements(logits_NL, truth).double()
    cells = loss.cells(truth)
    hard_NL = hard_targets(truth_NL)
    positives = int((hard_NL == 1).sum())
    values = [Value("loss", "", float(elements_NL.sum()) / cells, positives, len(truth))] if cells else []
    if elements_NL.shape[1] == len(labels) > 1:
        for j, label in enumerate(labels):
            known_N = ~np.isnan(truth_NL[:, j])
            label_cells = loss.cells(truth[:, [j]])
            if label_cells:
                mean = float(elements_NL[:, j].sum()) / label_cells
                values.append(Value("loss", label, mean, int((hard_NL[:, j] == 1).sum()), int(known_N.sum())))
    return values


def _confusion(truth: npt.NDArray[np.float32], prob: npt.NDArray[np.float32], labels: Sequence[str]) -> list[Value]:
    """Rows per true and predicted class, each as a value labelled `TRUE > PREDICTED`."""
    if not len(truth):
        return []
    table = metrics.confusion(truth, prob)
    rows = int(table.sum())
    return [
        Value(CONFUSION, f"{true} > {predicted}", float(table[i, j]), int(table[i].sum()), rows)
        for i, true in enumerate(labels)
        for j, predicted in enumerate(labels)
    ]
