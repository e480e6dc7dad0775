"""The run folder, read back without torch. How it is made: test_create.py."""

import json
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr_ray import config as cfg
from cxr_ray import runs
from cxr_ray.errors import UserError

STORE = {"path": "shards", "fingerprint": "abc", "source": "phantom", "rows": 3, "notes": []}
PLAN = pd.DataFrame({"row": [1, 2, 3], "part": ["train", "val", "test"], "drawn": [2, 1, 1]})


def create(tmp_path, **settings) -> runs.Run:
    return runs.create(
        cfg.validate({"output": str(tmp_path), **settings}), store=STORE, plan=PLAN, about={"task": "multilabel"}
    )


def test_a_run_is_read_back(tmp_path):
    run = create(tmp_path, name="x", optim={"lr": 1e-5})
    again = runs.load(tmp_path / "x")
    assert again.config == run.config and again.config.optim.lr == 1e-5
    assert again.info["status"] == "started" and again.info["store"] == STORE
    pd.testing.assert_frame_equal(again.plan, PLAN)
    assert again.metrics.empty and list(again.metrics.columns) == runs.METRIC_COLUMNS
    assert again.environment["versions"]["torch"]


def test_the_config_is_parsed_once_and_the_state_at_every_access(tmp_path, monkeypatch):
    create(tmp_path, name="x", seed=3)
    run = runs.load(tmp_path / "x")
    read = []
    load = cfg.load
    monkeypatch.setattr(cfg, "load", lambda path: read.append(path) or load(path))
    assert run.config is run.config and run.config.seed == 3 and len(read) == 1
    assert runs.load(tmp_path / "x") == run and hash(runs.load(tmp_path / "x")) == hash(run)
    other = runs.load(tmp_path / "x")
    other.update(status="finished")
    assert run.info["status"] == "finished"  # another process may change it at any time
    assert pickle.loads(pickle.dumps(run)).config == run.config  # Ray sends runs to its workers


def test_a_wrong_path_names_the_closest_run(tmp_path):
    create(tmp_path, name="densenet")
    with pytest.raises(UserError, match=r"densnet is not a run folder.*did you mean 'densenet'"):
        runs.load(tmp_path / "densnet")
    with pytest.raises(UserError, match=r"cxr-ray evaluate .* --split test"):
        runs.load(tmp_path / "densenet").predictions("test")


def test_predictions_have_the_columns_that_link_them_to_the_dataset(tmp_path):
    index = pd.DataFrame(
        {"row": [4, 7, 9], "source_row": [40, 70, 90], "patient": ["a", "b", "c"], "study": ["s", "s", "t"]}
    )
    table = runs.predictions_table(
        index, np.array([9, 4]), ["Edema"], np.array([[1.0], [np.nan]]), np.array([[0.75], [0.5]])
    )
    assert table.columns.tolist() == ["row", "source_row", "patient", "study", "true/Edema", "prob/Edema"]
    assert table["source_row"].tolist() == [90, 40] and table["patient"].tolist() == ["c", "a"]
    run = create(tmp_path, name="x")
    run.write_predictions("val", table)
    pd.testing.assert_frame_equal(run.predictions("val"), table)


def test_a_folder_of_runs_is_listed_with_the_main_metrics(tmp_path):
    run = create(tmp_path, name="a")
    assert [listed.path for listed in runs.list_runs(tmp_path)] == [run.path] and run.headline() == ("", {})
    values: list[dict[str, Any]] = [
        {"metric": "auroc", "label": "mean", "value": 0.8},
        {"metric": "auroc", "label": "Edema", "value": 0.9},
    ]
    for part, shift in (("val", 0.0), ("test", 0.1)):
        shifted = [{**v, "value": v["value"] - shift} for v in values]
        (run.path / f"evaluation-{part}.json").write_text(json.dumps({"values": shifted}))
        assert run.headline() == (part, {"auroc": 0.8 - shift})
    with pytest.raises(UserError, match="no folder"):
        runs.list_runs(tmp_path / "none")


def test_reading_a_run_imports_no_torch(tmp_path):
    create(tmp_path, name="x")
    code = f"import sys; from cxr_ray import runs; r = runs.load({str(tmp_path / 'x')!r}); r.config, r.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_concurrent_updates_are_not_lost(tmp_path):
    """Driver, workers and trackers each read, change and write the complete file."""
    run = create(tmp_path, name="x")
    start = threading.Barrier(4)

    def update(writer: int) -> None:
        start.wait()
        for number in range(8):
            run.update(**{f"by-{writer}-{number}": number})

    threads = [threading.Thread(target=update, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {f"by-{writer}-{number}" for writer in range(4) for number in range(8)} <= run.info.keys()


def test_a_run_without_results_shows_itself(tmp_path):
    """From the first second on, and when its folder is gone."""
    run = create(tmp_path, name="x")
    assert repr(run).startswith("Run(") and "no epoch has been evaluated yet" in run._repr_html_()
    run.update(labels=["Edema", "Mass"])
    assert repr(run) == "Run(x: resnet18, started)"
    assert run.table["recall"].isna().all() and list(run.table.index) == ["Edema", "Mass", "mean"]
    with pytest.raises(UserError, match=r"unknown figure 'roc' of the run x"):
        run.figure("roc")
    gone = runs.Run(tmp_path / "gone")
    assert repr(gone) == f"Run({str(gone.path)!r})"


def test_a_run_with_undefined_metrics_shows_itself(tmp_path):
    """Mass has no positive row: no recall and no ROC AUC, and an empty cell in metrics.csv."""
    run = create(tmp_path, name="x", train={"monitor": "val/auroc/mean"})
    run.update(labels=["Edema", "Mass"], status="finished")
    rows = [(epoch, epoch, part, "auroc", label, value, 0, 9) for epoch in (1, 2) for part in ("train", "val")
            for label, value in (("Edema", 0.6 + epoch / 10), ("Mass", None), ("mean", 0.6 + epoch / 10))]  # fmt: skip
    pd.DataFrame(rows, columns=runs.METRIC_COLUMNS).to_csv(run.path / "metrics.csv", index=False)
    assert repr(run) == "Run(x: resnet18, finished, on val: auroc 0.800)"
    table = run.table
    assert table.loc["Edema", "auroc"] == 0.8 and np.isnan(table["auroc"].loc["Mass"]) and table["recall"].isna().all()
    page = run._repr_html_()
    assert "0.800" in page and "–" in page and "nan" not in page.lower() and page.count("<img") == 1
    assert len(run.figure("epochs-auroc").axes[0].lines) == 3  # train, val, the selected epoch
    assert run._figures().keys() == {
        "epochs-auroc",
        "epochs-auroc-mean",
        "epochs-auroc-Edema",
        "epochs-auroc-Mass",
        "training",
    }


def test_a_folder_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(UserError, match=r"is a sweep, not a run; `cxr-ray tune --resume` continues it, .*best"):
        runs.load(tmp_path)
    (tmp_path / "sweep.json").rename(tmp_path / "run.json")
    with pytest.raises(UserError, match="is a run, not a sweep; `cxr-ray show`"):
        runs.folder_of(tmp_path, "sweep")


def test_evaluations_of_test_are_counted(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")  # a run of a version that did not count
    run = runs.Run(tmp_path)
    assert [run.count_test_evaluation(), run.count_test_evaluation()] == [1, 2] and run.info["test_looks"] == 2
