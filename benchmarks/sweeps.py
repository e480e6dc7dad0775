"""Overhead of a sweep, and time saved by stopping trials early.

    python benchmarks/sweeps.py share|memory|asha|nested --folder FOLDER [--seeds 5] [--epochs 9] [--times 10]

share: a grid of 16 trials, two at once: the share of the wall time that is training, and the seconds between one trial's end and
the next one's first epoch in the same process; then the grid with ASHA, and sequentially in one process without Ray. memory: two
trials at once over one store: resident memory of its images, each page counted once. asha: small grids without and with ASHA, for
several seeds. nested: sweeps of trials of two workers each, one after the other; placement groups that remain.

Phantom data is written to the folder if it is not there.
"""

import argparse
import json
import os
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import ray
import torch
from trainings import quiet

from cxr_ray import config as cfg
from cxr_ray import datasets
from cxr_ray.datasets.phantom import generate
from cxr_ray.evaluation import compare
from cxr_ray.evaluation.prediction_table import EvaluationSettings, PredictionTable
from cxr_ray.on_ray import cluster
from cxr_ray.on_ray import train as training
from cxr_ray.on_ray.ingest import IngestSettings, ingest
from cxr_ray.on_ray.tune import tune
from cxr_ray.tuning import sweep as sweeps

GRID = {
    "optim.lr": {"choice": [1e-4, 3e-4, 1e-3, 3e-3]},
    "loss.pos_weight_power": {"choice": [0.0, 1.0]},
    # No oversampling, for trials of equal length: to 60 per label vector, an epoch of these phantoms has four times the rows.
    "train.batch_size": {"choice": [32, 64]},
}


def store(folder: Path, patients: int, size: int) -> Path:
    """A store of phantoms."""
    data = folder / f"phantom-{patients}-{size}"
    if not (data / "shards").exists():
        root = generate.write(data / "raw", patients=patients, size=size, seed=3)
        settings = IngestSettings(source="phantom", size=(size, size))
        ingest(datasets.load("phantom", root), root, data / "shards", settings)
    return data / "shards"


def config(shards: Path, output: Path, name: str, *, epochs: int, **sections: Any) -> cfg.Config:
    """Trials of one thread each over the phantoms."""
    base: dict[str, Any] = {
        "name": name,
        "output": str(output),
        "data": {"shards": str(shards), "split": {"val": 0.3, "test": 0}},
        "model": {"name": "lenet"},
        "train": {"epochs": epochs, "batch_size": 32, "threads": 1},
        "report": {"trackers": []},
        "tune": {"search": "grid", "scheduler": "none", "base": False},
    }
    if "space" not in sections.get("tune", {}):
        base["tune"]["space"] = GRID
    return cfg.validate(cfg.merge(base, sections))


def timed_sweep(settings: cfg.Config, **more: Any) -> tuple[sweeps.Sweep, float]:
    """The finished sweep and its wall time in seconds, Ray's start included."""
    started = time.perf_counter()
    return tune(settings, log=quiet, **more), time.perf_counter() - started


