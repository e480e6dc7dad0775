"""The run folder, which describes one training completely: load, list, read and write. create.py makes it. Nothing here builds a
model."""
# N rows, L labels

import io
import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray import config as cfg
from cxr_ray.data import plan as plans
from cxr_ray.errors import UserError, closest
from cxr_ray.labels import hard_targets
from cxr_ray.metrics import MAIN_METRICS, label_table
from cxr_ray.metrics import prevalence as part_prevalence
from cxr_ray.registry import load_named_plugins
from cxr_ray.runs import events, selection
from cxr_ray.storage.atomic import update_json, write_atomic
from cxr_ray.storage.remote import to_local_path

if TYPE_CHECKING:  # matplotlib is loaded when a figure is drawn
    from cxr_ray.plotting.plots import Figure
    from cxr_ray.plotting.run_figures import Draw

METRIC_COLUMNS = ["epoch", "step", "part", "metric", "label", "value", "positives", "rows"]


@dataclass(frozen=True)
class Run:
    """An opened run folder. Every access reads the file again, except `config`, which a training never changes."""

    path: Path

    @cached_property
    def config(self) -> cfg.Config:
        """The complete resolved config, read once."""
        return cfg.load(str(self.path / "config.yaml"))

    @property
    def info(self) -> dict[str, Any]:
        """`run.json`: status, labels, task, best, store, warnings, test_looks, device, seconds."""
        return json.loads((self.path / "run.json").read_text(encoding="utf-8"))

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, git revision, platform and the store's fingerprint. The training device is in `info`."""
        return json.loads((self.path / "environment.json").read_text(encoding="utf-8"))

    @property
    def metrics(self) -> pd.DataFrame:
        """Long form: epoch, step, part, metric, label, value, positives, rows. Undefined metrics have no row."""
        file = self.path / "metrics.csv"
        if not file.exists():
            return pd.DataFrame(columns=METRIC_COLUMNS)
        return pd.read_csv(file, keep_default_na=False, na_values={"value": [""]})

    @property
    def plan(self) -> pd.DataFrame:
        """`row, part, drawn`: the part of each row, and how often an epoch uses it."""
        return pd.read_parquet(self.path / "plan.parquet")

    @property
    def weights(self) -> Path:
        """`model.safetensors`; its header has labels, architecture and preprocessing."""
        return self.path / "model.safetensors"

    @property
    def members(self) -> "list[Run]":
        """The runs that an ensemble averages (`members` of `run.json`: folders, absolute or relative to this one). Empty for a
        run with its own model. Raises `UserError` if a member is missing."""
        try:
            return [load(self.path / folder) for folder in self.info.get("members", [])]
        except UserError as error:
            raise UserError(f"a member of the ensemble {self.path.name} is missing: {error}") from None

    def load_plugins(self, named: Sequence[str]) -> None:
        """Import the plugins `named`. Raises `UserError` if this run, or a member of the ensemble, was trained with others."""
        recorded = [name for run in (self, *self.members) for name in run.config.plugins]
        load_named_plugins(named, recorded, owner=f"the run {self.path.name}")

    def check_trained(self) -> None:
        """Raises `UserError` if the run, or a member of the ensemble, has no model yet."""
        for run in self.members or [self]:
            if not run.weights.exists():
                raise UserError(
                    f"the run {run.path} has no model yet (status: {run.info['status']}); continue it with "
                    f"`cxr-ray train --resume {shlex.quote(str(run.path))}`, or cxr_ray.resume in Python"
                )

    @property
    def architecture(self) -> str:
        """Name of the model, of a head with the network of its features; for an ensemble, the number of members of each model."""
        try:
            names = [member.architecture for member in self.members]
        except UserError:
            return f"ensemble of {len(self.info['members'])}"
        if not names:
            embedder = self.info.get("embedder")
            return self.config.model.name + (f" on features of {embedder['model']}" if embedder else "")
        return "ensemble of " + ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))

    def predictions(self, part: str) -> pd.DataFrame:
        """`row, source_row, patient, study, true/LABEL..., prob/LABEL...` of a part. Raises `UserError` if there are none, or if a row
        occurs twice."""
        file = self.path / "predictions" / f"{part}.parquet"
        if not file.exists():
            raise UserError(
                f"{self.path} has no predictions of {part}; run `cxr-ray evaluate {self.path} --split {part}`"
            )
        table = pd.read_parquet(file)
        if table["row"].duplicated().any():
            raise UserError(
                f"the predictions of {part} in {self.path.name} have a duplicate row; "
                f"`cxr-ray evaluate {self.path} --split {part}` writes them again"
            )
        return table

    def missing_predictions(self, part: str, table: pd.DataFrame) -> list[str]:
        """One line with the number of rows of a part that its predictions lack; an empty list if they are complete."""
        rows = self.plan.loc[lambda plan: plan["part"] == part, "row"]
        missing = int((~rows.isin(table["row"])).sum())
        if not missing:
            return []
        return [
            f"{missing:,} of {len(rows):,} rows of {part} are missing from the predictions of {self.path.name} and left out; "
            f"run `cxr-ray evaluate {self.path} --split {part}`"
        ]

    def evaluation(self, part: str) -> dict[str, Any]:
        """`evaluation-PART.json`: the results of `evaluate`. Raises `UserError` if it has not been run."""
        file = self.path / f"evaluation-{part}.json"
        if not file.exists():
            raise UserError(
                f"{self.path} has no evaluation of {part}; run `cxr-ray evaluate {self.path} --split {part}`"
            )
        return json.loads(file.read_text(encoding="utf-8"))

    def headline(self) -> tuple[str, dict[str, float]]:
        """The evaluated part (test, else val) and its mean metrics by name; ("", {}) if there is no evaluation."""
        for part in ("test", "val"):
            if (self.path / f"evaluation-{part}.json").exists():
                values = self.evaluation(part)["values"]
                return part, {v["metric"]: v["value"] for v in values if v["label"] == "mean"}
        return "", {}

    def latest_values(self) -> tuple[str, list[dict[str, Any]]]:
        """(part, rows of metric, label, value, positives, rows): of the evaluation of test, else of that of val, which have intervals,
        else of the selected epoch on val; ("", []) before the first epoch is evaluated."""
        part, _ = self.headline()
        if part:
            return part, list(self.evaluation(part)["values"])
        table = selection.val_metrics(self)
        rows = table[table["epoch"] == selection.selected_epoch(table, self.config.train)].dropna(subset=["value"])
        return (
            ("val", [{str(k): v for k, v in row.items()} for row in rows.to_dict("records")]) if len(rows) else ("", [])
        )

    @property
    def table(self) -> pd.DataFrame:
        """Recall, ROC AUC, precision, F1 and average precision by label (`metrics.label_table`), of `latest_values`."""
        return label_table.label_table(self.latest_values()[1], self.info["labels"])

    def figure(self, name: str) -> "Figure":
        """A matplotlib figure of the training or of its last evaluation: training, epochs-METRIC, epochs-METRIC-LABEL, prevalence, confusion, roc-LABEL, pr-LABEL,
        reliability-LABEL. Raises `UserError` with the names that this run has."""
        from cxr_ray.plotting import run_figures

        return run_figures.pick(self._figures(), name, where=f" of the run {self.path.name}")

    def _figures(self) -> "dict[str, Draw]":
        from cxr_ray.plotting import plots, run_figures

        info, metrics, (part, values) = self.info, self.metrics, self.latest_values()
        chosen = selection.selected_epoch(selection.val_metrics(self), self.config.train)
        epochs = run_figures.by_epoch(metrics, chosen=chosen, task=info["task"])
        figures = {f"epochs-{metric}": draw for metric, (_, draw) in epochs.items()}
        figures |= run_figures.by_epoch_and_label(metrics, chosen=chosen)
        name = f"{self.path.name} by epoch"
        figures |= run_figures.training(metrics, chosen=chosen, task=info["task"], title=name)
        if any(of["labels"] for of in info.get("prevalence", {}).values()):
            figures["prevalence"] = lambda: plots.prevalence(info["prevalence"], info["labels"])
        evaluated = self.headline()[0]
        results = self.evaluation(evaluated) if evaluated else {"labels": info["labels"], "values": values}
        has_table = part and (self.path / "predictions" / f"{part}.parquet").exists()
        return figures | run_figures.named(results, self.predictions(part) if has_table else None)

    def __repr__(self) -> str:
        """Never raises: the folder may be gone, or still without metrics."""
        try:
            info, (part, values) = self.info, self.latest_values()
            mean = "mean" if len(info["labels"]) > 1 else info["labels"][0]
            found = {v["metric"]: v["value"] for v in values if v["label"] == mean}
            results = ", ".join(f"{metric} {found[metric]:.3f}" for metric in MAIN_METRICS if metric in found)
            shown = [self.architecture, info["status"], *([f"on {part}: {results}"] if results else [])]
            return f"Run({self.path.name}: {', '.join(shown)})"
        except (OSError, ValueError, KeyError, TypeError, UserError):
            return f"Run({str(self.path)!r})"

    def _repr_html_(self) -> str:
        from cxr_ray.plotting import run_figures

        part, values = self.latest_values()
        if not values:
            return label_table.card(repr(self), about=f"{self.path}; no epoch has been evaluated yet")
        table = label_table.to_html(label_table.label_table(values, self.info["labels"]))
        curves = run_figures.images(self._figures(), ["epochs-loss", "epochs-recall", "epochs-auroc"])
        return label_table.card(repr(self), table, curves, about=f"on {part}; {self.path}")

    def update(self, **changes: Any) -> None:
        """Update keys of `run.json` atomically."""
        update_json(self.path / "run.json", changes)

    def count_test_evaluation(self) -> int:
        """Count one more evaluation of test in `run.json`; returns their number."""
        count = int(self.info.get("test_looks", 0)) + 1
        self.update(test_looks=count)
        return count

    def request_stop(self) -> None:
        """Ask the training to write a checkpoint and end, by a file named `stop`. Any process with write access can do so."""
        (self.path / "stop").touch()

    @property
    def stop_requested(self) -> bool:
        """Whether the run folder has a file named `stop`."""
        return (self.path / "stop").exists()

    def log(self, line: str) -> None:
        """Append a line to `log.txt`."""
        with (self.path / "log.txt").open("a", encoding="utf-8") as handle:
            handle.write(line + "\n")

    def tell(self, event: str, text: str, **numbers: int) -> None:
        """Append an event to `events.jsonl` (runs/events.py), and its words to the log."""
        events.record(self.path, event, text, **numbers)
        self.log(text)

    def write_predictions(self, name: str, table: pd.DataFrame) -> Path:
        """Write `predictions/NAME.parquet` (NAME may contain a folder: epochs/0001-val)."""
        file = self.path / "predictions" / f"{name}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_table(file, table)
        return file


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a Parquet file, atomically."""
    body = io.BytesIO()
    table.to_parquet(body, index=False)
    write_atomic(path, body.getvalue())


USES = {
    "run": "`cxr-ray show`, `evaluate` and `train --resume` take it",
    "sweep": "`cxr-ray tune --resume` continues it, its runs are in trials/, and the winner is best/ (cxr_ray.load_sweep(...).best)",
}
"""What to do with a folder of another kind than the one that was asked for."""


def load(run: Run | str | os.PathLike[str]) -> Run:
    """Open the run in a folder; an open run is returned. Raises `UserError` if it is not a run, with the closest name nearby."""
    if isinstance(run, Run):
        return run
    found = Run(folder_of(run, "run"))
    events.settle(found.path / "run.json")
    return found


def folder_of(path: str | os.PathLike[str], kind: str) -> Path:
    """The folder `path` if it has a file KIND.json (kind is run or sweep). Raises `UserError` with the closest name nearby."""
    folder, file = to_local_path(path, kind).resolve(), f"{kind}.json"
    if not (folder / file).is_file():
        other = next((name for name in USES if name != kind and (folder / f"{name}.json").is_file()), None)
        if other is not None:
            raise UserError(f"{folder} is a {other}, not a {kind}; {USES[other]}")
        nearby = [p.parent.name for p in folder.parent.glob(f"*/{file}")] if folder.parent.is_dir() else []
        hint = closest(folder.name, nearby) or "."
        listed = f" {kind.capitalize()}s in {folder.parent}: {', '.join(sorted(nearby)[:10])}" if nearby else ""
        raise UserError(f"{folder} is not a {kind} folder (it has no {file}){hint}{listed}")
    return folder


def list_runs(folder: str | Path) -> list[Run]:
    """The runs in a folder, oldest first. Raises `UserError` if there is no such folder."""
    place = Path(folder).resolve()
    if not place.is_dir():
        raise UserError(f"no folder {place}; `cxr-ray train` writes runs to its --output, by default ./runs")
    files = sorted(place.glob("*/run.json"), key=lambda f: ((f.parent / "config.yaml").stat().st_mtime_ns, f))
    for file in files:
        events.settle(file)
    return [Run(file.parent) for file in files]


def plan_of(run: Run, store: plans.StoreLike) -> plans.Plan:
    """The plan of the run, from its own `plan.parquet`. The plan of an ensemble has no label weights, since each member had its own.
    Raises `UserError` if the store lacks one of its rows or labels."""
    config, info = run.config, run.info
    return plans.restore(
        store,
        config.data,
        run.plan,
        labels=info["labels"],
        task=info["task"],
        seed=config.seed,
        pos_weight_power=0.0 if info.get("members") else config.loss.pos_weight_power,
    )


def prevalence(store: plans.StoreLike, plan: plans.Plan) -> dict[str, Any]:
    """Counts of each label in each part of a plan (see `metrics.prevalence`), as stored in `run.json` for the report."""
    patient = store.index.set_index("row")["patient"]
    return {
        part: part_prevalence(hard_targets(plan.truth[part]), labels=plan.labels, patients=patient.loc[rows.tolist()])
        for part, rows in plan.rows.items()
    }


def predictions_table(
    index: pd.DataFrame,
    rows: npt.NDArray[np.int64],
    labels: Sequence[str],
    truth_NL: npt.NDArray[Any],
    prob_NL: npt.NDArray[Any],
) -> pd.DataFrame:
    """The predictions table of `rows` [N] from targets and probabilities [N, L], with the columns that link it to the dataset. Targets
    are 0, 1 or NaN; smooth targets are rounded."""
    links = index.set_index("row").loc[rows, ["source_row", "patient", "study"]].reset_index()
    truth = pd.DataFrame(hard_targets(truth_NL.astype(np.float32)), columns=[f"true/{k}" for k in labels])
    prob = pd.DataFrame(prob_NL.astype(np.float32), columns=[f"prob/{k}" for k in labels])
    return pd.concat([links, truth, prob], axis=1)
