"""What a sweep costs beside its trainings, and what ending trials early saves.

    python benchmarks/sweeps.py share|memory|asha|nested --folder FOLDER [--seeds 5] [--epochs 9] [--times 10]

share: a grid of 16 side by side: the share of the wall time that is training, the seconds between one trial's end and the
next one's first epoch in the same process; then the grid ended early, and one after the other in one process without Ray. memory: two
trials at once over one store: what of its images is resident, counted once a page. asha: over seeds, small grids whole and ended early.
nested: sweeps of trials of two workers each, one after the other; placement groups that are left.

Phantom data, made in the folder where it is not there yet.
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
from cxr_ray.on_ray import cluster
from cxr_ray.on_ray import train as training
from cxr_ray.on_ray.ingest import ingest
from cxr_ray.on_ray.tune import tune
from cxr_ray.tuning import sweep as sweeps

GRID = {
    "optim.lr": {"choice": [1e-4, 3e-4, 1e-3, 3e-3]},
    "loss.pos_weight_power": {"choice": [0.0, 1.0]},
    # Trials of one length: drawn to 60 a label vector, an epoch of these phantoms would have four times the rows.
    "train.batch_size": {"choice": [32, 64]},
}


def store(folder: Path, patients: int, size: int) -> Path:
    """A store of phantoms."""
    place = folder / f"phantom-{patients}-{size}"
    if not (place / "shards").exists():
        root = generate.write(place / "raw", patients=patients, size=size, seed=3)
        ingest(datasets.load("phantom", root), root, place / "shards", source="phantom", size=(size, size))
    return place / "shards"


def config(shards_at: Path, output: Path, name: str, *, epochs: int, **sections: Any) -> cfg.Config:
    """Trials of one thread each over the phantoms."""
    base: dict[str, Any] = {
        "name": name,
        "output": str(output),
        "data": {"shards": str(shards_at), "split": {"val": 0.3, "test": 0}},
        "model": {"name": "lenet"},
        "train": {"epochs": epochs, "batch_size": 32, "threads": 1},
        "report": {"trackers": []},
        "tune": {"search": "grid", "scheduler": "none", "base": False},
    }
    if "space" not in sections.get("tune", {}):
        base["tune"]["space"] = GRID
    return cfg.validate(cfg.merge(base, sections))


def swept(made: cfg.Config, **more: Any) -> tuple[sweeps.Sweep, float]:
    """The finished sweep and its wall seconds, Ray's start with it."""
    began = time.perf_counter()
    return tune(made, log=quiet, **more), time.perf_counter() - began


def share(folder: Path, epochs: int) -> None:
    """A grid of 16 trained whole: how much of the wall time is training, and the gaps between trials. Then the same grid ended
    early, and the loop that a notebook would run."""
    at_once = 2
    made = config(store(folder, 600, 64), folder / "runs", f"share-{time.time_ns()}", epochs=epochs)
    sweep, wall = swept(made)
    spans = []
    for trial in sweep.trials:
        run = sweep.run(trial)
        ended = (run.path / "run.json").stat().st_mtime
        judged = (run.path / "metrics.csv").stat().st_mtime
        spans.append((judged - float(run.info["seconds"]), ended, float(run.info["seconds"])))
    spans.sort()
    ends: list[float] = []
    gaps = []
    for began, ended, _ in spans:
        before = [e for e in ends if e <= began]
        if before:  # the process that has waited least
            gaps.append(began - max(before))
            ends.remove(max(before))
        ends.append(ended)
    trained = sum(seconds for _, _, seconds in spans)
    lasted = max(ended for _, ended, _ in spans) - spans[0][0]
    print(
        f"{len(spans)} trials of {statistics.median(s for *_, s in spans):.1f} s, {at_once} at once; wall {wall:.1f} s\n"
        f"training / (wall x {at_once}): {trained / wall / at_once:.3f}; from the first epoch on {trained / lasted / at_once:.3f}\n"
        f"a trial's start: {statistics.median(gaps):.2f} s ({min(gaps):.2f} to {max(gaps):.2f}, n {len(gaps)})",
        flush=True,
    )
    early = made.model_copy(
        update={"name": f"{made.name}-early", "tune": made.tune.model_copy(update={"scheduler": "asha"})}
    )
    ended_early, early_wall = swept(early)
    alone = looped(made, [t.hyperparameters for t in sweep.trials])
    best, found = sweep.ranked()[0], ended_early.ranked()[0]
    print(
        f"one after the other, {torch.get_num_threads()} threads: {alone:.1f} s; ended early {early_wall:.1f} s: {early_wall / alone:.3f} of it; "
        f"whole {wall / alone:.3f}\nbest val AUROC {best.values[0]:.4f} of all, {found.values[0]:.4f} ended early"
    )


