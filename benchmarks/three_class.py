"""MobileNetV2 on three classes, compared with the thumbnail baseline: one test part by patient, then five folds of the rest.

    python benchmarks/three_class.py ROOT --weights mobilenet_v2-b0353104.pth --out FOLDER [--threads 2]

ROOT contains CLASS/* and patients.csv. Step 1 holds out a fifth of the images by patient as test and compares the recipes below
by macro F1 at the last epoch on three folds of the rest. Step 2 trains the best recipe on all of the rest and evaluates test
once. Step 3 is a sweep: that recipe on five folds of the rest with several seeds. The folds of a seed are evaluated together,
and the ensemble of the best seed's folds on test.
"""

import statistics
from typing import Any

import numpy as np
import pandas as pd
from trainings import arguments, quiet, trained

from cxr_ray import config as cfg
from cxr_ray import datasets
from cxr_ray.evaluation.prediction_table import EvaluationSettings, PredictionTable
from cxr_ray.evaluation.results import evaluate_table
from cxr_ray.on_ray.ingest import IngestSettings, ingest
from cxr_ray.on_ray.tune import tune
from cxr_ray.tuning import ranking
from cxr_ray.tuning import sweep as sweeps
from cxr_ray.workflows import evaluations, select

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


def summary(found: dict[str, Any]) -> str:
    """Accuracy and macro F1 with intervals, the thumbnail's macro F1, and the difference with its interval."""

    def read(rows: list[dict[str, Any]], metric: str, label: str) -> str:
        row = next(v for v in rows if v["metric"] == metric and v["label"] == label)
        return f"{row['value']:.3f}" + (f" ({row['low']:.3f} to {row['high']:.3f})" if "low" in row else "")

    baseline = read(found["rivals"]["thumbnail"], "f1", "mean")
    return (
        f"{found['rows']} rows: accuracy {read(found['values'], 'accuracy', '')}, macro F1 {read(found['values'], 'f1', 'mean')}, "
        f"thumbnail {baseline}, difference {read(found['differences']['thumbnail'], 'f1', 'mean')}"
    )


def evaluate_folds(sweep: sweeps.Sweep, ranked: ranking.RankedCombination) -> None:
    """Evaluate all images of the rest, each predicted by the model of a seed that did not train on it; the thumbnail baseline too."""
    tables, baselines = [], []
    for trial in ranked.trials:
        run = sweep.run(trial)
        evaluated = evaluations.evaluate(run.path, split="val", log=quiet)
        print(f"seed {run.config.seed}, fold {trial.fold}: {summary(evaluated.results)}", flush=True)
        tables.append(pd.read_parquet(run.path / "predictions" / "val.parquet"))
        baselines.append(pd.read_parquet(run.path / "predictions" / "rivals-val.parquet"))
    table, baseline = pd.concat(tables, ignore_index=True), pd.concat(baselines, ignore_index=True)
    labels = evaluated.results["labels"]
    thumbnail = {"thumbnail": baseline[[f"thumbnail/{label}" for label in labels]].to_numpy(float)}
    predictions = PredictionTable(table, labels, "multiclass")
    found = evaluate_table(predictions, EvaluationSettings(bootstrap=2000), baselines=thumbnail)
    print(f"seed {run.config.seed}, five folds together: {summary(found)}", flush=True)


def main() -> None:
    """Run the three steps."""
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    store = args.out / "shards"
    ingest(
        datasets.load("image_folder", args.root),
        args.root,
        store,
        IngestSettings(source="image_folder", size=(224, 224)),
    )
    base = {
        "output": str(args.out / "runs"),
        "data": {"shards": str(store), "normalize": "imagenet"},
        "model": {"name": "mobilenet_v2", "weights": args.weights},
        "train": {"threads": args.threads, "select": "last"},
        "report": {"trackers": []},
    }

    scores = {}
    for name, recipe in RECIPES.items():
        found = []
        for fold in range(3):
            values_of_fold = cfg.merge(
                cfg.merge(base, recipe), {"data": {"split": {"test": 0.2, "folds": 3, "fold": fold}}}
            )
            table = trained(values_of_fold, f"choose-{name.replace(' ', '-').replace(',', '')}-{fold}").metrics
            f1 = table[(table["part"] == "val") & (table["metric"] == "f1") & (table["label"] == "mean")].iloc[-1]
            found.append(float(f1["value"]))
        print(f"{name}: macro F1 on folds of the rest {found}, mean {statistics.mean(found):.3f}", flush=True)
        scores[name] = statistics.mean(found)
    best = max(scores, key=lambda k: scores[k])
    values = cfg.merge(base, RECIPES[best])

    single = trained(cfg.merge(values, {"data": {"split": {"test": 0.2, "val": 0}}}), "single")
    print(f"{best}, on test: {summary(evaluations.evaluate(single.path, log=quiet).results)}", flush=True)

    split = {"by": "patient", "test": 0.2}
    hyperparameters = {"search": "grid", "scheduler": "none", "base": False, "folds": 5, "metric": "val/f1/mean"}
    space = {"seed": {"choice": list(range(args.seeds))}}
    # One core per trial, so that two run at once.
    sweep_values = {
        "name": "folds",
        "data": {"split": split},
        "train": {"threads": 1},
        "tune": {**hyperparameters, "space": space},
    }
    sweep = tune(cfg.validate(cfg.merge(values, sweep_values)), log=quiet)
    print(f"{len(sweep.trial_records)} trainings in {sweep.info['seconds']:,.0f} s")
    for ranked in sweep.ranked():
        evaluate_folds(sweep, ranked)
    scores_of = np.array([[t.values["val/f1/mean"] for t in r.trials] for r in sweep.ranked()])
    print(
        f"deviation of macro F1 between folds {scores_of.std(axis=1, ddof=1).mean():.3f}, between seeds {scores_of.mean(axis=1).std(ddof=1):.3f}"
    )
    select.select_best(sweep, log=quiet)
    ensemble = evaluations.evaluate(sweep.path / "best", log=quiet)
    print(f"the ensemble of the best seed's folds, on test: {summary(ensemble.results)}")


if __name__ == "__main__":
    main()
