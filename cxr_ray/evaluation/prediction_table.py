"""A predictions table with its labels and task, and the settings that it is evaluated with. Computes no metric."""
# N rows, L labels

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray.config import Report
from cxr_ray.data.split import groups_of
from cxr_ray.errors import UserError
from cxr_ray.metrics import operating_points
from cxr_ray.metrics.table import Table, decide
from cxr_ray.runs import Run


@dataclass(frozen=True)
class PredictionTable:
    """Predictions of N rows: a frame with the columns `patient`, `true/LABEL` (0, 1, NaN) and `prob/LABEL`, as runs store them."""

    frame: pd.DataFrame
    labels: Sequence[str]
    task: str

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def truth_NL(self) -> npt.NDArray[Any]:
        """Targets [N, L]. Raises `UserError` if a column is missing."""
        return self._columns("true")

    @property
    def prob_NL(self) -> npt.NDArray[Any]:
        """Probabilities [N, L]. Raises `UserError` if a column is missing."""
        return self._columns("prob")

    def _columns(self, kind: str) -> npt.NDArray[Any]:
        names = [f"{kind}/{label}" for label in self.labels]
        missing = [n for n in names if n not in self.frame]
        if missing:
            raise UserError(f"the predictions have no column {missing[0]!r}; `cxr-ray evaluate` writes them again")
        return self.frame[names].to_numpy()

    def decide(self, thresholds_L: npt.ArrayLike | None = None) -> Table:
        """The validated table at thresholds [L], by default 0.5."""
        at_L = np.full(len(self.labels), operating_points.DEFAULT) if thresholds_L is None else thresholds_L
        return decide(self.truth_NL, self.prob_NL, labels=self.labels, task=self.task, thresholds_L=at_L)

    def resampling_units(self, interval_by: str) -> tuple[str, npt.NDArray[np.int64]]:
        """What is resampled (patient or image) and the number of each row's unit [N]. Images if no patient is known."""
        patient = self.frame["patient"]
        unit = "patient" if interval_by == "patient" and patient.notna().any() else "image"
        return unit, groups_of(patient if unit == "patient" else None, len(patient))


@dataclass(frozen=True)
class EvaluationSettings:
    """How predictions are evaluated. The fields after `rule` mean what the settings `report.*` of the same name mean."""

    rule: operating_points.Rule = operating_points.DEFAULT
    """Thresholds as numbers, or a rule that chooses them on val."""
    assurance: float | None = None
    bootstrap: int = 1000
    interval_by: str = "patient"
    interval: str = "percentile"
    seed: int = 0
    """Of the resamples."""

    @classmethod
    def from_report(cls, report: Report, rule: operating_points.Rule, *, seed: int = 0) -> "EvaluationSettings":
        """The settings of a config's `report` section, with `rule` in place of its thresholds (see `rule_of`)."""
        return cls(rule, report.assurance, report.bootstrap, report.interval_by, report.interval, seed)


def rule_of(run: Run, thresholds: operating_points.Rule | None, labels: Sequence[str]) -> operating_points.Rule:
    """The given thresholds, or the run's own. Those of label groups are replaced by those of their labels; numbers by label are
    limited to `labels`.

    Raises `UserError` for a label that the run does not have."""
    info = run.info
    given = run.config.report.thresholds if thresholds is None else thresholds
    rule = operating_points.expand_groups(given, info["labels"], info.get("groups", {}))
    if isinstance(rule, dict) and not operating_points.needs_rows(rule, info["labels"]):
        return {label: threshold for label, threshold in rule.items() if label in labels}
    return rule


def choose_points(
    predictions: PredictionTable, val: PredictionTable | None, settings: EvaluationSettings
) -> dict[str, operating_points.Point]:
    """The operating point of each label for `predictions`, chosen on `val`; given thresholds are measured on `val`.

    Raises `UserError` if a rule has no rows to choose on."""
    parsed = operating_points.parse(settings.rule, predictions.labels, task=predictions.task)
    if val is None or not len(val):
        if not isinstance(parsed, np.ndarray):
            raise UserError(
                f"thresholds by rule ({operating_points.describe(settings.rule)}) are chosen on val, and this run has no val "
                "rows; give numbers, such as Edema=0.2"
            )
        return {
            label: operating_points.Point(float(at), f"given: {at:g}", True, 0, 0)
            for label, at in zip(predictions.labels, parsed, strict=True)
        }
    return operating_points.choose(
        settings.rule,
        val.decide(),
        group_N=val.resampling_units(settings.interval_by)[1],
        assurance=settings.assurance,
        future=len(predictions) / len(val),
    )
