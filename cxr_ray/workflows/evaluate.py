"""Evaluate a run on one part of its store: predictions, baselines, results, report. Nothing is trained except the baselines."""
# N rows, L labels

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray import config as cfg
from cxr_ray import runs
from cxr_ray.data import plan as plans
from cxr_ray.data import store as stores
from cxr_ray.data import store_format
from cxr_ray.data.plan import Plan
from cxr_ray.errors import UserError
from cxr_ray.evaluation import analysis
from cxr_ray.evaluation.prediction_table import EvaluationSettings, PredictionTable, rule_of
from cxr_ray.evaluation.results import evaluate_table
from cxr_ray.inference import unusual_fit
from cxr_ray.metrics import calibration, operating_points, studies
from cxr_ray.report import index_page, run_page
from cxr_ray.runs import evaluation_files
from cxr_ray.runtime import progress
from cxr_ray.storage.atomic import write_atomic
from cxr_ray.training import epoch_model
from cxr_ray.workflows.evaluated_model import EvaluatedModel
from cxr_ray.workflows.evaluation_request import By, EvaluationRequest, unit
from cxr_ray.workflows.results import Evaluation


@dataclass(frozen=True)
class EvaluationData:
    """Everything that results are computed from."""

    plan: Plan
    """Of the training: labels, task, and the rows and targets of train."""
    predictions: pd.DataFrame
    val: pd.DataFrame | None
    """Predictions of the training's val part: thresholds are chosen and calibrators fitted on it."""
    records: pd.DataFrame
    """Records of the evaluated store, indexed by row."""
    train_records: pd.DataFrame
    """Records of the store of the training, indexed by row."""
    baselines: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    """Probabilities [N, L] of the rows of `predictions`."""
    unused_labels: Sequence[str] = ()
    """Labels of the store that define subgroups (see `unused_labels`)."""

    def by_study(self, method: studies.Method) -> "EvaluationData":
        """The same with one row per study. Raises `UserError` if the images have no studies."""
        labels, task = self.plan.labels, self.plan.task
        if self.predictions["study"].isna().all():
            raise UserError("the images have no studies, so they cannot be evaluated by study; leave `by` out")
        columns = {
            f"{name}:prob/{k}": prob[:, j] for name, prob in self.baselines.items() for j, k in enumerate(labels)
        }
        table = studies.combine(self.predictions.assign(**columns), labels, method=method, task=task)
        return replace(
            self,
            predictions=table,
            val=None if self.val is None else studies.combine(self.val, labels, method=method, task=task),
            baselines={name: table[[f"{name}:prob/{k}" for k in labels]].to_numpy(float) for name in self.baselines},
        )


def evaluate(path: str | Path, request: EvaluationRequest, *, log: Callable[[str], None] = print) -> Evaluation:
    """Evaluate the run in the folder `path` on a part of its own store (default: test, else val; the log states which) and write its
    report.

    The parts are read from the run's own `plan.parquet`. Predictions of the model and the baselines are computed once and saved, so
    that other thresholds need no model; a rule chooses thresholds on val. Each evaluation of test is counted in run.json. Raises
    `UserError` if the part has no rows, if the epoch's model is gone, and if the store is not the one of the training."""
    epoch, by = request.epoch, request.by
    run = load_trained(path, epoch=epoch)
    config = with_report_settings(run, request.report)
    store = stores.open(run.info["store"]["path"], verify="manifest", cache=config.data.cache)
    if store.fingerprint != run.info["store"]["fingerprint"]:
        raise UserError(
            f"the store {store.origin} is not the one that {run.path.name} was trained on: its fingerprint differs; "
            f"to evaluate the run on other data use --data {store.origin}"
        )
    plan = runs.plan_of(run, store)
    part = request.split or ("test" if len(plan.rows["test"]) else "val")
    if not len(plan.rows[part]):
        parts = ", ".join(p for p in plans.PARTS if len(plan.rows[p]))
        raise UserError(f"the run {run.path.name} has no rows in {part}; it has rows in {parts}")
    rule = rule_of(run, request.thresholds, plan.labels)
    operating_points.parse(rule, plan.labels, task=plan.task)
    selected_epoch = part == "val" and epoch is None and runs.is_selected_on_val(run.info, config.train)
    log(
        f"evaluating {part} ({len(plan.rows[part]):,} rows)"
        + (", which also selected the epoch" if selected_epoch else "")
        + ("" if epoch is None else f" with the model of epoch {epoch}")
    )

    model = EvaluatedModel(run, plan, store, epoch)
    table = model.predictions(part)
    val = model.predictions("val") if len(plan.rows["val"]) else None
    # An ensemble of folds has val rows that other members trained on: baselines would be fitted on them too.
    in_train = part != "train" and np.isin(plan.rows[part], plan.rows["train"]).any()
    records = store.index.set_index("row", drop=False)
    data = EvaluationData(
        plan,
        table,
        val,
        records=records,
        train_records=records,
        baselines=model.baselines(part) if config.report.rivals and not in_train else {},
        unused_labels=unused_labels(store, plan),
    )
    settings = EvaluationSettings.from_report(config.report, rule, seed=config.seed)
    results, table = compute_results(data, settings, by=by, combine=request.combine)
    blank = store.info.blank_policy(config.data.blank)
    results = {"part": part, **results, "blank": {"train": blank, "here": blank}, **about_model(model, val, log)}
    files = evaluation_files.of_part(run, part, by=by, epoch=epoch)
    write_atomic(files.results, json.dumps(results, indent=1))
    has_test = evaluation_files.of_part(run, "test").results.exists()
    if by == "image" and epoch is None and (part == "test" or not has_test):
        _write_operating_points(run, results, val)
    if part == "test":
        run.count_test_evaluation()
    unusual_fit.fit_missing(run, store, log=log)
    images = store.pictures if config.report.images and by == "image" else None
    run_page.write(run, part, evaluation=results, predictions=table, path=files.page, images=images)
    index_page.write(run)
    return Evaluation(run, part, results, files.page, table)