def share(folder: Path, epochs: int) -> None:
    """A grid of 16 without early stopping: the share of the wall time that is training, and the gaps between trials. Then the same
    grid with ASHA, and as a sequential loop like in a notebook."""
    at_once = 2
    settings = config(store(folder, 600, 64), folder / "runs", f"share-{time.time_ns()}", epochs=epochs)
    sweep, wall = timed_sweep(settings)
    spans = []
    for trial in sweep.trial_records:
        run = sweep.run(trial)
        ended = (run.path / "run.json").stat().st_mtime
        evaluated = (run.path / "metrics.csv").stat().st_mtime
        spans.append((evaluated - float(run.info["seconds"]), ended, float(run.info["seconds"])))
    spans.sort()
    ends: list[float] = []
    gaps = []
    for started, ended, _ in spans:
        before = [e for e in ends if e <= started]
        if before:  # the process that waited the shortest time
            gaps.append(started - max(before))
            ends.remove(max(before))
        ends.append(ended)
    trained = sum(seconds for _, _, seconds in spans)
    elapsed = max(ended for _, ended, _ in spans) - spans[0][0]
    print(
        f"{len(spans)} trials of {statistics.median(s for *_, s in spans):.1f} s, {at_once} at once; wall {wall:.1f} s\n"
        f"training / (wall x {at_once}): {trained / wall / at_once:.3f}; from the first epoch on {trained / elapsed / at_once:.3f}\n"
        f"start of a trial: {statistics.median(gaps):.2f} s ({min(gaps):.2f} to {max(gaps):.2f}, n {len(gaps)})",
        flush=True,
    )
    early = settings.model_copy(
        update={"name": f"{settings.name}-early", "tune": settings.tune.model_copy(update={"scheduler": "asha"})}
    )
    ended_early, early_wall = timed_sweep(early)
    alone = sequential_seconds(settings, [t.hyperparameters for t in sweep.trial_records])
    best, found = sweep.ranked()[0], ended_early.ranked()[0]
    print(
        f"sequential, {torch.get_num_threads()} threads: {alone:.1f} s; with ASHA {early_wall:.1f} s, ratio {early_wall / alone:.3f}; "
        f"without, ratio {wall / alone:.3f}\nbest val AUROC {best.values[0]:.4f} without ASHA, {found.values[0]:.4f} with"
    )


def resident(pid: int, root: str) -> tuple[int, int]:
    """Resident memory in KiB of a process for the files below `root`: all pages (RSS), and with its share of shared pages (PSS)."""
    rss = pss = 0
    inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        word = line.split()
        if "-" in word[0] and not word[0].endswith(":"):
            inside = len(word) >= 6 and word[5].startswith(root)
        elif inside and word[0] == "Rss:":
            rss += int(word[1])
        elif inside and word[0] == "Pss:":
            pss += int(word[1])
    return rss, pss


def memory(folder: Path) -> None:
    """Maximum resident memory of one store for two trials and the driver together, divided by the maximum of one trial."""
    shards = store(folder, 1500, 224)
    size = sum(f.stat().st_size for f in shards.rglob("*.arrow"))
    maximum = {"together": 0, "one": 0, "processes": 0}
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(0.5):
            found = []
            driver = resident(os.getpid(), str(shards))[1]  # it has searched for near duplicates
            for entry in Path("/proc").iterdir():
                try:
                    if entry.name.isdigit() and b"ray::" in (entry / "cmdline").read_bytes()[:5]:
                        found.append(resident(int(entry.name), str(shards)))
                except (OSError, ValueError, IndexError):
                    continue
            using = [one for one in found if one[0]]
            if using:
                maximum["together"] = max(maximum["together"], driver + sum(pss for _, pss in using))
                maximum["one"] = max(maximum["one"], *(rss for rss, _ in using))
                maximum["processes"] = max(maximum["processes"], len(using))

    thread = threading.Thread(target=sample)
    thread.start()
    small = {"data": {"image_size": [64, 64]}, "tune": {"search": "random", "trials": 2}}
    timed_sweep(config(shards, folder / "runs", f"memory-{time.time_ns()}", epochs=2, **small))
    ended.set()
    thread.join()
    print(f"store {size / 2**20:.0f} MiB; at most {maximum['processes']} trials had it open")
    print(
        f"one trial at most {maximum['one'] / 1024:.1f} MiB, together at most {maximum['together'] / 1024:.1f} MiB (each page counted once)"
    )
    print(f"together / one: {maximum['together'] / maximum['one']:.3f}")


def sequential_seconds(settings: cfg.Config, grid: list[dict[str, Any]]) -> float:
    """Seconds of the same trainings, one after the other in this process with all threads."""
    started = time.perf_counter()
    for number, hyperparameters in enumerate(grid):
        single = {"name": f"{settings.name}-loop-{number:02d}", "train": {"threads": None}, "tune": None}
        for hyperparameter, value in hyperparameters.items():
            section, name = hyperparameter.split(".")
            single = cfg.merge(single, {section: {name: value}})
        body = {k: v for k, v in cfg.merge(settings.model_dump(), single).items() if k != "tune"}
        training.train(cfg.validate(body), log=quiet)
    return time.perf_counter() - started


