"""Seconds and peak memory from a dataset's table to a plan, at CheXpert's published size and at a million rows.

    python benchmarks/records.py --folder /tmp/records_bench [--rows 1000000] [--rounds 5]

Writes tables of random labels to --folder (which must not exist; deleted at the end). Each measurement is one new process that
reads the records (source `chexpert`), applies the declared cleaning, splits by patient, oversamples rare label vectors to 150
and plans. Seconds are wall time and CPU time, which other load on the machine affects less. Memory is the maximum resident set
of the process, with the interpreter and its imports.
"""

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

PUBLISHED = 223_414
OVERSAMPLE = 150


def write(folder: Path, rows: int) -> None:
    """Write a train.csv in CheXpert's layout: three images per patient, one in seven lateral, labels as frequent as published."""
    from cxr_ray.datasets.chexpert import LABELS

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    number = np.arange(rows)
    patient = pd.Series(number // 3).astype("str").str.zfill(6).radd("CheXpert-v1.0-small/train/patient")
    lateral = rng.random(rows) < 1 / 7
    table = pd.DataFrame(
        {
            "Path": patient + "/study1/view" + pd.Series(number % 3 + 1).astype("str") + "_frontal.jpg",
            "Sex": rng.choice(["Male", "Female"], rows),
            "Age": rng.integers(18, 91, rows),
            "Frontal/Lateral": np.where(lateral, "Lateral", "Frontal"),
            "AP/PA": np.where(lateral, "", rng.choice(["AP", "PA"], rows, p=[0.85, 0.15])),
        }
    )
    labels = rng.choice([1.0, 0.0, -1.0, np.nan], (rows, len(LABELS)), p=[0.12, 0.07, 0.04, 0.77])
    pd.concat([table, pd.DataFrame(labels, columns=LABELS)], axis=1).to_csv(folder / "train.csv", index=False)


class Index:
    """The part of a store that the plan reads, made from records without images."""

    def __init__(self, folder: Path) -> None:
        from cxr_ray import datasets

        records = datasets.load("chexpert", folder)
        self.index = records.table.reset_index(names="row")
        self.info = records.info


def measure_once(folder: Path) -> None:
    """Print seconds of reading, seconds of planning, CPU seconds of both, number of planned rows, and peak MiB."""
    from cxr_ray import config
    from cxr_ray import datasets as _imported  # noqa: F401 (imports are not measured)
    from cxr_ray.data import plan

    started, cpu_started = time.perf_counter(), time.process_time()
    store = Index(folder)
    read = time.perf_counter()
    result = plan.build(
        store, config.validate({"data": {"oversample_min_count": OVERSAMPLE}}).data, seed=0, pos_weight_power=1.0
    )
    done = time.perf_counter()
    rows = sum(len(r) for r in result.rows.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(read - started, done - read, time.process_time() - cpu_started, rows, peak)


def main() -> None:
    """Print medians over the rounds for both sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--once", action="store_true", help="measure the table in --folder in this process")
    args = parser.parse_args()
    if args.once:
        measure_once(args.folder)
        return
    try:
        for rows in (PUBLISHED, args.rows):
            folder = args.folder / str(rows)
            write(folder, rows)
            found = []
            for _ in range(args.rounds):
                command = [sys.executable, __file__, "--folder", str(folder), "--once"]
                text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                found.append([float(word) for word in text.split()])
            read_s, plan_s, cpu_s, planned, peak_mib = (
                statistics.median(column) for column in zip(*found, strict=True)
            )
            both = [read + plan for read, plan, *_ in found]
            print(
                f"{rows:,} rows, {planned:,.0f} planned: read {read_s:.2f} s, plan {plan_s:.2f} s, both "
                f"{statistics.median(both):.2f} s ({min(both):.2f} to {max(both):.2f}), CPU {cpu_s:.2f} s, "
                f"peak {peak_mib:,.0f} MiB",
                flush=True,
            )
    finally:
        shutil.rmtree(args.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
