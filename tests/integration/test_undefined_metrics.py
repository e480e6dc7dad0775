"""Every page and every printed table of runs whose metrics are undefined, in every way in which they can be."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from cxr_ray import cli, runs
from cxr_ray.data import store_writer
from cxr_ray.data.info import DatasetInfo
from cxr_ray.metrics import compute_metrics, thresholds
from cxr_ray.plotting import plots
from cxr_ray.report import run_page, store_page, sweep_page
from cxr_ray.workflows import evaluations
from tests.fakes.sweep import make_sweep
from tests.report.test_run_page import CLASSES, MANY, Page, evaluation_of, make_run, predictions

Truth = npt.NDArray[np.float32]
LABELS = {"multilabel": MANY[:3], "binary": ["Covid"], "multiclass": CLASSES}


@pytest.fixture(autouse=True)
def no_png(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn once, for the page: this halves the time."""
    monkeypatch.setattr(plots, "png", lambda figure: b"")


def column(value: float, *, labels: int = 1) -> Callable[[Truth], Truth]:
    """The truth with one value in its first columns."""

    def change(truth_NL: Truth) -> Truth:
        truth_NL[:, :labels] = value
        return truth_NL

    return change


def without_last_class(truth_NL: Truth) -> Truth:
    moved = truth_NL[:, -1] == 1
    truth_NL[moved] = np.eye(truth_NL.shape[1])[0]
    return truth_NL


WAYS: dict[str, tuple[str, Callable[[Truth], Truth]]] = {
    "one label without positives": ("multilabel", column(0.0)),
    "one label without negatives": ("multilabel", column(1.0)),
    "one label unknown": ("multilabel", column(np.nan)),
    "all labels without positives": ("multilabel", column(0.0, labels=3)),
    "all labels without negatives": ("multilabel", column(1.0, labels=3)),
    "all labels unknown": ("multilabel", column(np.nan, labels=3)),
    "one row": ("multilabel", lambda truth: truth[:1]),
    "binary without positives": ("binary", column(0.0)),
    "binary without negatives": ("binary", column(1.0)),
    "binary unknown": ("binary", column(np.nan)),
    "one class absent": ("multiclass", without_last_class),
    "one class only": ("multiclass", lambda truth: np.eye(3, dtype=np.float32)[np.zeros(len(truth), int)]),
    "one row of classes": ("multiclass", lambda truth: truth[:1]),
}


def run_of(folder: Path, way: str, *, skill: float = 2.0, epochs: int = 2) -> runs.Run:
    """A finished run whose val and test have the truth of `WAYS`, evaluated on both, with `metrics.csv` of val."""
    task, change = WAYS[way]
    labels = LABELS[task]
    run = make_run(folder, labels, task, rows=24, skill=skill, report={"bootstrap": 20})
    lines: list[dict[str, Any]] = []
    for part, first in (("val", 107_000), ("test", 7000)):
        table = predictions(labels, task, 24, skill, 3)
        truth_NL = change(table[[f"true/{k}" for k in labels]].to_numpy(np.float32, copy=True))
        table = table.iloc[: len(truth_NL)].assign(row=np.arange(len(truth_NL)) + first)
        table[[f"true/{k}" for k in labels]] = truth_NL
        run.write_predictions(part, table)
        found = evaluation_of(table, labels, task, bootstrap=20)
        (run.path / f"evaluation-{part}.json").write_text(json.dumps(found))
        prob_NL = table[[f"prob/{k}" for k in labels]].to_numpy()
        values = compute_metrics(truth_NL, prob_NL, labels=labels, task=task, thresholds_L=thresholds(0.5, labels))
        if part == "val":
            lines += [
                {"epoch": epoch, "step": 10 * epoch, "part": "val", **v._asdict()}
                for epoch in range(epochs)
                for v in values
            ]
    pd.DataFrame(lines, columns=runs.METRIC_COLUMNS).to_csv(run.path / "metrics.csv", index=False)
    best = {"epoch": epochs - 1, "step": 10 * epochs, "metric": "val/auroc/mean", "value": None}
    run.update(best=best, kept={"epoch": epochs - 1, "step": 10 * epochs})
    return run


@pytest.mark.parametrize("way", WAYS)
def test_every_page_and_table_of_a_run(way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second run calls nothing positive, so its precision is undefined where that of the first is not."""
    run, other = run_of(tmp_path / "one", way), run_of(tmp_path / "two", way, skill=-20.0, epochs=1)
    assert_readable(run_page.write(run, "test"))
    comparison = evaluations.compare([run, other], out=tmp_path / "compare.html")
    assert comparison.report is not None
    assert_readable(comparison.report)
    for shown in (run, comparison):
        assert repr(shown) and shown._repr_html_() and shown.table is not None
    for command in (["show", run.path], ["compare", run.path, other.path], ["runs", tmp_path]):
        assert cli.main([str(word) for word in command]) == 0
    assert "nan" not in capsys.readouterr().out.split()


KEPT: dict[str, Callable[[pd.DataFrame], "pd.Series[bool]"]] = {
    "no ranking of one label": lambda t: ~(t["metric"].isin(["auroc", "ap"]) & (t["label"] == "Edema")),
    "no ranking": lambda t: ~t["metric"].isin(["auroc", "ap"]),
    "no precision": lambda t: t["metric"] != "precision",
    "the objective is undefined": lambda t: ~((t["metric"] == "auroc") & (t["label"] == "mean")),
    "the loss only": lambda t: t["metric"] == "loss",
    "nothing": lambda t: t["metric"] == "",
    "no val": lambda t: t["part"] == "train",
}


@pytest.mark.parametrize("one_trial", [False, True])
@pytest.mark.parametrize("kept", KEPT)
def test_the_page_of_a_sweep(kept: str, one_trial: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All of its trials, or one of them, have a metric that is undefined."""
    constraint = None if one_trial else "val/recall/mean >= 0.4"
    sweep = make_sweep(
        tmp_path / "sweep", labels=("Edema", "Mass"), trials=3, epochs=1, failed=(), constraint=constraint
    )
    for trial in sweep.trial_records[: 1 if one_trial else None]:
        path = sweep.run(trial).path / "metrics.csv"
        table = pd.read_csv(path, keep_default_na=False)
        table[KEPT[kept](table)].to_csv(path, index=False)
    assert_readable(sweep_page.write(sweep))
    assert repr(sweep) and sweep._repr_html_() and sweep.trials is not None
    assert cli.main(["runs", str(sweep.path / "trials")]) == 0
    assert "nan" not in capsys.readouterr().out.split()


@pytest.mark.parametrize("raw", [np.nan, 0.0, 1.0, -1.0])
def test_the_page_of_a_store(raw: float, tmp_path: Path) -> None:
    """Every cell of its labels is the same."""
    rows = 3
    table = pd.DataFrame({name: np.full(rows, raw, np.float32) for name in ("Edema", "Mass")})
    pixels = np.random.default_rng(0).integers(0, 256, (rows, 32, 32), dtype=np.uint8)
    info = DatasetInfo(labels=("Edema", "Mass"), task="multilabel", default_labels=("Edema", "Mass"))
    store = store_writer.write(tmp_path / "store", pixels, table, info)
    assert_readable(store_page.write(store, tmp_path / "page"))
    assert repr(store) and store._repr_html_()


def assert_readable(page: Path) -> None:
    """No value of the page is a missing one of Python's."""
    words = Page(page.read_text(encoding="utf-8")).text.split()
    assert not {"nan", "None", "NaN", "inf"} & set(words)
