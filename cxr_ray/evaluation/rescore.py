"""A saved run's numbers drawn again: other parts, labels and thresholds, epochs included. No model and no store is read."""
# N rows, L labels

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr_ray import labels as label_space
from cxr_ray.errors import UserError
from cxr_ray.evaluation.results import choose, columns_of, rule_of
from cxr_ray.labels import PARTS
from cxr_ray.metrics import TABLE_METRICS, Value, compute_metrics, operating_points
from cxr_ray.runs import Run

PROGRESS = ("loss", "accuracy", "exact_match", *TABLE_METRICS)


@dataclass(frozen=True)
class Rescored:
    """One part judged again: its values, the labels shown, each one's operating point, and what must be known of the rows."""

    part: str
    labels: tuple[str, ...]
    values: list[Value]
    points: dict[str, operating_points.Point]
    notes: tuple[str, ...] = ()


def chosen_labels(run: Run, wanted: str | Sequence[str] | None) -> list[str]:
    """The run's labels that `wanted` names, in their order; a group stands for those of its labels that the run has.

    Groups are the store's: `run.json` keeps them, for older runs the store is asked. Raises `UserError`."""
    known = run.info["labels"]
    if wanted is None:
        return list(known)
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    groups: dict[str, list[str]] = {}
    if any(name not in (*known, "all") for name in names):
        groups = {k: [label for label in v if label in known] for k, v in _groups(run).items()}
    return label_space.resolve(names, known, {k: v for k, v in groups.items() if v})


def _groups(run: Run) -> dict[str, Sequence[str]]:
    held = run.info["store"].get("groups")
    if held is not None:
        return dict(held)
    from cxr_ray.data import store as stores

    try:
        return dict(stores.open(run.info["store"]["path"], verify="none", cache=run.config.data.cache).groups)
    except UserError:
        return {}


def predicted_parts(run: Run) -> list[str]:
    """The parts whose predictions of the kept model are in the run."""
    return [p for p in PARTS if (run.path / "predictions" / f"{p}.parquet").exists()]


def rescore(
    run: Run, part: str, *, labels: Sequence[str] | None = None, thresholds: operating_points.Rule | None = None
) -> Rescored:
    """One part of the run from its kept predictions, at other thresholds; a rule chooses them on val.

    Averages and whole-table metrics are over the chosen labels alone; of classes only the rows shown are chosen."""
    task, every = run.info["task"], list(run.info["labels"])
    shown = list(labels or every)
    within = every if task == "multiclass" else shown
    rule = rule_of(run, thresholds, shown)
    table = run.predictions(part)
    val = run.predictions("val") if "val" in predicted_parts(run) else None
    points = choose(
        rule, within, task, val,
        interval_by=run.config.report.interval_by, assurance=run.config.report.assurance, rows=len(table),
    )  # fmt: skip
    values = _judge(table, within, task, operating_points.limits(points))
    return Rescored(part, tuple(shown), values, points, tuple(run.unpredicted(part, table)))


def progress(
    run: Run, *, labels: Sequence[str] | None = None, thresholds: operating_points.Rule | None = None
) -> pd.DataFrame:
    """Every epoch's metrics, long form: epoch, part, metric, label, value.

    As written while training where neither labels nor thresholds are chosen; else judged anew from the predictions of every
    epoch, a rule choosing its thresholds on each epoch's val. Raises `UserError` where they were not kept."""
    columns = ["epoch", "part", "metric", "label", "value"]
    if labels is None and thresholds is None:
        return run.metrics[columns]
    files = epoch_files(run)
    if not files:
        raise UserError(
            f"{run.path} kept no predictions of its epochs, so their progress cannot be judged anew; train with "
            "--report.keep_predictions true for that"
        )
    task, every = run.info["task"], list(run.info["labels"])
    within = every if task == "multiclass" else list(labels or every)
    rule = rule_of(run, thresholds, within)
    rows: list[dict[str, Any]] = []
    for epoch in sorted({e for e, _ in files}):
        held = {part: pd.read_parquet(files[epoch, part]) for part in ("train", "val") if (epoch, part) in files}
        by = held.get("val", held.get("train"))
        points = choose(rule, within, task, by, interval_by="image", assurance=None, rows=1)
        for part, table in held.items():
            rows += [
                {"epoch": epoch, "part": part, "metric": v.metric, "label": v.label, "value": v.value}
                for v in _judge(table, within, task, operating_points.limits(points))
            ]
    return pd.DataFrame(rows, columns=columns)


def epoch_files(run: Run) -> dict[tuple[int, str], Path]:
    """(epoch, part) to the file of its predictions, where they were kept."""
    found = {}
    for file in sorted((run.path / "predictions" / "epochs").glob("*.parquet")):
        epoch, _, part = file.stem.partition("-")
        found[int(epoch), part] = file
    return found


def _judge(table: pd.DataFrame, labels: Sequence[str], task: str, limits_L: Any) -> list[Value]:
    truth_NL, prob_NL = columns_of(table, labels, "true"), columns_of(table, labels, "prob")
    how = "multilabel" if task == "binary" and len(labels) != 1 else task
    return compute_metrics(truth_NL, prob_NL, labels=labels, task=how, thresholds_L=np.asarray(limits_L))
