"""The run folder: made, written, loaded, listed. It says everything about one training and knows no models."""
# N rows, L labels

import io
import json
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray import config as cfg
from cxr_ray.data import plan as plans
from cxr_ray.errors import Finished, UserError, closest
from cxr_ray.labels import nearest
from cxr_ray.metrics import prevalence as part_prevalence
from cxr_ray.storage.atomic import one_at_a_time, write_atomic

METRIC_COLUMNS = ["epoch", "step", "part", "metric", "label", "value", "positives", "rows"]


@dataclass(frozen=True)
class Run:
    """A run folder, opened. Everything is read when asked for."""

    path: Path

    @property
    def config(self) -> cfg.Config:
        """The whole resolved config."""
        return cfg.load(str(self.path / "config.yaml"))

    @property
    def info(self) -> dict[str, Any]:
        """`run.json`: status, labels, task, best, store, warnings, test_looks, device, seconds."""
        return json.loads((self.path / "run.json").read_text(encoding="utf-8"))

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, git revision, platform and the shards' fingerprint; which device trained stands in `info`."""
        return json.loads((self.path / "environment.json").read_text(encoding="utf-8"))

    @property
    def metrics(self) -> pd.DataFrame:
        """Long form: epoch, step, part, metric, label, value, positives, rows; absent where undefined."""
        file = self.path / "metrics.csv"
        if not file.exists():
            return pd.DataFrame(columns=METRIC_COLUMNS)
        return pd.read_csv(file, keep_default_na=False, na_values={"value": [""]})

    @property
    def plan(self) -> pd.DataFrame:
        """`row, part, drawn`: who was where."""
        return pd.read_parquet(self.path / "plan.parquet")

    @property
    def weights(self) -> Path:
        """`model.safetensors`; its header carries labels, architecture and preprocessing."""
        return self.path / "model.safetensors"

    @property
    def members(self) -> "list[Run]":
        """The runs that an ensemble averages (`members` of `run.json`: folders, absolute or relative to this one); of a run
        with a model of its own, none. Raises `UserError` where one is gone."""
        try:
            return [load(self.path / folder) for folder in self.info.get("members", [])]
        except UserError as error:
            raise UserError(f"the ensemble {self.path.name} lacks a member: {error}") from None

    @property
    def architecture(self) -> str:
        """The model's name; of an ensemble how many of which."""
        try:
            names = [member.config.model.name for member in self.members]
        except UserError:
            return f"ensemble of {len(self.info['members'])}"
        if not names:
            return self.config.model.name
        return "ensemble of " + ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))

    def predictions(self, part: str) -> pd.DataFrame:
        """`row, source_row, patient, study, true/LABEL..., prob/LABEL...` of a part. Raises `UserError` where there is none, and
        where a row stands in it twice."""
        file = self.path / "predictions" / f"{part}.parquet"
        if not file.exists():
            raise UserError(
                f"{self.path} has no predictions of {part}; `cxr-ray evaluate {self.path} --split {part}` makes them"
            )
        table = pd.read_parquet(file)
        if table["row"].duplicated().any():
            raise UserError(
                f"the predictions of {part} in {self.path.name} hold a row twice; "
                f"`cxr-ray evaluate {self.path} --split {part}` writes them anew"
            )
        return table

    def unpredicted(self, part: str, table: pd.DataFrame) -> list[str]:
        """A line that says how many rows of a part its predictions lack; nothing where they lack none."""
        rows = self.plan.loc[lambda plan: plan["part"] == part, "row"]
        lacking = int((~rows.isin(table["row"])).sum())
        if not lacking:
            return []
        return [
            f"{lacking:,} of {len(rows):,} rows of {part} are missing from the predictions of {self.path.name}: left out; "
            f"`cxr-ray evaluate {self.path} --split {part}` makes them"
        ]

    def evaluation(self, part: str) -> dict[str, Any]:
        """`evaluation-PART.json`: what `evaluate` found. Raises `UserError` where it did not run."""
        file = self.path / f"evaluation-{part}.json"
        if not file.exists():
            raise UserError(
                f"{self.path} has no evaluation of {part}; run `cxr-ray evaluate {self.path} --split {part}`"
            )
        return json.loads(file.read_text(encoding="utf-8"))

    def headline(self) -> tuple[str, dict[str, float]]:
        """The part that was judged (test, else val) and its mean recall, AUROC and precision; ("", {}) where none was."""
        for part in ("test", "val"):
            if (self.path / f"evaluation-{part}.json").exists():
                values = self.evaluation(part)["values"]
                return part, {v["metric"]: v["value"] for v in values if v["label"] == "mean"}
        return "", {}

    def update(self, **changes: Any) -> None:
        """Lay `changes` on `run.json`, whole or not at all."""
        update_json(self.path / "run.json", changes)

    def ask_to_stop(self) -> None:
        """Have the training write a checkpoint and end; anyone who may write to the folder can ask, by a file named `stop`."""
        (self.path / "stop").touch()

    @property
    def asked_to_stop(self) -> bool:
        """Whether a file named `stop` lies in the run folder."""
        return (self.path / "stop").exists()

    def log(self, line: str) -> None:
        """Append a line of progress to `log.txt`."""
        with (self.path / "log.txt").open("a", encoding="utf-8") as handle:
            handle.write(line + "\n")

    def write_predictions(self, name: str, table: pd.DataFrame) -> Path:
        """Write `predictions/NAME.parquet` (NAME may hold a folder: epochs/0001-val)."""
        file = self.path / "predictions" / f"{name}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        _write_table(file, table)
        return file