def about_model(model: EvaluatedModel, val: pd.DataFrame | None, log: Callable[[str], None]) -> dict[str, Any]:
    """Keys of the results about the evaluated model: when, and for an epoch other than the selected one which, with notes."""
    out: dict[str, Any] = {"evaluated": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"}
    if model.epoch is not None:
        notes = [] if val is None else model.check_logged(val)
        for line in notes:
            log(f"warning: {line}")
        out |= {"epoch": model.epoch, "notes": notes}
    return out


def compute_results(
    data: EvaluationData, settings: EvaluationSettings, *, by: By = "image", combine: studies.Method = "max"
) -> tuple[dict[str, Any], pd.DataFrame]:
    """(results, table): all results of a predictions table as JSON, and the table they are of, which has one row per study if `by`
    is study. Raises `UserError` if the images have no studies."""
    if by == "study":
        data = data.by_study(combine)
    labels, task, plan = data.plan.labels, data.plan.task, data.plan
    predictions = PredictionTable(data.predictions, labels, task)
    val = None if data.val is None else PredictionTable(data.val, labels, task)
    with progress.shown():
        results = evaluate_table(predictions, settings, val=val, baselines=data.baselines)
    shift_L = calibration.shift(plan.pos_weight, plan.truth["train"], plan.repeats)
    results["calibration"] = analysis.calibration_results(predictions, val, shift_L, interval_by=settings.interval_by)
    results["by"] = unit(by, combine)
    shared = [c for c in data.records.columns if c in data.train_records.columns]
    with progress.shown():
        results["groups"] = analysis.subgroup_results(
            predictions,
            data.records.loc[data.predictions["row"], shared],
            plan.truth["train"],
            data.train_records.loc[plan.rows["train"], shared],
            settings,
            thresholds_L=np.array([results["thresholds"][k] for k in labels]),
            unused=[k for k in data.unused_labels if k in shared],
        )
    return results, data.predictions


def unused_labels(store: stores.Store, plan: Plan) -> list[str]:
    """Labels that the source excludes from training by default, such as Support Devices; they define subgroups."""
    return [k for k in store.labels if k not in store.info.default_labels and k not in plan.labels]


def load_trained(path: str | os.PathLike[str], *, epoch: int | None = None) -> runs.Run:
    """Load a run. Raises `UserError` if it, or a member of the ensemble, has no model yet, or none of `epoch`."""
    run = runs.load(path)
    run.check_trained()
    if epoch is not None:
        epoch_model.check(run, epoch)
    return run


def with_report_settings(run: runs.Run, report: Mapping[str, Any]) -> cfg.Config:
    """The run's config with other settings of `report`. Raises `UserError` for an invalid one."""
    if not report:
        return run.config
    return cfg.validate(cfg.merge(run.config.model_dump(mode="json"), {"report": dict(report)}))


def _write_operating_points(run: runs.Run, results: dict[str, Any], val: pd.DataFrame | None) -> None:
    """Write `thresholds.json` and `calibration.json`: operating points and calibrators, with the val rows that they come from."""
    val_rows = None
    if val is not None:
        rows = val["row"].to_numpy(np.int64)
        val_rows = {
            "part": "val",
            "rows": len(rows),
            "patients": int(val["patient"].nunique()),
            "digest": store_format.digest_of(rows.tolist()),
        }
    operating, calibrated = results["operating"], results["calibration"]
    body = {
        "rule": operating["rule"],
        "given": operating["given"],
        "assurance": operating["assurance"],
        "chosen_on": val_rows if operating["chosen_on_rows"] else None,
        "measured_on": val_rows,
        "labels": operating["points"],
    }
    write_atomic(run.path / "thresholds.json", json.dumps(body, indent=1))
    if calibrated["fitted"] or calibrated["shift"]:
        body = {"fitted_on": val_rows, **{k: calibrated[k] for k in ("shift", "fitted", "too_few")}}
        write_atomic(run.path / "calibration.json", json.dumps(body, indent=1))
