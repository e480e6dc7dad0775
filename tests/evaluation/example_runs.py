"""Finished runs without a model, with predictions of test and val for comparisons and re-evaluations."""

from pathlib import Path
from typing import Any

import numpy.typing as npt

from cxr_ray import runs
from tests.report.test_run_page import MANY, make_run, predictions

LABELS = MANY[:3]


def example_run(
    folder: Path, name: str, *, skill: float = 2.0, labels: list[str] | None = None, **settings: Any
) -> runs.Run:
    """A run of 120 test and 120 val rows whose probabilities follow the truth by `skill`."""
    labels = labels or LABELS
    run = make_run(
        folder / name, labels, "multilabel", rows=120, skill=skill, **{"report": {"bootstrap": 100}, **settings}
    )
    # make_run numbers the rows of every part alike; in a store, val and test have different rows.
    val = predictions(labels, "multilabel", 120, skill, 2)
    run.write_predictions("val", val.assign(row=val["row"] + 100_000))
    return run


def truth_and_prob(run: runs.Run, labels: list[str], part: str = "test") -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Targets and probabilities [N, L] of a part."""
    table = run.predictions(part)
    return table[[f"true/{k}" for k in labels]].to_numpy(), table[[f"prob/{k}" for k in labels]].to_numpy()