def _write_table(path: Path, table: pd.DataFrame) -> None:
    body = io.BytesIO()
    table.to_parquet(body, index=False)
    write_atomic(path, body.getvalue())


def load(path: str | Path) -> Run:
    """The run in the folder `path`. Raises `UserError` where it is no run, naming a close neighbour."""
    return Run(folder_of(path, "run"))


def folder_of(path: str | Path, kind: str) -> Path:
    """The folder `path` of a `kind` (run, sweep), which `kind.json` in it tells. Raises `UserError` naming a close neighbour."""
    folder, file = Path(path).resolve(), f"{kind}.json"
    if not (folder / file).is_file():
        beside = [p.parent.name for p in folder.parent.glob(f"*/{file}")] if folder.parent.is_dir() else []
        listed = f" {kind.capitalize()}s there: {', '.join(sorted(beside)[:10])}" if beside else ""
        raise UserError(f"{folder} is not a {kind} folder (it has no {file}){closest(folder.name, beside)}{listed}")
    return folder


def update_json(file: Path, changes: Mapping[str, Any]) -> None:
    """Lay `changes` on the JSON mapping in `file`, whole or not at all.

    Driver, workers, trackers and `evaluate` do so by turns on one machine, so that none takes back what another has changed."""
    with one_at_a_time(file.parent):
        held = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        write_atomic(file, json.dumps({**held, **changes}, indent=1, sort_keys=True))


def list_runs(folder: str | Path) -> list[Run]:
    """The runs in a folder, the oldest first. Raises `UserError` where there is no such folder."""
    place = Path(folder).resolve()
    if not place.is_dir():
        raise UserError(f"no folder {place}; `cxr-ray train` makes runs in its --output, by default ./runs")
    files = sorted(place.glob("*/run.json"), key=lambda f: ((f.parent / "config.yaml").stat().st_mtime_ns, f))
    return [Run(file.parent) for file in files]


def create(config: cfg.Config, *, store: Mapping[str, Any], plan: pd.DataFrame, about: Mapping[str, Any]) -> Run:
    """The folder of `config`'s run: made new, or the unfinished one of the same name, config and store, to go on with.

    `store` is what identifies the data (path, fingerprint, source, rows, notes), `plan` the table of `Plan.table()`,
    `about` further entries of `run.json`. Raises `UserError` where the name is taken by another config, or finished."""
    name = config.name or default_name(config)
    check_name(name)
    path = Path(config.output).resolve() / name
    settled = config.model_copy(update={"name": name, "output": str(path.parent)})
    run = Run(path)
    if (path / "run.json").is_file():
        _check_same(run, settled, store)
        return run
    if path.exists() and any(path.iterdir()):
        raise UserError(f"{path} exists and is not a run folder; give another --name")
    path.mkdir(parents=True, exist_ok=True)
    write_atomic(path / "config.yaml", settled.to_yaml())
    write_atomic(path / "environment.json", json.dumps(environment(store), indent=1))
    _write_table(path / "plan.parquet", plan)
    run.update(status="started", name=name, store=dict(store), test_looks=0, **about)
    return run


