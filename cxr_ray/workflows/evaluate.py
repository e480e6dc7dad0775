"""Judge a run on one part: predictions, rivals, intervals, operating points, groups, report. Only the rivals are trained."""
# N rows, L labels

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

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
from cxr_ray.evaluation import analysis, baselines
from cxr_ray.evaluation.results import evaluation, rule_of
from cxr_ray.inference import predictor
from cxr_ray.metrics import COUNTS, TABLE_METRICS, calibration, operating_points, studies
from cxr_ray.report import run_page
from cxr_ray.runs import ensemble
from cxr_ray.storage.atomic import write_atomic

BASELINES = ("thumbnail", "border")
By = Literal["image", "study"]


@dataclass(frozen=True)
class Evaluation:
    """What was found: the run, the part, every number as plain JSON, and where the report is."""

    run: runs.Run
    part: str
    found: dict[str, Any]
    report: Path

    @property
    def table(self) -> list[list[str]]:
        """The table as text: a head, then a row a label, their averages, and what is of the whole table.

        Recall first, then ROC AUC, then precision: the order of worth. "-" where a value is undefined."""
        return metric_table(self.found["values"], self.found["labels"], self.found["task"])


def metric_table(values: Sequence[dict[str, Any]], labels: Sequence[str], task: str) -> list[list[str]]:
    """Judged values (rows of `evaluation`) as a table of text; see `Evaluation.table`."""
    shown = (*COUNTS, *TABLE_METRICS)
    held = {(v["metric"], v["label"]): v for v in values}

    def cell(metric: str, label: str) -> str:
        row = held.get((metric, label))
        if row is None:
            return "-"
        if metric in COUNTS:
            return f"{row['value']:,.0f}"
        return f"{row['value']:.3f}" + (f"\n{row['low']:.3f}-{row['high']:.3f}" if "low" in row else "")

    rows = [["label", *(name.replace("_", " ") for name in shown)]]
    rows += [[label, *(cell(metric, label) for metric in shown)] for label in labels]
    if len(labels) > 1:
        rows.append(["mean", *(cell(metric, "mean") for metric in shown)])
    # For one label, an exact match is the accuracy over again.
    whole = [metric for metric, label in held if not label and (metric == "accuracy" or task != "binary")]
    return rows + [[metric.replace("_", " "), cell(metric, ""), *[""] * (len(shown) - 1)] for metric in whole]


def evaluate(
    path: str | Path,
    *,
    split: str | None = None,
    thresholds: operating_points.Rule | None = None,
    by: By = "image",
    combine: studies.How = "max",
    report: Mapping[str, Any] | None = None,
    log: Callable[[str], None] = print,
) -> Evaluation:
    """Judge the run in the folder `path` on `split` (default: test, else val, and says which) and write its report.

    Who was where is read from the run's own `plan.parquet`. Predictions and rivals are made once and kept, so that other
    `thresholds` need no model; a rule chooses them on val. `by` study judges a study's images together. `report` holds knobs
    of `config.Report` to be laid over the run's own, such as `interval_by`. Every look at test is counted in the run. Raises `UserError` where the part has no rows, or the store is not the one trained on."""
    run = trained(path)
    config = settled(run, report)
    store = stores.open(_shards_of(run), verify="manifest", cache=config.data.cache)
    if store.fingerprint != run.info["store"]["fingerprint"]:
        raise UserError(
            f"the store {store.origin} is not the one that {run.path.name} was trained on: its fingerprint differs; "
            f"to judge the run on other data say --data {store.origin}"
        )
    plan = runs.plan_of(run, store)
    part = split or ("test" if len(plan.rows["test"]) else "val")
    if not len(plan.rows[part]):
        has = ", ".join(p for p in plans.PARTS if len(plan.rows[p]))
        raise UserError(f"the run {run.path.name} has no rows in {part}; it has {has}")
    rule = rule_of(run, thresholds, plan.labels)
    operating_points.parse(rule, plan.labels, task=plan.task)
    chose = part == "val" and config.train.select == "best"
    log(f"judging {part} ({len(plan.rows[part]):,} rows)" + (", the part that chose the epoch" if chose else ""))

    table = predictions_of(run, store, plan, part)
    val = predictions_of(run, store, plan, "val") if len(plan.rows["val"]) else None
    # An ensemble of folds has val rows that other members trained on: rivals would have learnt them too.
    learnt = part != "train" and np.isin(plan.rows[part], plan.rows["train"]).any()
    baseline_probs = _baselines(run, store, plan, part) if config.report.rivals and not learnt else {}
    records = store.index.set_index("row", drop=False)
    found, table = judged(
        config, plan, table, val, baseline_probs, rule,
        records=records, train_records=records, unused=unused_labels(store, plan), by=by, combine=combine,
    )  # fmt: skip
    found = {"part": part, **found}
    name = part if by == "image" else f"{part}-by-study"
    write_atomic(run.path / f"evaluation-{name}.json", json.dumps(found, indent=1))
    if by == "image":
        _write_operating(run, found, val)
    if part == "test":
        run.update(test_looks=int(run.info.get("test_looks", 0)) + 1)
    page = run.path / ("report.html" if by == "image" else "report-by-study.html")
    images = store.pictures if config.report.images and by == "image" else None
    return Evaluation(
        run, part, found, run_page.write(run, part, judged=found, predictions=table, path=page, images=images)
    )


