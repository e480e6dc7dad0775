"""MobileNetV2 on three classes beside its thumbnail rival, by patient: one test part, then five folds of the rest.

    python benchmarks/three_class.py ROOT --weights mobilenet_v2-b0353104.pth --out FOLDER [--threads 2]

ROOT holds CLASS/* and patients.csv. Step 1 puts a fifth of the images aside by patient and compares the recipes below by
macro F1 at the last epoch on three folds of the rest. Step 2 trains the winner on all of the rest and judges what was put
aside once. Step 3 is a sweep: that recipe on five folds of the rest with several seeds; the folds of a seed are judged together,
and the ensemble of the best seed's folds on what was put aside.
"""

import statistics
from typing import Any

import numpy as np
import pandas as pd
from trainings import arguments, quiet, trained

from cxr_ray import config as cfg
from cxr_ray import datasets
from cxr_ray.evaluation.results import evaluation
from cxr_ray.on_ray.ingest import ingest
from cxr_ray.on_ray.tune import tune
from cxr_ray.tuning import ranking
from cxr_ray.tuning import sweep as sweeps
from cxr_ray.workflows import evaluate, select

RECIPES = {
    "adam 3e-4, 2 epochs of 32": {"optim": {"lr": 3e-4}, "train": {"epochs": 2, "batch_size": 32}},
    "adamw 3e-4 cosine, 5 epochs of 16": {
        "optim": {"name": "adamw", "lr": 3e-4, "weight_decay": 0.01, "schedule": "cosine", "warmup_epochs": 1},
        "augment": {"probability": 0.5},
        "train": {"epochs": 5, "batch_size": 16},
    },
    "adamw 1e-3 cosine, 5 epochs of 16": {
        "optim": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.01, "schedule": "cosine", "warmup_epochs": 1},
        "augment": {"probability": 0.5},
        "train": {"epochs": 5, "batch_size": 16},
    },
}


def told(found: dict[str, Any]) -> str:
    """Accuracy and macro F1 with intervals, the thumbnail's macro F1, and the difference with its interval."""

    def read(rows: list[dict[str, Any]], metric: str, label: str) -> str:
        row = next(v for v in rows if v["metric"] == metric and v["label"] == label)
        return f"{row['value']:.3f}" + (f" ({row['low']:.3f} to {row['high']:.3f})" if "low" in row else "")

    baseline = read(found["rivals"]["thumbnail"], "f1", "mean")
    return (
        f"{found['rows']} rows: accuracy {read(found['values'], 'accuracy', '')}, macro F1 {read(found['values'], 'f1', 'mean')}, "
        f"thumbnail {baseline}, difference {read(found['differences']['thumbnail'], 'f1', 'mean')}"
    )


def together(sweep: sweeps.Sweep, ranked: ranking.Ranked) -> None:
    """Every image of the rest, predicted by the one model of a seed that held it out; its thumbnail rival as well."""
    tables, baselines = [], []
    for trial in ranked.trials:
        run = sweep.run(trial)
        held_out = evaluate.evaluate(run.path, split="val", log=quiet)
        print(f"seed {run.config.seed}, fold {trial.fold}: {told(held_out.found)}", flush=True)
        tables.append(pd.read_parquet(run.path / "predictions" / "val.parquet"))
        baselines.append(pd.read_parquet(run.path / "predictions" / "rivals-val.parquet"))
    table, baseline = pd.concat(tables, ignore_index=True), pd.concat(baselines, ignore_index=True)
    labels = held_out.found["labels"]
    thumbnail = {"thumbnail": baseline[[f"thumbnail/{label}" for label in labels]].to_numpy(float)}
    found = evaluation(
        table, labels, "multiclass", 0.5, baselines=thumbnail, bootstrap=2000, interval_by="patient", seed=0
    )
    print(f"seed {run.config.seed}, five folds together: {told(found)}", flush=True)


def main() -> None:
    """The three steps."""
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    store = asked.out / "shards"
    ingest(datasets.load("image_folder", asked.root), asked.root, store, source="image_folder", size=(224, 224))
    base = {
        "output": str(asked.out / "runs"),
        "data": {"shards": str(store), "normalize": "imagenet"},
        "model": {"name": "mobilenet_v2", "weights": asked.weights},
        "train": {"threads": asked.threads, "select": "last"},
        "report": {"trackers": []},
    }

    scores = {}
    for name, recipe in RECIPES.items():
        found = []
        for fold in range(3):
            inside = cfg.merge(cfg.merge(base, recipe), {"data": {"split": {"test": 0.2, "folds": 3, "fold": fold}}})
            table = trained(inside, f"choose-{name.replace(' ', '-').replace(',', '')}-{fold}").metrics
            f1 = table[(table["part"] == "val") & (table["metric"] == "f1") & (table["label"] == "mean")].iloc[-1]
            found.append(float(f1["value"]))
        print(f"{name}: macro F1 on folds of the rest {found}, mean {statistics.mean(found):.3f}", flush=True)
        scores[name] = statistics.mean(found)
    best = max(scores, key=lambda k: scores[k])
    values = cfg.merge(base, RECIPES[best])

    aside = trained(cfg.merge(values, {"data": {"split": {"test": 0.2, "val": 0}}}), "aside")
    print(f"{best}, put aside: {told(evaluate.evaluate(aside.path, log=quiet).found)}", flush=True)

    split = {"by": "patient", "test": 0.2}
    hyperparameters = {"search": "grid", "scheduler": "none", "base": False, "folds": 5, "metric": "val/f1/mean"}
    space = {"seed": {"choice": list(range(asked.seeds))}}
    # A trial takes one core, so that two stand side by side.
    whole = {
        "name": "folds",
        "data": {"split": split},
        "train": {"threads": 1},
        "tune": {**hyperparameters, "space": space},
    }
    sweep = tune(cfg.validate(cfg.merge(values, whole)), log=quiet)
    print(f"{len(sweep.trials)} trainings in {sweep.info['seconds']:,.0f} s")
    for ranked in sweep.ranked():
        together(sweep, ranked)
    every = np.array([[t.values["val/f1/mean"] for t in r.trials] for r in sweep.ranked()])
    print(
        f"deviation of macro F1 between folds {every.std(axis=1, ddof=1).mean():.3f}, between seeds {every.mean(axis=1).std(ddof=1):.3f}"
    )
    select.conclude(sweep, log=quiet)
    ensemble = evaluate.evaluate(sweep.path / "best", log=quiet)
    print(f"the ensemble of the best seed's folds, put aside: {told(ensemble.found)}")


if __name__ == "__main__":
    main()
