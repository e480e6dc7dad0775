"""The wrong decisions of a table of predictions, the worst first. Computes no metric and reads no image."""
# N rows, L labels

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray.errors import UserError
from cxr_ray.evaluation.prediction_table import EvaluationSettings, PredictionTable, choose_points, rule_of
from cxr_ray.evaluation.rescore import chosen_labels, predicted_parts
from cxr_ray.metrics import operating_points
from cxr_ray.metrics.table import Table
from cxr_ray.runs import Run

MISSED, ALARM = "missed", "false alarm"
"""Kinds of a wrong decision: a positive that was not found, and a negative that was called positive."""
COLUMNS = ("row", "label", "kind", "truth", "decision", "probability", "threshold", "loss")


def worst_errors(table: Table, row_N: npt.ArrayLike, thresholds_L: npt.ArrayLike | None = None) -> pd.DataFrame:
    """One line per wrong decision, `COLUMNS`, sorted by `loss`: minus the logarithm of the probability that the model gave to the truth
    of this label (for classes: of this class against the rest). Unknown cells are no errors.

    `truth` and `decision` are positive or negative, or names of classes. `row_N` are the rows' numbers in the store. `thresholds_L` are those of the decisions; for classes there are none (NaN)."""
    wrong_NL = table.known_NL & (table.true_NL != table.positive_NL)
    n, label = np.nonzero(wrong_NL)
    true, prob = table.true_NL[n, label], table.prob_NL[n, label].astype(np.float64)
    at_L = np.full(len(table.labels), np.nan) if thresholds_L is None else np.asarray(thresholds_L, dtype=np.float64)
    with np.errstate(divide="ignore"):
        loss = -np.log(np.where(true, prob, 1.0 - prob))
    found = pd.DataFrame(
        {
            "row": np.asarray(row_N)[n],
            "label": np.asarray(table.labels, dtype=object)[label],
            "kind": np.where(true, MISSED, ALARM),
            "truth": _names(table.true_NL, table, n, label),
            "decision": _names(table.positive_NL, table, n, label),
            "probability": prob,
            "threshold": at_L[label],
            "loss": np.abs(loss),  # no negative zero
        }
    )
    return found.sort_values(["loss", "row"], ascending=[False, True], kind="stable").reset_index(drop=True)


def _names(
    cells_NL: npt.NDArray[np.bool_], table: Table, n: npt.NDArray[Any], label: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """What the cells [N, L] state for each error: the row's class, or whether the label is positive."""
    if table.task == "multiclass":
        return np.asarray(table.labels, dtype=object)[cells_NL.argmax(axis=1)[n]]
    return np.where(cells_NL[n, label], "positive", "negative")


def errors_of(
    run: Run,
    part: str | None = None,
    *,
    labels: Sequence[str] | None = None,
    thresholds: operating_points.Rule | None = None,
) -> tuple[str, pd.DataFrame]:
    """(part, `worst_errors`) of a run's saved predictions: of `part`, by default test if it was predicted, else val.

    `labels` limits the lines, not the decisions of classes; each wrong row of classes has one line. Raises `UserError` for an unknown label, and a part without predictions."""
    predicted = predicted_parts(run)
    if not predicted:
        raise UserError(f"{run.path} has no predictions yet; run `cxr-ray evaluate {run.path}`")
    part = part or ("test" if "test" in predicted else "val" if "val" in predicted else predicted[0])
    every, shown = list(run.info["labels"]), chosen_labels(run, labels)
    table = PredictionTable(run.predictions(part), every, run.info["task"])
    limits_L = None
    if run.info["task"] != "multiclass":
        val = PredictionTable(run.predictions("val"), every, run.info["task"]) if "val" in predicted else None
        settings = EvaluationSettings.from_report(run.config.report, rule_of(run, thresholds, every))
        limits_L = operating_points.thresholds_of(choose_points(table, val, settings))
    found = worst_errors(table.decide(limits_L), table.frame["row"].to_numpy(np.int64), limits_L)
    found = found[found["label"].isin(shown)]
    if run.info["task"] == "multiclass":  # a wrong row is an error of two classes
        found = found.drop_duplicates("row") if labels else found[found["kind"] == MISSED]
    return part, found.reset_index(drop=True)