def judged(
    config: cfg.Config,
    plan: Plan,
    table: pd.DataFrame,
    val: pd.DataFrame | None,
    baseline_probs: dict[str, npt.NDArray[np.float64]],
    rule: operating_points.Rule,
    *,
    records: pd.DataFrame,
    train_records: pd.DataFrame,
    unused: Sequence[str] = (),
    by: By = "image",
    combine: studies.How = "max",
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Everything that is found of a predictions table, as JSON, and the table it was found on (its studies, `by` study).

    `records` are the store's, by row; `train_records` those of the store trained on; `unused` its labels that are judged as
    groups."""
    labels, task = plan.labels, plan.task
    if by == "study":
        if table["study"].isna().all():
            raise UserError("these images name no studies, so they cannot be judged by study; leave --by out")
        wide = {f"{name}:prob/{k}": prob[:, j] for name, prob in baseline_probs.items() for j, k in enumerate(labels)}
        table = studies.combine(table.assign(**wide), labels, how=combine, task=task)
        baseline_probs = {name: table[[f"{name}:prob/{k}" for k in labels]].to_numpy(float) for name in baseline_probs}
        val = None if val is None else studies.combine(val, labels, how=combine, task=task)
    found = evaluation(
        table, labels, task, rule,
        baselines=baseline_probs, bootstrap=config.report.bootstrap, interval_by=config.report.interval_by, seed=config.seed,
        val=val, assurance=config.report.assurance, method=config.report.interval,
    )  # fmt: skip
    shift_L = calibration.shift(plan.pos_weight, plan.truth["train"], plan.repeats)
    found["calibration"] = analysis.calibrated(table, val, labels, task, shift_L, interval_by=config.report.interval_by)
    found["by"] = by if by == "image" else f"study ({combine} of its images)"
    known = [c for c in records.columns if c in train_records.columns]
    found["groups"] = analysis.grouped(
        table, records.loc[table["row"], known], plan.truth["train"], train_records.loc[plan.rows["train"], known],
        labels, task,
        unused=[k for k in unused if k in known],
        limits_L=np.array([found["thresholds"][k] for k in labels]),
        interval_by=config.report.interval_by, bootstrap=config.report.bootstrap, seed=config.seed,
    )  # fmt: skip
    return found, table


def unused_labels(store: stores.Store, plan: Plan) -> list[str]:
    """Labels that the source's cleaning keeps out of training, such as Support Devices: features, to judge groups by."""
    return [k for k in store.labels if k not in store.default_labels and k not in plan.labels]


def trained(path: str | Path) -> runs.Run:
    """The run in a folder. Raises `UserError` where it, or a member of an ensemble, has no model yet."""
    run = runs.load(path)
    for held in run.members or [run]:
        if not held.weights.exists():
            raise UserError(
                f"the run {held.path} has no model yet (status: {held.info['status']}); train it to the end first"
            )
    return run


def settled(run: runs.Run, report: Mapping[str, Any] | None) -> cfg.Config:
    """The run's config with other knobs of judging laid over it. Raises `UserError` for a wrong one."""
    return (
        cfg.validate(cfg.merge(run.config.model_dump(mode="json"), {"report": dict(report)})) if report else run.config
    )


def _write_operating(run: runs.Run, found: dict[str, Any], val: pd.DataFrame | None) -> None:
    """`thresholds.json` and `calibration.json`: what was chosen and fitted on val, from which rows, at what cost."""
    on = None
    if val is not None:
        rows = val["row"].to_numpy(np.int64)
        on = {
            "part": "val",
            "rows": len(rows),
            "patients": int(val["patient"].nunique()),
            "digest": store_format.digest_of(rows.tolist()),
        }
    told = found["operating"]
    body = {
        "rule": told["rule"], "given": told["given"], "assurance": told["assurance"],
        "chosen_on": on if told["chosen_on_rows"] else None, "measured_on": on, "labels": told["points"],
    }  # fmt: skip
    write_atomic(run.path / "thresholds.json", json.dumps(body, indent=1))
    if found["calibration"]["fitted"] or found["calibration"]["shift"]:
        fitted = {k: found["calibration"][k] for k in ("shift", "fitted", "too_few")}
        write_atomic(run.path / "calibration.json", json.dumps({"fitted_on": on, **fitted}, indent=1))


def _shards_of(run: runs.Run) -> str:
    """The store's folder as it was opened at training; a run that was moved still finds a store given absolutely."""
    return str(run.info["store"]["path"])


def kept(run: runs.Run, name: str, rows: npt.NDArray[np.int64]) -> pd.DataFrame | None:
    """The run's `predictions/NAME.parquet` where it is of these rows, in this order; else None."""
    file = run.path / "predictions" / f"{name}.parquet"
    held = pd.read_parquet(file) if file.exists() else None
    return held if held is not None and held["row"].tolist() == rows.tolist() else None


def predictions_of(run: runs.Run, store: stores.Store, plan: Plan, part: str) -> pd.DataFrame:
    """The run's predictions of a part, as kept; made (and kept) where they are not there or of other rows."""
    if (held := kept(run, part, plan.rows[part])) is not None:
        return held
    if part == "val" and (members := run.members):  # members that trained on a row have no say on it
        table = ensemble.out_of_fold(members)
        run.write_predictions(part, table)
        return table
    prob_NL = predictor.load(run).rows(store, plan.rows[part], batch_size=run.config.train.batch_size)
    table = runs.predictions_table(store.index, plan.rows[part], plan.labels, plan.truth[part], prob_NL)
    run.write_predictions(part, table)
    return table


def _baselines(run: runs.Run, store: stores.Store, plan: Plan, part: str) -> dict[str, npt.NDArray[np.float64]]:
    """The rivals' probabilities [N, L] by name; fitted once a run and part."""
    if (held := kept(run, f"rivals-{part}", plan.rows[part])) is not None:
        return {name: held[[f"{name}/{k}" for k in plan.labels]].to_numpy(float) for name in BASELINES}
    found = baselines.fit_baselines(store, plan, part, seed=run.config.seed)
    frame = pd.DataFrame({f"{name}/{k}": found[name][:, j] for name in BASELINES for j, k in enumerate(plan.labels)})
    run.write_predictions(f"rivals-{part}", pd.concat([pd.DataFrame({"row": plan.rows[part]}), frame], axis=1))
    return found