def plan_of(run: Run, store: plans.Described) -> plans.Plan:
    """The plan that the run was trained by, from its own `plan.parquet`; an ensemble's weighs no label, since each member had
    weights of its own. Raises `UserError` where the store lacks one of its rows or labels."""
    config, info = run.config, run.info
    return plans.restored(
        store,
        config.data,
        run.plan,
        labels=info["labels"],
        task=info["task"],
        seed=config.seed,
        pos_weight_power=0.0 if info.get("members") else config.loss.pos_weight_power,
    )


def prevalence(store: plans.Described, plan: plans.Plan) -> dict[str, Any]:
    """What each part of a plan holds of each label (see `metrics.prevalence`), as `run.json` keeps it for the report."""
    patient = store.index.set_index("row")["patient"]
    return {
        part: part_prevalence(nearest(plan.truth[part]), labels=plan.labels, patients=patient.loc[rows.tolist()])
        for part, rows in plan.rows.items()
    }


def _check_same(run: Run, config: cfg.Config, store: Mapping[str, Any]) -> None:
    name, ended = run.path.name, run.info["status"] == "finished"
    place = {"name", "output"}  # a folder that was moved is the same run
    changed = differences(
        run.config.model_dump(mode="json", exclude=place), config.model_dump(mode="json", exclude=place)
    )
    if changed:
        instead = "give a new --name" if ended else "give a new --name, or the same config to go on"
        raise UserError(f"the run {name} was started with another config ({'; '.join(changed)}); {instead}")
    if run.info["store"]["fingerprint"] != store["fingerprint"]:
        raise UserError(f"the store {store['path']} has changed since the run {name} was started; give a new --name")
    if ended:
        raise Finished(f"the run {name} in {run.path.parent} is finished; give a new --name to train again")


def differences(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> list[str]:
    """`knob: was x, is y` for every knob in which two configs differ."""
    out: list[str] = []
    for key in {**a, **b}:
        x, y = a.get(key), b.get(key)
        if isinstance(x, Mapping) and isinstance(y, Mapping):
            out += differences(x, y, f"{prefix}{key}.")
        elif x != y:
            out.append(f"{prefix}{key}: was {x}, is {y}")
    return out


def check_name(name: str) -> None:
    """Raises `UserError` where `name` cannot name a folder."""
    if not re.fullmatch(r"[\w.+-]+", name) or name.startswith("."):
        raise UserError(f"name: {name!r} cannot name a folder; use letters, digits, '.', '_', '+' and '-'")


def default_name(config: cfg.Config, *, kind: str = "") -> str:
    """Date, model, short hash of the config: 20261121-resnet18-1a2b3c4d5e; a finished one of that name gets a number."""
    base = f"{datetime.now():%Y%m%d}-{kind or config.model.name}-{config.digest()}"
    name, number = base, 2
    while _finished(Path(config.output) / name):
        name, number = f"{base}-{number}", number + 1
    return name


def _finished(path: Path) -> bool:
    for file in ("run.json", "sweep.json"):
        try:
            return bool(json.loads((path / file).read_text(encoding="utf-8"))["status"] == "finished")
        except (OSError, ValueError, KeyError):
            continue
    return False


def environment(store: Mapping[str, Any]) -> dict[str, Any]:
    """Versions, git revision, processor and the shards' fingerprint; no host or user name."""
    packages = ["cxr_ray", "torch", "torchvision", "ray", "numpy", "pandas", "pyarrow", "scikit-learn", "pillow"]
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "absent"
    try:
        here = Path(__file__).resolve().parent
        revision = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        revision = ""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": versions,
        "revision": revision or None,
        "command": Path(sys.argv[0]).name,
        "store": dict(store),
    }


def predictions_table(
    index: pd.DataFrame,
    rows: npt.NDArray[np.int64],
    labels: Sequence[str],
    truth_NL: npt.NDArray[Any],
    prob_NL: npt.NDArray[Any],
) -> pd.DataFrame:
    """The predictions of `rows` [N] (targets and probabilities [N, L]), with what joins them to the dataset. Targets are
    0, 1 or NaN: a smooth one stands there as its nearer side."""
    known = index.set_index("row").loc[rows, ["source_row", "patient", "study"]].reset_index()
    truth = pd.DataFrame(nearest(truth_NL.astype(np.float32)), columns=[f"true/{k}" for k in labels])
    prob = pd.DataFrame(prob_NL.astype(np.float32), columns=[f"prob/{k}" for k in labels])
    return pd.concat([known, truth, prob], axis=1)
