"""A run folder with the metrics of three epochs, for tests of trackers; imports little, so that processes start fast."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from cxr_ray import config as cfg
from cxr_ray import runs
from cxr_ray.training import trackers

LABELS = ("Edema", "Mass, left")
STORE = {"path": "x", "fingerprint": "f", "source": "fake", "rows": 1, "notes": []}


def tracked(folder: Path, *names: str, **entries: Any) -> runs.Run:
    """A run with the trackers `names` whose second epoch of three is the best; `entries` are added to run.json."""
    settings = cfg.validate(
        {
            "name": folder.name,
            "output": str(folder.parent),
            "report": {"trackers": list(names)},
            "data": {"uncertain": {"Edema": "ones"}},
        }
    )
    about = {"labels": LABELS, "task": "multilabel", **entries}
    run = runs.create(settings, store=STORE, plan=pd.DataFrame({"row": [0]}), about=about)
    rows = [
        (epoch, epoch * 10, "val", metric, label, value, 5, 50)
        for epoch, mean in ((0, 0.5), (1, 0.8), (2, 0.7))
        for metric, label, value in (
            ("auroc", "mean", mean),
            ("auroc", "Mass, left", mean + 0.1),
            ("recall", "mean", mean - 0.2),
        )
    ]
    pd.DataFrame(rows, columns=runs.METRIC_COLUMNS).to_csv(run.path / "metrics.csv", index=False)
    return run


def open_one(folder: str, name: str) -> None:
    """Start and finish a training; its log lines are written to NAME.log."""
    run = tracked(Path(folder) / name, "mlflow")
    lines: list[str] = []
    trackers.open(run, run.config, log=lines.append).close("finished")
    (Path(folder) / f"{name}.log").write_text(json.dumps(lines))
