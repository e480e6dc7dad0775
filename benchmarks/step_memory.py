"""Peak memory of few and of many steps: of a training, of the evaluation of val, of predictions, and of a sweep's trial.

    python benchmarks/step_memory.py --folder /tmp/step_memory [--what train evaluate predict trial] [--few 50] [--many 500]

Writes a store of noise of 64 px to --folder, which must not exist; lenet, batches of 256, 14 labels, as CheXpert at this size. Each
measurement has its own process, whose anonymous memory (RssAnon: heap, without mapped files) is read from /proc every 0.02 s; of
a trial that of its Ray process. Prints the peaks and many / few; exits with 1 if a ratio exceeds 1.1.
"""

import argparse
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ingest_memory import descendants

from cxr_ray import config as cfg
from cxr_ray.data import store_writer
from cxr_ray.data.info import DatasetInfo

KINDS = ("train", "evaluate", "predict", "trial")
BATCH, SIDE, LABELS = 256, 64, 14
LIMIT = 1.1
VAL = {"train": 0.02, "trial": 0.02, "evaluate": 0.98, "predict": 0.5}
"""Share of the rows: the rest is train."""


def write_store(path: Path, rows: int) -> None:
    """Noise with random labels, without patients, since they are not measured."""
    rng = np.random.default_rng(0)
    labels = tuple(f"L{i}" for i in range(LABELS))
    table = pd.DataFrame({name: (rng.random(rows) < 0.2).astype(np.float32) for name in labels})
    pixels = rng.integers(0, 256, (rows, SIDE, SIDE), dtype=np.uint8)
    info = DatasetInfo(labels=labels, task="multilabel", default_labels=labels)
    store_writer.write(path, pixels, table, info, shard_rows=4096)


def config(folder: Path, kind: str, steps: int) -> cfg.Config:
    """A training whose train rows, or for `evaluate` whose val rows, are `steps` batches."""
    share = VAL[kind] if kind == "evaluate" else 1.0 - VAL[kind]
    values: dict[str, Any] = {
        "name": f"{kind}-{steps}",
        "output": str(folder / "runs"),
        "data": {
            "shards": str(folder / "store"),
            "limit": int(steps * BATCH / share),
            "split": {"val": VAL[kind], "test": 0, "near_duplicates": None},
        },
        "model": {"name": "lenet"},
        "train": {
            "epochs": int(kind in ("train", "trial")),
            "batch_size": BATCH,
            "checkpoint_minutes": None,
            "gpu": False,
        },
        "report": {"trackers": [], "bootstrap": 0},
    }
    if kind == "trial":
        space = {"optim.lr": {"choice": [1e-3]}}
        values["tune"] = {"space": space, "search": "grid", "scheduler": "none", "base": False}
    return cfg.validate(values)


def work(folder: Path, kind: str, steps: int) -> None:
    """What is measured."""
    settings = config(folder, kind, steps)
    if kind == "trial":
        from cxr_ray.on_ray.tune import tune

        tune(settings, log=lambda line: None)
        return
    from cxr_ray.inference import predictor
    from cxr_ray.runtime.context import LocalContext
    from cxr_ray.training import setup, trainer

    if kind == "predict":  # the model is untrained
        settings = settings.model_copy(update={"data": settings.data.model_copy(update={"limit": BATCH})})
    store, plan, settings = setup.prepare(settings)
    run = setup.open_run(settings, store, plan)
    run.update(status="started")
    trainer.fit(settings, plan, store, LocalContext(quiet=True), run)
    if kind == "predict":
        predictor.load(run, gpu=False).rows(store, store.index["row"].to_numpy()[: steps * BATCH], batch_size=BATCH)


def anonymous_mib(pid: int) -> float:
    """Anonymous memory of a process in MiB; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024


def measure(folder: Path, kind: str, steps: int) -> None:
    """Do the work in this process and print the peak."""
    peak, done = 0.0, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(0.02 if kind != "trial" else 0.2):
            pids = [os.getpid()]
            if kind == "trial":
                pids = [pid for pid, command in descendants(os.getpid()).items() if command.startswith("ray::")]
            peak = max([peak, *map(anonymous_mib, pids)])

    thread = threading.Thread(target=sample)
    thread.start()
    work(folder, kind, steps)
    done.set()
    thread.join()
    print(peak, flush=True)


def main() -> None:
    """Print a line for each kind of work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--what", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--few", type=int, default=50)
    parser.add_argument("--many", type=int, default=500)
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.folder, args.what[0], args.measure)
        return
    exceeded = False
    try:
        write_store(args.folder / "store", int(args.many * BATCH / 0.97))
        for kind in args.what:
            few, many = (
                float(
                    subprocess.run(
                        [sys.executable, __file__, "--folder", str(args.folder), "--what", kind, "--measure", str(steps)],
                        stdout=subprocess.PIPE, text=True, check=True,
                    ).stdout.splitlines()[-1]
                )
                for steps in (args.few, args.many)
            )  # fmt: skip
            exceeded |= many > LIMIT * few
            print(
                f"{kind:9} {args.few} steps {few:,.0f} MiB, {args.many} steps {many:,.0f} MiB: {many / few:.3f}",
                flush=True,
            )
    finally:
        shutil.rmtree(args.folder, ignore_errors=True)
    sys.exit(int(exceeded))


if __name__ == "__main__":
    main()
