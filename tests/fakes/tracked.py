"""A run with the metrics of three epochs, for tests of trackers, and what TensorBoard has of it. It imports little: processes start fast."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

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


def values(auroc: float) -> dict[str, float]:
    """Metrics of an epoch, as a training gives them to its trackers."""
    return {"val/auroc/mean": auroc, "val/auroc/Mass, left": auroc + 0.1, "train/loss": 1 - auroc}


def events(folder: Path) -> Any:
    """The TensorBoard events of a run folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder), purge_orphaned_data=True)
    accumulator.Reload()
    return accumulator


def scalars(folder: Path, tag: str) -> dict[int, Any]:
    """The values of a TensorBoard tag by epoch, to compare with."""
    return {e.step: pytest.approx(e.value, abs=1e-6) for e in events(folder).Scalars(tag)}


def open_one(folder: str, name: str) -> None:
    """Start and finish a training; its log lines are written to NAME.log."""
    run = tracked(Path(folder) / name, "mlflow")
    lines: list[str] = []
    trackers.open(run, run.config, log=lines.append).close("finished")
    (Path(folder) / f"{name}.log").write_text(json.dumps(lines))
