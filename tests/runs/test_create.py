"""Making a run folder: once, refused for another config, but a run that has no checkpoint yet may be replaced."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cxr_ray import config as cfg
from cxr_ray import runs
from cxr_ray.errors import UserError
from cxr_ray.runs import events
from cxr_ray.storage.lease import Lease

STORE = {"path": "shards", "fingerprint": "abc", "source": "phantom", "rows": 3, "notes": []}
PLAN = pd.DataFrame({"row": [1, 2, 3], "part": ["train", "val", "test"], "drawn": [2, 1, 1]})


def create(tmp_path: Path, *, plan: pd.DataFrame = PLAN, **settings: Any) -> runs.Run:
    made = cfg.validate({"output": str(tmp_path), **settings})
    return runs.create(made, store=STORE, plan=plan, about={"task": "multilabel"})


def checkpoint(run: runs.Run) -> None:
    folder = run.path / "checkpoints" / "step-00000001"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")


def test_a_run_without_a_name_is_named_by_date_model_and_config(tmp_path):
    run = create(tmp_path, model={"name": "lenet"})
    date, model, digest = run.path.name.split("-")
    assert len(date) == 8 and model == "lenet" and len(digest) == 10
    assert create(tmp_path, model={"name": "lenet"}).path == run.path  # unfinished: resumed
    run.update(status="finished")
    assert create(tmp_path, model={"name": "lenet"}).path.name == f"{run.path.name}-2"


def test_a_used_or_invalid_name_is_refused(tmp_path):
    run = create(tmp_path, name="x")
    checkpoint(run)
    with pytest.raises(UserError, match=r"another config \(seed: was 0, is 1\)"):
        create(tmp_path, name="x", seed=1)
    with pytest.raises(UserError, match="the store shards has changed"):
        runs.create(
            cfg.validate({"output": str(tmp_path), "name": "x"}),
            store={**STORE, "fingerprint": "z"},
            plan=PLAN,
            about={},
        )
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UserError, match="is not a run folder"):
        create(tmp_path, name="full")
    for name in ("a/b", "..", ".x", "a b"):
        with pytest.raises(UserError, match="is not a valid folder name"):
            create(tmp_path, name=name)


def test_a_run_without_a_checkpoint_is_replaced_by_a_corrected_config_and_keeps_its_log(tmp_path):
    """A refused start must not take its name."""
    refused = create(tmp_path, name="x", train={"workers": 64})
    refused.log("what the first start said")
    refused.update(status="failed", error="64 workers need 64 CPUs")
    (refused.path / "rows").mkdir()
    (refused.path / "rows" / "rank-0.csv").write_text("1,1,0,1")
    (refused.path / "checkpoints" / "step-00000001").mkdir(parents=True)  # incomplete: it has no manifest
    run = create(tmp_path, name="x", train={"workers": 2}, plan=PLAN.iloc[:2])
    assert run.path == refused.path and run.config.train.workers == 2 and len(run.plan) == 2
    assert run.info["status"] == "started" and "error" not in run.info
    assert not (run.path / "rows").exists() and not (run.path / "checkpoints").exists()
    first, replaced = (run.path / "log.txt").read_text().splitlines()
    assert first == "what the first start said"
    assert replaced == (
        "replaced: the run x was started with another config (train.workers: was 64, is 2), and had no checkpoint"
    )
    assert [(e["event"], e["text"]) for e in events.read(run.path)] == [("replaced", replaced)]


def test_a_run_that_is_trained_now_is_not_replaced(tmp_path):
    run = create(tmp_path, name="x")
    with Lease(run.path), pytest.raises(UserError, match=f"is being trained now, by process {os.getpid()}"):
        create(tmp_path, name="x", seed=1)
    assert runs.load(run.path).config.seed == 0


@pytest.mark.parametrize("how", ["load", "list", "create"])
def test_a_killed_run_is_called_interrupted_by_whatever_looks_at_it_next(tmp_path, how):
    run = create(tmp_path, name="x")
    code = "import os, sys, pathlib; from cxr_ray.storage.lease import Lease; Lease(pathlib.Path(sys.argv[1])).__enter__(); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, str(run.path)], check=False)
    assert run.info["status"] == "started"
    look = {
        "load": lambda: runs.load(run.path),
        "list": lambda: runs.list_runs(tmp_path),
        "create": lambda: create(tmp_path, name="x"),
    }
    look[how]()
    look[how]()
    assert run.info["status"] == "interrupted"
    assert [event["event"] for event in events.read(run.path)] == ["interrupted"]


def test_a_started_run_without_a_lease_is_interrupted_once_it_is_old(tmp_path):
    """Of an earlier version, or killed before it took its lease. A training that has just begun has none yet."""
    run = create(tmp_path, name="x")

    def written(hours_ago: float) -> str:
        (run.path / "rows").mkdir(exist_ok=True)
        for file in (*run.path.iterdir(), run.path / "rows" / "rank-0.csv"):
            file.touch()
            os.utime(file, (time.time() - (hours_ago if file.name == "rank-0.csv" else 100) * 3600,) * 2)
        return str(runs.load(run.path).info["status"])

    assert written(hours_ago=23) == "started" and events.read(run.path) == []
    with Lease(run.path):
        os.utime(run.path / "lease.json", (0, 0))
        assert written(hours_ago=25) == "started"
    assert written(hours_ago=25) == "interrupted"
    assert [(e["event"], e["text"]) for e in events.read(run.path)] == [
        ("interrupted", "no process trains it, and nothing was written for more than a day")
    ]


def test_a_run_that_lives_or_has_ended_keeps_its_status(tmp_path):
    run = create(tmp_path, name="x")
    runs.load(run.path)
    with Lease(run.path):
        assert runs.load(run.path).info["status"] == "started"
    run.update(status="stopped")
    assert runs.load(run.path).info["status"] == "stopped" and events.read(run.path) == []
