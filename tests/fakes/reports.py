"""Reports of twenty-six kinds of runs, from predictions that are made up: what each kind is, and the text of its page."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr_ray import config as cfg
from cxr_ray import runs
from cxr_ray.data.plan import Plan
from cxr_ray.evaluation.prediction_table import EvaluationSettings
from cxr_ray.metrics import prevalence
from cxr_ray.report import run_page
from cxr_ray.workflows.evaluate import EvaluationData, compute_results
from tests.report.test_run_page import Page, predictions

LABELS = {
    "multilabel": ("Edema", "Mass", "Effusion"),
    "multiclass": ("Covid", "Normal", "Pneumonia"),
    "binary": ("Edema",),
}
FIRST = {"train": 100_000, "val": 200_000, "test": 300_000, "other": 400_000}
"""The first row of each part."""


@dataclass(frozen=True)
class Kind:
    """A run and its evaluation, by what is special about them."""

    task: str = "multilabel"
    part: str = "test"
    source: str = "chexpert"
    external: str | None = None
    """Source of the other data."""
    rows: int = 160
    train_rows: int = 320
    val_rows: int = 160
    skill: float = 1.5
    rare: int | None = None
    """Positives of the second label."""
    patients: bool = True
    by: str = "image"
    epoch: int | None = None
    rule: Any = 0.5
    assurance: float | None = 0.95
    bootstrap: int = 40
    shortcut: bool = False
    """Whether the view goes with the first label."""
    features: bool = True
    border: bool = False
    """Whether the border of the image predicts all labels."""
    baselines: bool = True
    untrained: bool = False
    members: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)
    best: float | None = 0.9
    """The monitored value of the selected epoch."""
    blank_is_unknown: bool = False

    @property
    def labels(self) -> tuple[str, ...]:
        return LABELS[self.task]

    @property
    def where(self) -> str:
        return "other" if self.external else self.part


@dataclass(frozen=True)
class Report:
    """The page of a kind, and what it is of."""

    kind: Kind
    text: str
    frame: pd.DataFrame
    results: dict[str, Any]
    config: cfg.Config
    records: pd.DataFrame


def write(kind: Kind, folder: Path) -> Report:
    """Write the run's folder and its page."""
    tables = {part: _table(kind, part) for part in ("train", "val", "test", "other")}
    config = cfg.validate(
        cfg.merge(
            {"name": "run", "output": str(folder), "data": {"shards": "x"}, "train": {"epochs": 4}}, dict(kind.settings)
        )
    ).for_task(kind.task)
    members = [_run(kind, config, folder / f"member-{i}", tables) for i in range(kind.members)]
    run = _run(kind, config, folder / "run", tables, members=[str(member.path) for member in members])
    frame = tables[kind.where]
    records = pd.concat([_records(kind, table) for table in tables.values()]).set_index("row", drop=False)
    labels = kind.labels
    truth = {part: table[[f"true/{k}" for k in labels]].to_numpy(np.float32) for part, table in tables.items()}
    plan = Plan(
        labels=labels,
        task=kind.task,
        rows={part: table["row"].to_numpy() for part, table in tables.items()},
        truth=truth,
        repeats=np.ones(kind.train_rows, np.int64),
        pos_weight=np.full(len(labels), 4.0 if config.loss.pos_weight_power else 1.0, np.float32),
    )
    rng = np.random.default_rng(5)
    chance = {name: rng.random((len(frame), len(labels))) for name in ("thumbnail", "border")}
    if kind.border:
        chance["border"] = 0.8 * truth[kind.where] + 0.2 * chance["border"]
    if kind.task == "multiclass":
        chance = {name: prob / prob.sum(axis=1, keepdims=True) for name, prob in chance.items()}
    baselines = chance if kind.baselines and not kind.external else {}
    if kind.untrained:
        baselines["untrained"] = chance["thumbnail"]
    data = EvaluationData(
        plan,
        frame,
        tables["val"] if kind.val_rows else None,
        records=records,
        train_records=records,
        baselines=baselines,
    )
    settings = EvaluationSettings(kind.rule, assurance=kind.assurance, bootstrap=kind.bootstrap)
    results, table = compute_results(data, settings, by=kind.by)  # type: ignore[arg-type]
    blank = "ignore" if kind.blank_is_unknown else "zeros"
    part = "other" if kind.external else kind.part
    results = {"part": part, **results, "blank": {"train": blank, "here": blank}}
    if kind.epoch is not None:
        results |= {"epoch": kind.epoch, "notes": []}
    if kind.external:
        results["external"] = {"store": "other", "source": kind.external, "notes": ["made up"], "fingerprint": "0"}
    page = run_page.write(run, part, evaluation=results, predictions=table, path=folder / "page.html")
    return Report(kind, Page(page.read_text(encoding="utf-8")).text, table, results, config, records.loc[table["row"]])


def _table(kind: Kind, part: str) -> pd.DataFrame:
    rows = {"train": kind.train_rows, "val": kind.val_rows}.get(part, kind.rows)
    table = predictions(list(kind.labels), kind.task, rows, kind.skill, seed=list(FIRST).index(part))
    table["row"] = FIRST[part] + np.arange(rows)
    table["patient"] = [f"{part}{i // 2}" if kind.patients else None for i in range(rows)]
    table["study"] = [f"{part}{i // 2}" for i in range(rows)]
    if kind.rare is not None and part == kind.where:
        table[f"true/{kind.labels[1]}"] = (np.arange(rows) < kind.rare).astype(np.float32)
    return table


def _records(kind: Kind, table: pd.DataFrame) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    records = table[["row"]].copy()
    if kind.features:
        records["sex"] = rng.choice(["F", "M"], len(table))
        records["view"] = rng.choice(["AP", "PA"], len(table))
    if kind.shortcut:
        records["view"] = np.where(table[f"true/{kind.labels[0]}"] == 1, "AP", "PA")
    return records


def _run(
    kind: Kind, config: cfg.Config, path: Path, tables: Mapping[str, pd.DataFrame], *, members: list[str] | None = None
) -> runs.Run:
    own = {part: tables[part] for part in ("train", "val", "test") if part != "test" or config.data.split.test}
    plan = pd.concat([pd.DataFrame({"row": t["row"], "part": part, "drawn": 1}) for part, t in own.items()])
    counts = {
        part: prevalence(t[[f"true/{k}" for k in kind.labels]].to_numpy(), labels=kind.labels, patients=t["patient"])
        for part, t in own.items()
    }
    run = runs.create(
        config.model_copy(update={"name": path.name, "output": str(path.parent)}),
        store={"path": "x", "fingerprint": "f" * 64, "source": kind.source, "rows": len(plan), "notes": []},
        plan=plan,
        about={"labels": list(kind.labels), "task": kind.task, "prevalence": counts, "warnings": []},
    )
    best = {"epoch": 3, "step": 30, "metric": config.train.monitor, "value": kind.best}
    done = {"best": best, "kept": {"epoch": 3, "step": 30}, "epochs": config.train.epochs, "test_looks": 2}
    run.update(status="finished", **{**done, **kind.info})
    if members:
        run.update(members=members, best=None, kept=None, ended=None)
        return run
    lines = [
        {
            "epoch": epoch,
            "step": epoch,
            "part": part,
            "metric": "loss",
            "label": "",
            "value": 0.5,
            "positives": 1,
            "rows": 1,
        }
        for epoch in range(config.train.epochs + 1)
        for part in ("train", "val")
    ]
    pd.DataFrame(lines)[runs.METRIC_COLUMNS].to_csv(run.path / "metrics.csv", index=False)
    return run
