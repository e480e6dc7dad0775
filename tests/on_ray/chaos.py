"""Random kills of a training on a cluster of three nodes on this machine. Each seed fixes what is killed and when; a line of JSON says what
the user saw, and whether the same command, run again until it finishes, gives the result of an uninterrupted run.

    make chaos N=40            # or: python -m tests.on_ray.chaos --kills 40 --first 1 --out build/chaos.jsonl

It is no benchmark: it needs the tests' small model, and three of its seeds are tests (test_chaos.py). "Equal" compares tensors, metrics
and the rows of every step. Only processes that this program has started are killed.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from cxr_ray import config as cfg
from cxr_ray import runs
from cxr_ray.on_ray.head import RAY_WAITS
from cxr_ray.runs import events
from tests import conftest  # noqa: F401  (Ray's settings in the environment)
from tests.fakes.ports import free_port
from tests.fakes.processes import started
from tests.fakes.store import fake_store
from tests.fakes.trainings import final_weights, write_store

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("worker", "worker", "driver", "driver", "controller", "controller", "raylet", "raylet", "gcs", "head")
"""What may be killed, as often as it is drawn. `raylet` ends a node with a worker, `gcs` the head's service alone, `head` all of the head."""
HEAD = ("the head's GCS", "all of the head")
LATEST = 0.97
"""Latest kill, as a share of the time that the uninterrupted run takes from its folder to its end."""
LIMIT_S = 240.0
"""A command that takes longer hangs."""
RERUNS = 3
"""How often the same command is run again, at most."""
NOISE = ("Traceback", "raylet", "ActorDiedError", "internal error")
"""What no user should read."""


@dataclass(frozen=True)
class Kill:
    """One kill, from its seed."""

    seed: int
    kind: str
    at: float
    """When, as a share of the uninterrupted run."""
    which: int
    """Of several workers or nodes."""

    @classmethod
    def of(cls, seed: int) -> "Kill":
        draw = random.Random(seed)
        return cls(seed, draw.choice(KINDS), draw.uniform(0.0, LATEST), draw.randrange(2))


