"""Metrics of a finished run for other parts, labels, thresholds and epochs, from saved predictions. Reads no model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cxr_ray import labels as label_space
from cxr_ray.errors import UserError
from cxr_ray.evaluation.prediction_table import EvaluationSettings, PredictionTable, choose_points, rule_of
from cxr_ray.labels import PARTS
from cxr_ray.metrics import TABLE_METRICS, Value, compute_metrics, operating_points
from cxr_ray.runs import Run

PROGRESS = ("loss", "accuracy", "exact_match", *TABLE_METRICS)
"""Metrics of the table by epoch."""


@dataclass(frozen=True)
class Rescored:
    """The metrics of a part at other thresholds: values, labels shown, operating points, and notes about its rows."""

    part: str
    labels: tuple[str, ...]
    values: list[Value]
    points: dict[str, operating_points.Point]
    operating: dict[str, Any]
    """The rule, and the points of the labels shown on val and on this part, as in `results.evaluate_table`, without intervals."""
    notes: tuple[str, ...] = ()


def chosen_labels(run: Run, names: str | Sequence[str] | None) -> list[str]:
    """The run's labels that `names` selects, in their order. A group selects those of its labels that the run has.

    Groups are in `run.json`; for older runs they are read from the store. Raises `UserError`."""
    known = run.info["labels"]
    if names is None:
        return list(known)
    listed = [names] if isinstance(names, str) else list(names)
    groups: dict[str, list[str]] = {}
    if any(name not in (*known, "all") for name in listed):
        groups = {k: [label for label in v if label in known] for k, v in _groups(run).items()}
    return label_space.resolve(listed, known, {k: v for k, v in groups.items() if v})


def _groups(run: Run) -> dict[str, Sequence[str]]:
    saved = run.info["store"].get("groups")
    if saved is not None:
        return dict(saved)
    from cxr_ray.data import store as stores

    try:
        return dict(stores.open(run.info["store"]["path"], verify="none", cache=run.config.data.cache).info.groups)
    except UserError:
        return {}


def predicted_parts(run: Run) -> list[str]:
    """The parts with saved predictions of the selected epoch."""
    return [p for p in PARTS if (run.path / "predictions" / f"{p}.parquet").exists()]


def rescore(
    run: Run, part: str, *, labels: Sequence[str] | None = None, thresholds: operating_points.Rule | None = None
) -> Rescored:
    """Compute the metrics of one part from its saved predictions, at other thresholds; a rule is applied on val.

    Averages and overall metrics are over the chosen labels only. For classes, `labels` only selects the rows to show."""
    shown, computed = _labels(run, labels)
    task = run.info["task"]
    table = PredictionTable(run.predictions(part), computed, task)
    val = PredictionTable(run.predictions("val"), computed, task) if "val" in predicted_parts(run) else None
    settings = EvaluationSettings.from_report(run.config.report, rule_of(run, thresholds, shown))
    points = choose_points(table, val, settings)
    notes = run.missing_predictions(part, table.frame)
    here = operating_points.apply(table.decide(), points)
    operating = {
        "rule": operating_points.describe(settings.rule),
        "chosen_on_rows": operating_points.needs_rows(settings.rule, computed),
        "points": operating_points.to_json({k: points[k] for k in shown}),
        "here": operating_points.to_json({k: here[k] for k in shown}),
    }
    return Rescored(part, tuple(shown), _values(table, points), points, operating, tuple(notes))


def progress(
    run: Run, *, labels: Sequence[str] | None = None, thresholds: operating_points.Rule | None = None
) -> pd.DataFrame:
    """Every epoch's metrics, long form: epoch, part, metric, label, value.

    As logged by the training if neither labels nor thresholds are given. Otherwise computed from the saved predictions of every
    epoch; a rule chooses thresholds on the val of each epoch. Raises `UserError` if these predictions were not saved."""
    columns = ["epoch", "part", "metric", "label", "value"]
    if labels is None and thresholds is None:
        return run.metrics[columns]
    files = epoch_files(run)
    if not files:
        raise UserError(
            f"{run.path} has no predictions of its epochs, so their metrics cannot be computed for other labels or thresholds; "
            "train with --report.keep_predictions true to save them"
        )
    _, computed = _labels(run, labels)
    settings = EvaluationSettings(rule_of(run, thresholds, computed), interval_by="image")
    rows: list[dict[str, Any]] = []
    for epoch in sorted({e for e, _ in files}):
        tables = {
            part: PredictionTable(pd.read_parquet(files[epoch, part]), computed, run.info["task"])
            for part in ("train", "val")
            if (epoch, part) in files
        }
        chosen_on = next(tables[part] for part in ("val", "train") if part in tables)
        points = choose_points(chosen_on, chosen_on, settings)
        for part, table in tables.items():
            rows += [
                {"epoch": epoch, "part": part, "metric": v.metric, "label": v.label, "value": v.value}
                for v in _values(table, points)
            ]
    return pd.DataFrame(rows, columns=columns)


def epoch_files(run: Run) -> dict[tuple[int, str], Path]:
    """(epoch, part) to the file of its predictions, if they were saved."""
    files = {}
    for file in sorted((run.path / "predictions" / "epochs").glob("*.parquet")):
        epoch, _, part = file.stem.partition("-")
        files[int(epoch), part] = file
    return files


def _labels(run: Run, labels: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """(labels to show, labels to compute): for classes all are computed."""
    every = list(run.info["labels"])
    shown = list(labels or every)
    return shown, every if run.info["task"] == "multiclass" else shown


def _values(table: PredictionTable, points: dict[str, operating_points.Point]) -> list[Value]:
    return compute_metrics(
        table.truth_NL,
        table.prob_NL,
        labels=table.labels,
        task=table.task,
        thresholds_L=operating_points.thresholds_of(points),
    )
