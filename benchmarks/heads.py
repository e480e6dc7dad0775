"""One hundred linear heads on features: a sweep of learning rate, positive weights and oversampling.

    python benchmarks/heads.py STORE FEATURES --out FOLDER [--heads 100] [--epochs 5]

STORE has the images, FEATURES is what `cxr-ray embed` wrote of them. Prints the wall time of the whole command (imports, Ray's start
and end, the winner's evaluation and the page included), the CPU time of its processes, and what a CPU-bound second took meanwhile:
on a machine that others use too, the wall time is divided by that.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import yaml


def settings(args: argparse.Namespace) -> dict[str, object]:
    """The sweep."""
    return {
        "data": {"shards": str(args.store), "features": str(args.features)},
        "model": {"name": "linear"},
        "train": {"epochs": args.epochs, "batch_size": 64},
        "report": {"trackers": []},
        "tune": {
            "trials": args.heads - 1,  # and the base configuration
            "scheduler": "none",
            "metric": "val/auroc/mean",
            "space": {
                "optim.lr": {"loguniform": [1e-4, 1e-1]},
                "loss.pos_weight_power": {"uniform": [0.0, 1.0]},
                "data.oversample_min_count": {"choice": [0, 50, 150, 500]},
            },
        },
    }


class Meter:
    """CPU seconds of a process and its descendants, and the wall time of a CPU-bound piece of work, every second."""

    def __init__(self, pid: int) -> None:
        self._process, self._ended = psutil.Process(pid), threading.Event()
        self._cpu: dict[int, float] = {}
        self._slowdowns: list[float] = []
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(1.0):
            for process in [self._process, *self._children()]:
                try:
                    times = process.cpu_times()
                except psutil.Error:
                    continue
                self._cpu[process.pid] = times.user + times.system
            start, cpu = time.perf_counter(), time.thread_time()
            sum(range(300_000))
            self._slowdowns.append((time.perf_counter() - start) / max(time.thread_time() - cpu, 1e-9))

    def _children(self) -> list[psutil.Process]:
        try:
            return self._process.children(recursive=True)
        except psutil.Error:
            return []

    def end(self) -> tuple[float, float]:
        """CPU seconds in all, and the median wall time of a CPU second."""
        self._ended.set()
        self._thread.join()
        return sum(self._cpu.values()), statistics.median(self._slowdowns)


def main() -> None:
    """Run the sweep and print its times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("features", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--heads", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=5)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(args.out / "heads", ignore_errors=True)
    file = args.out / "heads.yaml"
    file.write_text(yaml.safe_dump(settings(args)))
    command = [sys.executable, "-m", "cxr_ray", "tune", "-c", str(file), "--output", str(args.out), "--name", "heads"]
    start = time.perf_counter()
    with (args.out / "heads.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        meter = Meter(process.pid)
        code = process.wait()
    wall_s = time.perf_counter() - start
    cpu_s, slowdown = meter.end()
    print((args.out / "heads.log").read_text()[-1500:])
    print(f"exit code {code}: {args.heads} heads of {args.epochs} epochs in {wall_s:.1f} s, CPU time {cpu_s:.1f} s;")
    print(f"a CPU-bound second took {slowdown:.2f} s meanwhile")


if __name__ == "__main__":
    main()
