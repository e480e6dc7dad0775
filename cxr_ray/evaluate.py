"""Judge a run on one part: predictions, rivals, intervals, report. Nothing is trained but the rivals."""
# N rows, L labels

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray import plan as plans
from cxr_ray import predictor, rivals, runs, shards
from cxr_ray.durable import write_whole
from cxr_ray.errors import UserError
from cxr_ray.labels import spread
from cxr_ray.metrics import COUNTS
from cxr_ray.report import html
from cxr_ray.report.tables import evaluation

COLUMNS = ("recall", "auroc", "precision", "f1", "ap")


@dataclass(frozen=True)
class Evaluation:
    """What was found: the run, the part, every number as plain JSON, and where the report is."""

    run: runs.Run
    part: str
    found: dict[str, Any]
    report: Path

    @property
    def table(self) -> list[list[str]]:
        """The table as text: a head, then a row a label, their mean, and what is of the whole table.

        Recall first, then ROC AUC, then precision: the order of worth. "-" where a value is undefined."""
        held = {(v["metric"], v["label"]): v for v in self.found["values"]}

        def cell(metric: str, label: str) -> str:
            row = held.get((metric, label))
            if row is None:
                return "-"
            if metric in COUNTS:
                return f"{row['value']:,.0f}"
            return f"{row['value']:.3f}" + (f"\n{row['low']:.3f}-{row['high']:.3f}" if "low" in row else "")

        shown = [*COUNTS, *COLUMNS]
        rows = [["label", *(name.replace("_", " ") for name in shown)]]
        rows += [[label, *(cell(metric, label) for metric in shown)] for label in self.found["labels"]]
        if len(self.found["labels"]) > 1:
            rows.append(["mean", *(cell(metric, "mean") for metric in shown)])
        # For one label, an exact match is the accuracy over again.
        binary = self.found["task"] == "binary"
        whole = [metric for metric, label in held if not label and (metric == "accuracy" or not binary)]
        return rows + [[metric.replace("_", " "), cell(metric, ""), *[""] * (len(shown) - 1)] for metric in whole]


def evaluate(
    path: str | Path,
    *,
    split: str | None = None,
    thresholds: float | dict[str, float] | None = None,
    say: Callable[[str], None] = print,
) -> Evaluation:
    """Judge the run in the folder `path` on `split` (default: test, else val, and says which) and write its report.

    Predictions and rivals are made once and kept, so that other `thresholds` need no model. Every look at test is
    counted in the run. Raises `UserError` where the part has no rows, or the store is not the one trained on."""
    run = runs.load(path)
    if not run.weights.exists():
        raise UserError(
            f"the run {run.path} has no model yet (status: {run.info['status']}); train it to the end first"
        )
    config = run.config
    store = shards.open(_shards_of(run), verify="manifest")
    if store.fingerprint != run.info["store"]["fingerprint"]:
        raise UserError(
            f"the store {store.path} is not the one that {run.path.name} was trained on: its fingerprint differs"
        )
    plan = plans.build(store, config.data, seed=config.seed, pos_weight_power=config.loss.pos_weight_power)
    part = split or ("test" if len(plan.rows["test"]) else "val")
    if not len(plan.rows[part]):
        has = ", ".join(p for p in plans.PARTS if len(plan.rows[p]))
        raise UserError(f"the run {run.path.name} has no rows in {part}; it has {has}")
    chose = part == "val" and config.train.select == "best"
    say(f"judging {part} ({len(plan.rows[part]):,} rows)" + (", the part that chose the epoch" if chose else ""))

    limits = config.report.thresholds if thresholds is None else thresholds
    table = _predictions(run, store, plan, part)
    rival_probs = _rivals(run, store, plan, part) if config.report.rivals else {}
    found = evaluation(
        table,
        plan.labels,
        plan.task,
        spread(limits, plan.labels, plan.groups, where="the thresholds"),
        rivals=rival_probs,
        bootstrap=config.report.bootstrap,
        interval_by=config.report.interval_by,
        seed=config.seed,
    )
    found = {"part": part, **found}
    write_whole(run.path / f"evaluation-{part}.json", json.dumps(found, indent=1, sort_keys=True))
    if part == "test":
        run.update(test_looks=int(run.info.get("test_looks", 0)) + 1)
    return Evaluation(run, part, found, html.write(run, part))


def _shards_of(run: runs.Run) -> str:
    """The store's folder as it was opened at training; a run that was moved still finds a store given absolutely."""
    return str(run.info["store"]["path"])


def _predictions(run: runs.Run, store: shards.Store, plan: plans.Plan, part: str) -> pd.DataFrame:
    file = run.path / "predictions" / f"{part}.parquet"
    if file.exists() and (held := pd.read_parquet(file))["row"].tolist() == plan.rows[part].tolist():
        return held
    prob_NL = predictor.load(run, gpu=run.config.train.gpu).rows(
        store, plan.rows[part], batch_size=run.config.train.batch_size
    )
    table = runs.predictions_table(store.index, plan.rows[part], plan.labels, plan.truth[part], prob_NL)
    run.write_predictions(part, table)
    return table


def _rivals(run: runs.Run, store: shards.Store, plan: plans.Plan, part: str) -> dict[str, npt.NDArray[np.float64]]:
    """The rivals' probabilities [N, L] by name; fitted once a run and part."""
    file = run.path / "predictions" / f"rivals-{part}.parquet"
    names = ("thumbnail", "border")
    if file.exists():
        held = pd.read_parquet(file)
        return {name: held[[f"{name}/{k}" for k in plan.labels]].to_numpy(float) for name in names}
    found = rivals.rivals(store, plan, part, seed=run.config.seed)
    frame = pd.DataFrame({f"{name}/{k}": found[name][:, j] for name in names for j, k in enumerate(plan.labels)})
    run.write_predictions(f"rivals-{part}", pd.concat([pd.DataFrame({"row": plan.rows[part]}), frame], axis=1))
    return found
