"""From `cxr-ray submit` to the first batch on two nodes, split into its parts.

    python benchmarks/first_step.py [--rounds 3]

A head with a job server and a second node on this machine, one CPU each; a job of two workers on a store of noise. The same file is the
job's command, which notes when its parts end, and the plugin whose model notes the first batch. No other Ray may run on the machine: a
job finds its cluster by a file that all of them share.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

PARTS = (
    "upload",
    "Ray starts the job",
    "imports, config, store, model check",
    "connection",
    "preflight",
    "workers with their imports",
    "first batch",
)
NOTES = "CXR_RAY_FIRST_STEP"
"""Environment variable: the folder of the notes."""
ROOT = Path(__file__).resolve().parents[1]


def note(name: str) -> None:
    """Record that a part has ended, once."""
    file = Path(os.environ[NOTES]) / name
    if not file.exists():
        file.write_text(str(time.time()))


def noted(folder: Path) -> dict[str, float]:
    """When each part ended."""
    return {file.name: float(file.read_text()) for file in folder.iterdir()}


def as_job(words: list[str]) -> int:
    """`cxr-ray` with notes."""
    note("process")
    from cxr_ray.cli import main
    from cxr_ray.runtime import garbage

    with garbage.starting():  # as in the command, whose modules are imported here to be patched
        from cxr_ray.on_ray import cluster, preflight

        patched: Any = cluster
        room_for, check = patched.room_for, preflight.check_cluster

        def timed_room(*args: Any) -> Any:
            note("ready")
            return room_for(*args)

        def timed_check(*args: Any) -> Any:
            note("connected")
            try:
                return check(*args)
            finally:
                note("preflight")

        patched.room_for = timed_room
        patched = preflight
        patched.check_cluster = timed_check
        return main(words)


def submitted(address: str, folder: Path, number: int) -> list[float]:
    """Seconds of each part of one job."""
    from cxr_ray.on_ray.submit import Job, Jobs

    notes = folder / f"notes{number}"
    notes.mkdir()
    words = ["train", "--store", str(folder / "shards"), "--output", str(folder / "runs"), "--name", f"run{number}"]
    words += [
        "--model",
        "first_step",
        "--plugins",
        "benchmarks.first_step",
        "--epochs",
        "1",
        "--workers",
        "2",
        "--train.threads",
        "1",
    ]

    class Noted(Job):
        @property
        def entrypoint(self) -> str:
            return f"{NOTES}={notes} {sys.executable} benchmarks/first_step.py --as-job {' '.join(self.words)}"

        @property
        def runtime_env(self) -> dict[str, Any]:
            return {**super().runtime_env, "env_vars": {NOTES: str(notes)}}

    started, jobs = time.time(), Jobs(address)
    name = jobs.start(Noted(f"first-step-{number}", words, ROOT, sys.executable))
    uploaded = time.time()
    status = jobs.follow(name, lambda line: None)
    if status != "SUCCEEDED":
        jobs.follow(name, print)
        raise SystemExit(f"the job ended as {status}")
    at = noted(notes)
    ends = [
        started,
        uploaded,
        *(at[name] for name in ("process", "ready", "connected", "preflight", "model", "batch")),
    ]
    return [end - start for start, end in pairwise(ends)]


def main() -> None:
    """Print the parts' medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    os.environ["RAY_AUTH_MODE"] = "disabled"  # before Ray is imported; the ports are those of this machine
    from ray.cluster_utils import Cluster
    from verify import noise

    sys.path.insert(0, str(ROOT))
    from tests.fakes.ports import free_port

    dashboard = free_port()
    agent = {"dashboard_agent_listen_port": free_port()}
    head: dict[str, Any] = {**agent, "num_cpus": 1, "include_dashboard": True, "dashboard_port": dashboard}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(num_cpus=1, dashboard_agent_listen_port=free_port())
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            noise(folder / "shards", 64)
            rounds = []
            for number in range(args.rounds):
                rounds.append(submitted(f"http://127.0.0.1:{dashboard}", folder, number))
                print("  ".join(f"{name} {s:.1f}" for name, s in zip(PARTS, rounds[-1], strict=True)), flush=True)
        total = statistics.median(sum(each) for each in rounds)
        for name, values in zip(PARTS, zip(*rounds, strict=True), strict=True):
            print(
                f"{name}: {statistics.median(values):.1f} s ({min(values):.1f} to {max(values):.1f}), {statistics.median(values) / total:.2f}"
            )
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--as-job"]:
        sys.path.insert(0, str(ROOT))
        sys.exit(as_job(sys.argv[2:]))
    main()
elif NOTES in os.environ:  # the plugin, in a job
    import torch

    from cxr_ray.registry import MODELS, Options

    class Noting(torch.nn.Module):
        """A linear model that notes its first batch."""

        def __init__(self, features: int, outputs: int) -> None:
            super().__init__()
            self.body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(features, outputs))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """Note a batch of a training."""
            if self.training:
                note("batch")
            return self.body(x)

    @MODELS.register("first_step", Options)
    def first_step(*, outputs: int, channels: int, image_size: tuple[int, int], options: Any) -> torch.nn.Module:
        """See the module."""
        if "LOCAL_RANK" in os.environ:  # the command builds the model too, to check it
            note("model")
        return Noting(channels * image_size[0] * image_size[1], outputs)
