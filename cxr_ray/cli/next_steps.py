"""What commands print behind `next:`. Each command line that is proposed works on the run that it is proposed for."""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cxr_ray.cli.command_list import COMMANDS
from cxr_ray.errors import UserError
from cxr_ray.runtime import machine

ANYWHERE = ("config", "demo", "doctor", "init", "models", "sources", "submit")
"""Commands that need no data of a cluster."""
COMMAND = re.compile(rf"\bcxr-ray (?=(?:{'|'.join(name for name in COMMANDS if name not in ANYWHERE)})\b)")


def show(text: str) -> None:
    """Print `next: TEXT`, as `where_it_lies` has it."""
    print(f"next: {where_it_lies(text)}")


def where_it_lies(text: str) -> str:
    """`text` with its commands as jobs, in a job of a cluster: they read what lies there."""
    return COMMAND.sub("cxr-ray submit -- ", text) if machine.in_job() else text


def written(name: str, *, near: Path) -> str:
    """The relative path `name` for a command's output; in a job, whose working directory does not last, next to `near`."""
    return str(near.parent / name) if machine.in_job() else name


def train_on(store: object) -> str:
    """`cxr-ray train --store STORE`; in a job with the output that a job's training must be given, next to the store."""
    where = str(store)
    parent = "/data" if "://" in where else where.rstrip("/").rpartition("/")[0]  # a run's folder is no URL
    output = ["--output", f"{parent}/runs"] if machine.in_job() else []
    return shlex.join(["cxr-ray", "train", "--store", where, *output])


def with_plugins(command: str, run: Any, *flags: str) -> str:
    """`cxr-ray COMMAND RUN FLAGS`, with the plugins that the run was trained with, for commands that load its model."""
    try:
        members = run.members
    except UserError:
        members = []
    named = dict.fromkeys(plugin for one in (run, *members) for plugin in one.config.plugins)
    words = ["cxr-ray", command, str(run.path), *flags, *(["--plugins", *named] if named else [])]
    return shlex.join(words)


def after_training(run: Any) -> str:
    """Evaluate the run, or resume it if it has no model yet."""
    if not _is_trained(run):
        return resume(run)
    parts = set(run.plan["part"])
    return with_plugins("evaluate", run, *([] if parts & {"test", "val"} else ["--split", "train"]))


def resume(run: Any) -> str:
    """Continue the training of a run."""
    words = ["cxr-ray", "train", "--resume", str(run.path)]
    return shlex.join([*words, *(["--plugins", *run.config.plugins] if run.config.plugins else [])])


def after_evaluation(run: Any, results: Mapping[str, Any]) -> str:
    """Other thresholds where a rule can choose them on val; else the worst errors, which need predictions of test or val."""
    if results.get("epoch") is not None:
        return shlex.join(["cxr-ray", "show", str(run.path)])
    has_val = (run.path / "predictions" / "val.parquet").exists()
    if has_val and results["task"] != "multiclass":
        return shlex.join(["cxr-ray", "show", str(run.path), "--thresholds", "recall=0.9"])
    if has_val or (run.path / "predictions" / "test.parquet").exists():
        return shlex.join(["cxr-ray", "errors", str(run.path)])
    return shlex.join(["cxr-ray", "show", str(run.path)])


def of_runs(runs: Sequence[Any]) -> str:
    """Compare the two newest runs that can be compared with each other, else show the newest."""
    newest = runs[-1]
    for other in reversed(runs[:-1]):
        if _are_comparable(other, newest):
            return shlex.join(["cxr-ray", "compare", str(other.path), str(newest.path)])
    return shlex.join(["cxr-ray", "show", str(newest.path)])


def of_seeds(runs: Sequence[Any]) -> str:
    """Compare runs that differ in their seed, once they have predictions of val; else evaluate the first."""
    if len(runs) > 1 and all(_are_comparable(runs[0], other) for other in runs[1:]):
        return shlex.join(["cxr-ray", "compare", *(str(run.path) for run in runs)])
    return after_training(runs[0])


def _is_trained(run: Any) -> bool:
    try:
        run.check_trained()
    except UserError:
        return False
    return True


def _are_comparable(first: Any, second: Any) -> bool:
    """Whether `evaluation.compare` accepts both: common task, labels and predicted rows."""
    from cxr_ray.evaluation import compare

    try:
        compare.check_comparable([first, second])
    except (UserError, OSError, ValueError, KeyError):
        return False
    return True
