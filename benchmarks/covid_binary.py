"""A notebook's COVID detector with its own recipe, then a recipe that is selected on its Train folder only.

    python benchmarks/covid_binary.py ROOT --out FOLDER [--weights mobilenet_v2-b0353104.pth] [--patients FILE]

ROOT holds Train/{Covid,Normal} and Val/{Covid,Normal}; `--patients` is a table of file, patient for splitting Train.
Step 1 trains `preset:covid_binary_notebook` with three seeds and evaluates Val at the last epoch. Step 2 compares
the recipes below by the accuracy at the last epoch on three splits of Train by patient, and never reads Val. Step 3
trains the best recipe on all of Train with three seeds and evaluates Val once.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

from cxr_ray import config as cfg
from cxr_ray import datasets, runs
from cxr_ray.metrics.intervals import wilson
from cxr_ray.on_ray import train as on_ray
from cxr_ray.on_ray.ingest import IngestSettings, ingest

SEEDS = (0, 1, 2)


def recipes(weights: str | None) -> dict[str, dict[str, Any]]:
    """Candidates: the notebook's network with a lower learning rate, and transfer from ImageNet."""
    small = {
        "model": {"name": "covid_cnn"},
        "data": {"normalize": "dataset"},
        "augment": {"probability": 0.5},
        "optim": {"name": "adamw", "lr": 1e-3, "schedule": "cosine", "warmup_epochs": 1},
        "train": {"epochs": 15, "batch_size": 16},
    }
    found = {"covid_cnn, lr 1e-3": small}
    for lr in (3e-4, 1e-3) if weights else ():
        found[f"mobilenet_v2, lr {lr:g}"] = {
            "model": {"name": "mobilenet_v2", "weights": weights},
            "data": {"normalize": "imagenet"},
            "augment": {"probability": 0.5},
            "optim": {"name": "adamw", "lr": lr, "weight_decay": 0.01, "schedule": "cosine", "warmup_epochs": 1},
            "train": {"epochs": 8, "batch_size": 16},
        }
    return found


def accuracy(values: dict[str, Any], *, seed: int, name: str) -> tuple[float, int]:
    """Accuracy on val at the last epoch, and the number of rows. A finished run of that name is read, not trained again."""
    folder = Path(values["output"]) / name
    if not (folder / "run.json").exists() or runs.load(folder).info["status"] != "finished":
        config = cfg.validate(cfg.merge(values, {"seed": seed, "name": name, "train": {"select": "last"}}))
        on_ray.train(config, log=lambda line: print("   ", line) if line.startswith(("epoch 0", "epoch 50")) else None)
    table = runs.load(folder).metrics
    last = table[(table["part"] == "val") & (table["metric"] == "accuracy")].iloc[-1]
    return float(last["value"]), int(last["rows"])


def log(name: str, found: list[tuple[float, int]]) -> None:
    """One line per recipe: each seed's accuracy with its 95% Wilson interval, and the mean."""
    each = []
    for value, rows in found:
        low, high = wilson(round(value * rows), rows, 0.95)
        each.append(f"{value:.4f} ({low:.3f} to {high:.3f}, {rows} rows)")
    print(f"{name}: {'; '.join(each)}; mean {statistics.mean(v for v, _ in found):.4f}", flush=True)


def main() -> None:
    """Run the three steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights")
    parser.add_argument("--patients", type=Path)
    args = parser.parse_args()
    options = {"patients": str(args.patients)} if args.patients else {}
    store = args.out / "shards"
    records = datasets.load("image_folder", args.root, options)
    ingest(records, args.root, store, IngestSettings(source="image_folder", size=(224, 224), aspect="center_crop"))
    base = {"output": str(args.out / "runs"), "report": {"trackers": []}}
    official = {"data": {"shards": str(store), "split": {"val": "official", "test": 0}}}
    notebook = cfg.merge(cfg.merge(cfg.read_file("preset:covid_binary_notebook"), base), official)
    log("notebook's recipe on Val", [accuracy(notebook, seed=s, name=f"notebook-{s}") for s in SEEDS])

    scores = {}
    for name, recipe in recipes(args.weights).items():
        found = []
        for s in SEEDS:
            data = {
                "shards": str(store),
                "filters": ["split == 'train'"],
                "split": {"val": 0.25, "test": 0, "seed": s},
            }
            values = cfg.merge(cfg.merge(recipe, base), {"data": data})
            found.append(accuracy(values, seed=s, name=f"choose-{name.replace(', lr ', '-')}-{s}"))
        log(f"candidate, within Train: {name}", found)
        scores[name] = statistics.mean(v for v, _ in found)
    best = max(scores, key=lambda k: scores[k])
    values = cfg.merge(cfg.merge(recipes(args.weights)[best], base), official)
    log(f"{best} on Val", [accuracy(values, seed=s, name=f"ours-{s}") for s in SEEDS])


if __name__ == "__main__":
    main()