def resident(pid: int, root: str) -> tuple[int, int]:
    """KiB of the files below `root` that a process has resident: all pages, and its part of those that it shares."""
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
    """The most that two trials, and the driver, have resident of one store together, over the most of one trial alone."""
    place = store(folder, 1500, 224)
    size = sum(f.stat().st_size for f in place.rglob("*.arrow"))
    most = {"together": 0, "one": 0, "processes": 0}
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.5):
            found = []
            driver = resident(os.getpid(), str(place))[1]  # it has looked for pictures that are alike
            for entry in Path("/proc").iterdir():
                try:
                    if entry.name.isdigit() and b"ray::" in (entry / "cmdline").read_bytes()[:5]:
                        found.append(resident(int(entry.name), str(place)))
                except (OSError, ValueError, IndexError):
                    continue
            held = [one for one in found if one[0]]
            if held:
                most["together"] = max(most["together"], driver + sum(pss for _, pss in held))
                most["one"] = max(most["one"], *(rss for rss, _ in held))
                most["processes"] = max(most["processes"], len(held))

    thread = threading.Thread(target=look)
    thread.start()
    small = {"data": {"image_size": [64, 64]}, "tune": {"search": "random", "trials": 2}}
    swept(config(place, folder / "runs", f"memory-{time.time_ns()}", epochs=2, **small))
    ended.set()
    thread.join()
    print(f"store {size / 2**20:.0f} MiB; at most {most['processes']} trials had it open")
    print(
        f"one alone at most {most['one'] / 1024:.1f} MiB, together at most {most['together'] / 1024:.1f} MiB (each page once)"
    )
    print(f"together / one: {most['together'] / most['one']:.3f}")


def looped(made: cfg.Config, grid: list[dict[str, Any]]) -> float:
    """Seconds of the same trainings, one after the other in this process with all its threads."""
    began = time.perf_counter()
    for number, hyperparameters in enumerate(grid):
        single = {"name": f"{made.name}-loop-{number:02d}", "train": {"threads": None}, "tune": None}
        for hyperparameter, value in hyperparameters.items():
            section, name = hyperparameter.split(".")
            single = cfg.merge(single, {section: {name: value}})
        body = {k: v for k, v in cfg.merge(made.model_dump(), single).items() if k != "tune"}
        training.train(cfg.validate(body), log=quiet)
    return time.perf_counter() - began


def asha(folder: Path, seeds: int, epochs: int) -> None:
    """Whole and ended early, for each seed: epochs, wall time, the best val AUROC."""
    place, rows = store(folder, 300, 64), []
    for seed in range(seeds):
        found: dict[str, Any] = {"seed": seed}
        winners = []
        for name in ("none", "asha"):
            hyperparameters = {
                "seed": seed,
                "data": {"split": {"seed": seed}, "image_size": [32, 32]},
                "tune": {"scheduler": name},
            }
            sweep, wall = swept(
                config(place, folder / "runs", f"{name}-{seed}-{time.time_ns()}", epochs=epochs, **hyperparameters)
            )
            best = sweep.ranked()[0]
            winners.append(sweep.run(best.trials[0]))
            epochs_of = sum(t.epochs for t in sweep.trials)
            found |= {f"{name} {k}": v for k, v in (("wall", wall), ("epochs", epochs_of), ("best", best.values[0]))}
            found[f"{name} winner"] = best.number
        pairs = compare.of_tables(
            *(run.predictions("val") for run in winners), labels=winners[0].info["labels"], task=winners[0].info["task"],
            thresholds=0.5, report=winners[0].config.report,
        )  # fmt: skip
        lead = next(row for row in pairs if (row["metric"], row["label"]) == ("auroc", "mean"))
        found |= {k: lead.get(k) for k in ("low", "high")}  # of ended early less whole, paired over val's patients
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
    """Sweeps of two-worker trials in one Ray session: how each ended, and the placement groups that are left."""
    from ray.util import placement_group_table

    place = store(folder, 120, 32)
    with cluster.session("local", num_cpus=4, dashboard=True):
        for number in range(times):
            hyperparameters = {
                "train": {"workers": 2},
                "tune": {
                    "scheduler": "asha", "search": "random", "trials": 3, "space": {"optim.lr": {"loguniform": [1e-5, 1e-2]}},
                },
            }  # fmt: skip
            made = config(place, folder / "runs", f"nested-{number}-{time.time_ns()}", epochs=3, **hyperparameters)
            sweep, wall = swept(made)
            left = [g for g in placement_group_table().values() if g["state"] not in ("REMOVED",)]
            free = ray.available_resources().get("CPU")
            ends = [f"{t.status} after {t.epochs}" for t in sweep.trials]
            print(
                f"{number}: {wall:.0f} s, {ends}, {len(left)} placement groups left, {free:g} of 4 CPUs free",
                flush=True,
            )


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("share", "memory", "asha", "nested"))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--times", type=int, default=10)
    asked = parser.parse_args()
    if asked.what == "share":
        share(asked.folder, asked.epochs)
    elif asked.what == "memory":
        memory(asked.folder)
    elif asked.what == "asha":
        asha(asked.folder, asked.seeds, asked.epochs)
    else:
        nested(asked.folder, asked.times)


if __name__ == "__main__":
    main()
