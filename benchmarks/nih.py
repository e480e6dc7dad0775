"""Operating points on 658 NIH images: recall first, and its cost in precision and alarms.

    python benchmarks/nih.py ROOT --weights mobilenet_v2-b0353104.pth --out FOLDER [--threads 2]

ROOT is a folder in NIH's layout. A quarter of the patients is test. On the rest, three folds train one MobileNetV2 each; the
three form an ensemble, whose thresholds come from the rows that each fold left out. `report.thresholds: {recall: 0.9}`.
"""

from typing import Any

from trainings import arguments, quiet, trained

from cxr_ray import config as cfg
from cxr_ray import datasets
from cxr_ray.on_ray.ingest import IngestSettings, ingest
from cxr_ray.runs import ensemble
from cxr_ray.workflows import evaluations

LABELS = [
    "Pneumonia",
    "Infiltration",
    "Atelectasis",
    "Effusion",
    "Edema",
]  # sixty positives or more; the others 25 or fewer
FOLDS = 3
RECIPE: dict[str, Any] = {
    "model": {"name": "mobilenet_v2"},
    "optim": {"name": "adamw", "lr": 3e-4, "weight_decay": 0.01, "schedule": "cosine", "warmup_epochs": 1},
    "augment": {"probability": 0.5},
    "train": {"epochs": 5, "batch_size": 16, "select": "last", "precision": "auto"},
    "report": {"thresholds": {"recall": 0.9}, "trackers": []},
}


def print_summary(found: dict[str, Any]) -> None:
    """Print the means with their intervals, and for each label precision and alarms at each recall."""
    mean = {v["metric"]: v for v in found["values"] if v["label"] == "mean"}
    means = [
        f"{m} {mean[m]['value']:.3f}"
        + (f" ({mean[m]['low']:.3f} to {mean[m]['high']:.3f})" if "low" in mean[m] else "")
        for m in ("recall", "auroc", "precision")
    ]
    print(f"{found['rows']} rows of {found['patients']} patients: {', '.join(means)}")
    for label in found["labels"]:
        cells = []
        for row in (r for r in found["at_recall"] if r["label"] == label):
            here, short = row["here"], "" if row["val"]["met"] else "*"
            cells.append(
                f"{row['recall']:g}: {here['recall']:.3f}{short} {here['precision']:.3f} {here['alarms_per_100']:.0f}"
            )
        print(f"  {label:14s} ({row['here']['positives']} of {row['here']['rows']})  " + "   ".join(cells), flush=True)


def main() -> None:
    """Ingest, train three folds, and evaluate the first fold and the ensemble."""
    args = arguments(__doc__).parse_args()
    store = args.out / "shards"
    if not (store / "manifest.json").exists():
        ingest(datasets.load("nih", args.root), args.root, store, IngestSettings(source="nih", size=(224, 224)))
    members = []
    for fold in range(FOLDS):
        split = {"test": 0.25, "folds": FOLDS, "fold": fold}
        values = {
            "output": str(args.out / "runs"), "data": {"shards": str(store), "labels": LABELS, "normalize": "imagenet", "split": split},
            "model": {"weights": args.weights}, "train": {"threads": args.threads},
        }  # fmt: skip
        members.append(trained(cfg.merge(RECIPE, values), f"fold-{fold}"))
    for run in (members[0], ensemble.make(args.out / "runs" / "ensemble", members)):
        print(run.path.name)
        print_summary(evaluations.evaluate(run.path, log=quiet).results)


if __name__ == "__main__":
    main()