def asha(folder: Path, seeds: int, epochs: int) -> None:
    """Without and with ASHA, for each seed: epochs, wall time, the best val AUROC."""
    shards, rows = store(folder, 300, 64), []
    for seed in range(seeds):
        found: dict[str, Any] = {"seed": seed}
        winners = []
        for name in ("none", "asha"):
            hyperparameters = {
                "seed": seed,
                "data": {"split": {"seed": seed}, "image_size": [32, 32]},
                "tune": {"scheduler": name},
            }
            sweep, wall = timed_sweep(
                config(shards, folder / "runs", f"{name}-{seed}-{time.time_ns()}", epochs=epochs, **hyperparameters)
            )
            best = sweep.ranked()[0]
            winners.append(sweep.run(best.trials[0]))
            epochs_of = sum(t.epochs for t in sweep.trial_records)
            found |= {f"{name} {k}": v for k, v in (("wall", wall), ("epochs", epochs_of), ("best", best.values[0]))}
            found[f"{name} winner"] = best.number
        info, report = winners[0].info, winners[0].config.report
        grid, early = (PredictionTable(run.predictions("val"), info["labels"], info["task"]) for run in winners)
        pairs = compare.compare_tables(grid, early, EvaluationSettings.from_report(report, 0.5))
        lead = next(row for row in pairs if (row["metric"], row["label"]) == ("auroc", "mean"))
        found |= {k: lead.get(k) for k in ("low", "high")}  # with ASHA minus without, paired over val's patients
        rows.append(found)
        print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in found.items()}), flush=True)
    saved = [r["asha epochs"] / r["none epochs"] for r in rows]
    lost = [r["none best"] - r["asha best"] for r in rows]
    print(
        f"epochs: {statistics.median(saved):.3f} of the grid's ({min(saved):.3f} to {max(saved):.3f})\n"
        f"wall: {statistics.median(r['asha wall'] / r['none wall'] for r in rows):.3f} of the grid's\n"
        f"best val AUROC lost: {statistics.median(lost):.4f} ({min(lost):.4f} to {max(lost):.4f}); "
        f"same winner in {sum(r['none winner'] == r['asha winner'] for r in rows)} of {len(rows)}, "
        f"within noise of it in {sum(r['low'] is not None and r['low'] <= 0 <= r['high'] for r in rows)}"
    )


def nested(folder: Path, times: int) -> None:
    """Sweeps of two-worker trials in one Ray session: how each ended, and the placement groups that remain."""
    from ray.util import placement_group_table

    shards = store(folder, 120, 32)
    with cluster.session("local", num_cpus=4, dashboard=True):
        for number in range(times):
            hyperparameters = {
                "train": {"workers": 2},
                "tune": {
                    "scheduler": "asha", "search": "random", "trials": 3, "space": {"optim.lr": {"loguniform": [1e-5, 1e-2]}},
                },
            }  # fmt: skip
            settings = config(shards, folder / "runs", f"nested-{number}-{time.time_ns()}", epochs=3, **hyperparameters)
            sweep, wall = timed_sweep(settings)
            remaining = [g for g in placement_group_table().values() if g["state"] not in ("REMOVED",)]
            free = ray.available_resources().get("CPU")
            ends = [f"{t.status} after {t.epochs}" for t in sweep.trial_records]
            print(
                f"{number}: {wall:.0f} s, {ends}, {len(remaining)} placement groups remain, {free:g} of 4 CPUs free",
                flush=True,
            )


def main() -> None:
    """Run one benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("share", "memory", "asha", "nested"))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--times", type=int, default=10)
    args = parser.parse_args()
    if args.what == "share":
        share(args.folder, args.epochs)
    elif args.what == "memory":
        memory(args.folder)
    elif args.what == "asha":
        asha(args.folder, args.seeds, args.epochs)
    else:
        nested(args.folder, args.times)


if __name__ == "__main__":
    main()
