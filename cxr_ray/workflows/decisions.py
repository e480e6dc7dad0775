"""The decisions of a run on new images: thresholds and calibrator of its evaluation, or thresholds that the user gives."""
# L labels

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray import runs
from cxr_ray.data.store_format import digest_of
from cxr_ray.errors import UserError
from cxr_ray.evaluation.analysis import recalibrated
from cxr_ray.evaluation.prediction_table import EvaluationSettings, PredictionTable, choose_points, rule_of
from cxr_ray.inference.decisions import LARGEST, Decisions
from cxr_ray.inference.predictor import Predictor
from cxr_ray.metrics import operating_points, studies
from cxr_ray.runs import evaluation_files
from cxr_ray.workflows.evaluation_request import By, unit

PARTS = ("test", "val")
"""Whose evaluation counts, the first that there is."""


def decisions_of(
    predictor: Predictor,
    thresholds: operating_points.Rule | None = None,
    *,
    by: By = "image",
    combine: studies.Method = "max",
) -> Decisions:
    """How the outputs of `predictor` are decided and calibrated, by image or by study.

    The run's own operating points are those of its evaluation (test, else val), else its config's rule is applied on val, as `evaluate`
    would. The calibrator is that of the report (`analysis.recalibrated`). A file of weights has neither: its thresholds are 0.5. Raises
    `UserError` for thresholds that the labels or the task do not allow, and for a rule without predictions of val."""
    labels, task, run = tuple(predictor.labels), predictor.task, predictor.run
    results = None if run is None else _evaluation(run, by, combine)
    chosen = {} if results is None or not results["calibration"] else _calibrator(results["calibration"], labels)
    if task == "multiclass":
        if thresholds not in (None, operating_points.DEFAULT):
            raise UserError(
                "thresholds: the model predicts classes, which are decided by the largest probability: leave them out"
            )
        return Decisions(labels, task, {}, LARGEST, **chosen)
    if results is not None and thresholds is None:
        return Decisions(labels, task, results["thresholds"], results["operating"]["rule"], **chosen)
    rule, points = _points(run, labels, task, thresholds, by, combine)
    return Decisions(labels, task, {k: p.threshold for k, p in points.items()}, rule, **chosen)


def has_points_by_image_only(run: runs.Run, by: By, combine: studies.Method) -> bool:
    """Whether the operating points of the run's evaluation are by image, and `by` asks for those by study, which it lacks."""
    return by == "study" and _evaluation(run, by, combine) is None and _evaluation(run, "image", combine) is not None


def _evaluation(run: runs.Run, by: By, combine: studies.Method) -> dict[str, Any] | None:
    """The results of the run's evaluation by image or by study, if there is one."""
    for part in PARTS:
        file = evaluation_files.of_part(run, part, by=by).results
        if not file.exists():
            continue
        results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if results.get("by", "image") == unit(by, combine):
            return results
    return None


def _calibrator(results: dict[str, Any], labels: tuple[str, ...]) -> dict[str, Any]:
    """The fields of `Decisions` that describe a calibrator; empty if there is none."""

    def calibrate(prob_NL: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        found = recalibrated(results, prob_NL, labels)
        assert found is not None
        return found[1]

    found = recalibrated(results, np.full((1, len(labels)), 1 / len(labels)), labels)
    if found is None:
        return {}
    digest = digest_of({name: results[name] for name in ("shift", "fitted")})[:16]
    return {"calibration": found[0], "calibrate": calibrate, "calibrator": digest}


def _points(
    run: runs.Run | None,
    labels: tuple[str, ...],
    task: str,
    thresholds: operating_points.Rule | None,
    by: By,
    combine: studies.Method,
) -> tuple[str, dict[str, operating_points.Point]]:
    """The rule in words, and the operating point of each label, chosen on val where it is no number."""
    if run is None:
        rule: operating_points.Rule = operating_points.DEFAULT if thresholds is None else thresholds
        settings = EvaluationSettings(rule)
        return operating_points.describe(rule), choose_points(_rows(0, labels, task), None, settings)
    rule = rule_of(run, thresholds, labels)
    settings = EvaluationSettings.from_report(run.config.report, rule, seed=run.config.seed)
    val = None
    if operating_points.needs_rows(rule, labels):
        table = run.predictions("val")
        if by == "study":
            table = studies.combine(table, labels, method=combine, task=task)
        val = PredictionTable(table, labels, task)
    plan = run.plan
    evaluated = next((part for part in PARTS if (plan["part"] == part).any()), "val")
    rows = _rows(int((plan["part"] == evaluated).sum()), labels, task)
    return operating_points.describe(rule), choose_points(rows, val, settings)


def _rows(count: int, labels: tuple[str, ...], task: str) -> PredictionTable:
    """`count` rows: the margin of a rule depends on how many it will be applied to, and must not on the size of an archive."""
    return PredictionTable(pd.DataFrame(index=range(count)), labels, task)
