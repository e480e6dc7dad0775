"""The curves of train and val side by side. Missing predictions are computed once, and saved in the run."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cxr_ray import runs
from cxr_ray.errors import UserError
from cxr_ray.evaluation.rescore import predicted_parts
from cxr_ray.plotting import part_curves, plots
from cxr_ray.storage.atomic import write_atomic

PARTS = ("train", "val")
FILE = "train-and-val.png"


def predict_missing(run: runs.Run, *, log: Callable[[str], None] = print) -> None:
    """Save the run's predictions of train and val if they are missing; a training saves those of val alone.

    Raises `UserError` if the run has no model, its store is missing, or a part has no rows."""
    missing = [part for part in PARTS if part not in predicted_parts(run)]
    if not missing:
        return
    from cxr_ray.data import store as stores
    from cxr_ray.workflows.evaluated_model import EvaluatedModel

    run.check_trained()
    store = stores.open(run.info["store"]["path"], verify="manifest", cache=run.config.data.cache)
    model = EvaluatedModel(run, runs.plan_of(run, store), store)
    for part in missing:
        if not len(model.plan.rows[part]):
            raise UserError(f"the run {run.path.name} has no rows in {part}, so its parts cannot be shown side by side")
        log(f"predicting {part} ({len(model.plan.rows[part]):,} rows), which the training did not save")
        model.predictions(part)


def write(run: runs.Run, labels: Sequence[str]) -> Path:
    """Write the curves of `labels` from the saved predictions of train and val into the run's folder; returns the PNG's path."""
    parts = {part: _scores(run.predictions(part), labels) for part in PARTS}
    figure = part_curves.side_by_side(parts, f"{run.path.name}: train and val side by side")
    write_atomic(run.path / FILE, plots.png(figure))
    return run.path / FILE


def _scores(table: pd.DataFrame, labels: Sequence[str]) -> dict[str, part_curves.Scores]:
    out = {}
    for label in labels:
        truth_N = table[f"true/{label}"].to_numpy()
        known_N = ~np.isnan(truth_N)
        out[label] = (truth_N[known_N] == 1.0, table[f"prob/{label}"].to_numpy()[known_N].astype(np.float64))
    return out