class Nodes:
    """A head without CPUs and two nodes of one CPU. The head keeps its address when it is started again."""

    def __init__(self) -> None:
        self._port = free_port()
        self.start()

    def start(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False, "gcs_server_port": self._port}
        self._cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        self.workers = [self._cluster.add_node(num_cpus=1) for _ in range(2)]

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def kill_raylet(self, which: int) -> None:
        os.kill(_process(self.workers[which], "raylet"), signal.SIGKILL)

    def replace(self, which: int) -> None:
        """Another node in place of a lost one."""
        self._cluster.remove_node(self.workers[which], allow_graceful=False)
        self.workers[which] = self._cluster.add_node(num_cpus=1)

    def kill_head(self, *, gcs_only: bool) -> None:
        head = self._cluster.head_node
        for name in ["gcs_server"] if gcs_only else list(head.all_processes):
            os.kill(_process(head, name), signal.SIGKILL)

    def stop(self) -> None:
        with suppress(Exception):  # parts of it were killed
            self._cluster.shutdown()
        for name in ("raylet", "gcs_server"):
            for pid in started(name):
                os.kill(pid, signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()


def _process(node: Any, name: str) -> int:
    return int(node.all_processes[name][0].process.pid)


@dataclass
class Chaos:
    """A cluster, a small training on it, and the uninterrupted run."""

    folder: Path
    nodes: Nodes
    whole: runs.Run = field(init=False)
    seconds: float = field(init=False)
    """From the whole run's folder to its end."""

    def __post_init__(self) -> None:
        write_store(self.folder / "store", fake_store(150, size=(32, 32)))
        process = self._command("whole")
        self._until_folder("whole", process)
        since = time.monotonic()
        assert process.wait(LIMIT_S) == 0, self.output("whole")
        self.seconds = time.monotonic() - since
        self.whole = runs.load(self.folder / "whole")

    def config(self, name: str) -> cfg.Config:
        return cfg.validate(
            {
                "name": name,
                "output": str(self.folder),
                "plugins": ["tests.fakes.slow_model"],
                "data": {"shards": str(self.folder / "store"), "split": {"val": 0.2, "test": 0}},
                "model": {"name": "slow"},
                "optim": {"lr": 1e-3},
                "train": {
                    "epochs": 6, "batch_size": 8, "precision": "fp32", "log_rows": True, "workers": 2, "threads": 1,
                    "checkpoint_minutes": 0.01, "resources_per_worker": {"CPU": 1},
                },
            }
        )  # fmt: skip

    def run(self, kill: Kill) -> dict[str, Any]:
        """Do one kill; what is reported of it. If the command ended before the kill, as on a machine that is less busy than at first, it is
        repeated with an earlier one."""
        report: dict[str, Any] = {"seed": kill.seed, "killed": kill.kind}
        for missed in range(3):
            name = f"seed-{kill.seed}-{missed}" if missed else f"seed-{kill.seed}"
            report |= self.disturb(name, kill.at * 0.8**missed, lambda process: self._kill(kill, process))
            report["missed"] = missed
            if not report["victim"].startswith("none"):
                break
        return report

    def disturb(self, name: str, at: float, what: Callable[[subprocess.Popen[bytes]], str]) -> dict[str, Any]:
        """Start the training as `name`, call `what` with its process after the share `at` of the uninterrupted run's time, and run the same
        command until it finishes; what was seen."""
        began, process = time.monotonic(), self._command(name)
        self._until_folder(name, process)
        time.sleep(at * self.seconds)
        report: dict[str, Any] = {"after_s": round(at * self.seconds, 2)}
        report["while"] = (self.output(name) or ["nothing was said yet"])[-1][-120:]
        report["victim"] = what(process)
        report["ends"] = [self._end(name, process)]
        if report["victim"] in HEAD:
            self.nodes.restart()
        while runs.load(self.folder / name).info["status"] != "finished" and len(report["ends"]) <= RERUNS:
            report["ends"].append(self._end(name, self._command(name)))
        report["result"] = ", ".join(differences(self.whole, runs.Run(self.folder / name))) or "equal"
        report["seconds"] = round(time.monotonic() - began)
        return report

    def _kill(self, kill: Kill, process: subprocess.Popen[bytes]) -> str:
        if process.poll() is not None:
            return "none: the command had ended"
        if kill.kind == "driver":
            process.kill()
            return "the command"
        if kill.kind == "raylet":
            self.nodes.kill_raylet(kill.which)
            time.sleep(3)
            self.nodes.replace(kill.which)
            return f"node {kill.which + 1} of 2, replaced after 3 s"
        if kill.kind in ("gcs", "head"):
            self.nodes.kill_head(gcs_only=kill.kind == "gcs")
            return HEAD[kill.kind != "gcs"]
        word = "RayTrainWorker" if kill.kind == "worker" else "TrainController"
        while not (found := started(word)) and process.poll() is None:
            time.sleep(0.1)
        if not found:
            return "none: the command had ended"
        with suppress(ProcessLookupError):
            os.kill(found[kill.which % len(found)], signal.SIGKILL)
            return f"{word} {kill.which % len(found) + 1} of {len(found)}"
        return "none: it had ended"

    def _command(self, name: str) -> subprocess.Popen[bytes]:
        file = self.folder / f"{name}.yaml"
        file.write_text(self.config(name).to_yaml(), encoding="utf-8")
        command = [sys.executable, "-m", "cxr_ray", "train", "-c", str(file), "--address", self.nodes.address]
        with (self.folder / f"{name}.txt").open("ab") as log:
            return subprocess.Popen(command, cwd=ROOT, env=dict(os.environ), stdout=log, stderr=subprocess.STDOUT)

    def output(self, name: str) -> list[str]:
        return (self.folder / f"{name}.txt").read_text(errors="replace").splitlines()

    def _until_folder(self, name: str, process: subprocess.Popen[bytes]) -> None:
        while not (self.folder / name / "run.json").exists():
            assert process.poll() is None, self.output(name)
            time.sleep(0.05)

    def _end(self, name: str, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        """How a command ended, as its user sees it, and what `run.json` says then."""
        since = time.monotonic()
        try:
            code: int | str = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = "hung"
        lines = self.output(name)
        return {
            "exit": code,
            "seconds": round(time.monotonic() - since, 1),
            "status": runs.Run(self.folder / name).info["status"],
            "last_line": lines[-1][-400:] if lines else "",
            "events": [event["event"] for event in events.read(self.folder / name)],
            "noise": [line[:160] for line in lines if any(word in line for word in NOISE)][:3],
        }


def differences(whole: runs.Run, run: runs.Run) -> list[str]:
    """What differs between two finished runs: tensors, metrics, rows."""
    if run.info["status"] != "finished":
        return [f"it is {run.info['status']}"]
    one, two = final_weights(whole), final_weights(run)
    found = []
    if one.keys() != two.keys() or not all(torch.equal(one[k], two[k]) for k in one):
        found.append("tensors differ")
    try:
        pd.testing.assert_frame_equal(whole.metrics, run.metrics)
    except AssertionError:
        found.append("metrics differ")
    if _rows(whole) != _rows(run):
        found.append("rows differ")
    return found


def _rows(run: runs.Run) -> Any:
    """The rows of each step; of a step that was repeated, once."""
    logs = [line for file in sorted((run.path / "rows").iterdir()) for line in file.read_text().splitlines()]
    return sorted({tuple(line.split(",")) for line in logs if line.count(",") == 3})


@contextmanager
def chaos(*, ray_waits_s: int = 30) -> Iterator[Chaos]:
    """A cluster and its uninterrupted run, which end with the block. Ray's processes look for a lost head for `ray_waits_s`."""
    folder = Path(tempfile.mkdtemp(prefix="chaos"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("CXR_RAY_TEST_STEP_S", "0.1")
        patch.setenv(RAY_WAITS, str(ray_waits_s))
        nodes = Nodes()
        try:
            yield Chaos(folder, nodes)
        finally:
            nodes.stop()
            shutil.rmtree(folder, ignore_errors=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--seeds", help="these seeds, separated by commas")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build" / "chaos.jsonl", help="a line of JSON per seed is appended"
    )
    given = parser.parse_args(argv)
    seeds = [int(s) for s in given.seeds.split(",")] if given.seeds else range(given.first, given.first + given.kills)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    counts: dict[str, int] = {}
    with chaos() as cluster:
        for seed in seeds:
            report = cluster.run(Kill.of(seed))
            line = json.dumps(report)
            print(line, flush=True)
            with given.out.open("a") as handle:
                handle.write(line + "\n")
            outcome = f"{report['killed']}: {report['result']}"
            counts[outcome] = counts.get(outcome, 0) + 1
    for outcome, count in sorted(counts.items()):
        print(f"{count:3d} {outcome}")


if __name__ == "__main__":
    main()
