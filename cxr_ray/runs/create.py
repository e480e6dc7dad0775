"""Creates a run folder, or opens the unfinished one of the same name. Nothing here builds a model."""

import json
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from cxr_ray import config as cfg
from cxr_ray.errors import Finished, UserError
from cxr_ray.runs import events
from cxr_ray.runs.run import Run, write_table
from cxr_ray.storage.atomic import make_folder, write_atomic
from cxr_ray.storage.lease import NAME as LEASE
from cxr_ray.storage.lease import Lease

KEPT = ("log.txt", "ray.log", events.FILE, LEASE)
"""What stays in the folder of a run that another config replaces."""


def create(config: cfg.Config, *, store: Mapping[str, Any], plan: pd.DataFrame, about: Mapping[str, Any]) -> Run:
    """Create the run folder of `config`, or open the unfinished one with the same name, config and store, to resume it. A run that
    has no checkpoint yet may be replaced by one of another config; its log stays, and says so.

    `store` identifies the data (path, fingerprint, source, rows, notes), `plan` is the table of `Plan.table()`, `about` are further
    keys of `run.json`. Raises `UserError` if the name belongs to a run with another config, `Finished` if the run is finished."""
    name = config.name or default_name(config)
    check_name(name)
    path = Path(config.output).resolve() / name
    resolved = config.model_copy(update={"name": name, "output": str(path.parent)})
    run, entries = Run(path), {"name": name, "store": dict(store), "test_looks": 0, **about}
    if (path / "run.json").is_file():
        events.settle(path / "run.json")
        if why := _difference(run, resolved, store):
            return _replace(run, resolved, plan, entries, why)
        return run
    if path.exists() and any(path.iterdir()):
        raise UserError(f"{path} exists and is not a run folder; give another name")
    make_folder(path)
    _write(run, resolved, plan, entries)
    return run


def _write(run: Run, config: cfg.Config, plan: pd.DataFrame, entries: Mapping[str, Any]) -> None:
    """Write the files of a new run; `run.json`, which makes the folder a run, last."""
    write_atomic(run.path / "config.yaml", config.to_yaml())
    write_atomic(run.path / "environment.json", json.dumps(environment(entries["store"]), indent=1))
    write_table(run.path / "plan.parquet", plan)
    run.update(status="started", **entries)


def _replace(run: Run, config: cfg.Config, plan: pd.DataFrame, entries: Mapping[str, Any], why: str) -> Run:
    """Replace a run without a checkpoint. Raises the `UserError` of `why` if it has one, or if it is being trained now."""
    if any((run.path / "checkpoints").glob("*/manifest.json")) or run.weights.exists() or run.info.get("members"):
        raise UserError(f"{why}; give a new name, or the same config to resume it")
    with Lease(run.path):
        run.tell("replaced", f"replaced: {why}, and had no checkpoint")
        for file in run.path.iterdir():
            if file.name not in KEPT:
                shutil.rmtree(file) if file.is_dir() else file.unlink()
        _write(run, config, plan, entries)
    return Run(run.path)  # whose config is read again


def _difference(run: Run, config: cfg.Config, store: Mapping[str, Any]) -> str:
    """How `run` differs from one of this config and store; empty if it does not. Raises `UserError` if it is finished."""
    name, finished = run.path.name, run.info["status"] == "finished"
    # Not compared: a moved folder is the same run, and what is checked changes no result.
    place: Any = {"name": True, "output": True, "data": {"verify"}}
    before, now = (c.model_dump(mode="json", exclude=place) for c in (run.config, config))
    why = ""
    if changed := differences(before, now):
        why = f"the run {name} was started with another config ({'; '.join(changed)})"
    elif run.info["store"]["fingerprint"] != store["fingerprint"]:
        why = f"the store {store['path']} has changed since the run {name} was started"
    if finished and why:
        raise UserError(f"{why}; give a new name")
    if finished:
        raise Finished(f"the run {name} in {run.path.parent} is finished; give a new name to train again")
    return why


def differences(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> list[str]:
    """`setting: was x, is y` for every setting that differs between two configs."""
    out: list[str] = []
    for key in {**a, **b}:
        x, y = a.get(key), b.get(key)
        if isinstance(x, Mapping) and isinstance(y, Mapping):
            out += differences(x, y, f"{prefix}{key}.")
        elif x != y:
            out.append(f"{prefix}{key}: was {x}, is {y}")
    return out


def check_name(name: str) -> None:
    """Raises `UserError` if `name` is not valid as the name of a folder."""
    if not re.fullmatch(r"[\w.+-]+", name) or name.startswith("."):
        raise UserError(f"name: {name!r} is not a valid folder name; use letters, digits, '.', '_', '+' and '-'")


def default_name(config: cfg.Config, *, kind: str = "") -> str:
    """Date, model, short hash of the config: 20261121-resnet18-1a2b3c4d5e; with a number if that name is finished already."""
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
    """Versions, git revision, platform and the store's description; no host or user name."""
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
