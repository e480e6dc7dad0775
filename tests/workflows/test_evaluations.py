"""Evaluate and compare from Python: objects, files, and what is refused. The results: test_evaluate.py, evaluation/test_compare.py."""

import json
from pathlib import Path

import pandas as pd
import pytest

from cxr_ray.errors import UserError
from cxr_ray.on_ray import train as on_ray
from cxr_ray.workflows import evaluations
from tests.evaluation.example_runs import LABELS, example_run
from tests.fakes.store import fake_store
from tests.fakes.trainings import config, write_store


def quiet(line: str) -> None:
    pass


def test_an_evaluation_shows_itself(tmp_path: Path) -> None:
    """Nodule is never positive: its metrics are undefined, and so are its curves."""
    fake = fake_store(96, labels=("Edema", "Nodule"), size=(32, 32))
    fake.index["Nodule"] = 0.0
    store = write_store(tmp_path / "shards", fake)
    settings = config(
        tmp_path, data={"shards": str(store), "split": {"val": 0.25, "test": 0.25}},
        report={"bootstrap": 20, "rivals": False, "trackers": []}, train={"epochs": 1},
    )  # fmt: skip
    run = on_ray.train(settings, log=quiet)
    assert "on val" in repr(run) and run._repr_html_()
    for given in (run, run.path, str(run.path)):
        evaluation = evaluations.evaluate(given, log=quiet)
        assert evaluation.part == "test" and evaluation.report == run.path / "report.html"
    assert repr(evaluation).startswith("Evaluation(run on test, ")
    assert list(evaluation.table)[:3] == ["recall", "auroc", "precision"]
    assert pd.isna(evaluation.table["auroc"].loc["Nodule"]) and evaluation.table["auroc"].loc["Edema"] >= 0
    assert evaluation.figure("roc-Edema").axes
    wrong, at = evaluation.predictions, evaluation.results["thresholds"]["Edema"]
    wrong = wrong[wrong["true/Edema"].notna() & ((wrong["prob/Edema"] >= at) != (wrong["true/Edema"] == 1))]
    assert sorted(evaluation.errors.query("label == 'Edema'")["row"]) == sorted(wrong["row"])
    with pytest.raises(UserError, match=r"unknown figure 'roc-Nodule' of the evaluation of test.*pr-Edema"):
        evaluation.figure("roc-Nodule")
    page = evaluation._repr_html_()
    assert "–" in page and page.count("<img") == 1 and ">nan<" not in page.lower()
    assert run.info["test_looks"] == 3 and "on test" in repr(run)  # each evaluation of test is counted
    assert evaluations.evaluate(run, split="val", thresholds=0.3, log=quiet).results["thresholds"]["Edema"] == 0.3
    with pytest.raises(UserError, match="mapping relates labels"):
        evaluations.evaluate(run, mapping={"Edema": "x"})
    with pytest.raises(UserError, match="leave split out"):
        evaluations.evaluate(run, data=store, split="val")
    external = evaluations.evaluate(run, data=store, plugins=["json"], log=quiet)  # rows of the training are left out
    assert external.part == "shards" and external.results["rows"] <= len(evaluation.predictions)


def test_a_comparison_shows_itself_and_writes_only_where_it_is_asked_to(tmp_path: Path) -> None:
    first, second = example_run(tmp_path, "one"), example_run(tmp_path, "two", skill=1.0)
    before = set(tmp_path.iterdir())
    found = evaluations.compare([first, str(second.path)])
    assert found.report is None and set(tmp_path.iterdir()) == before
    assert repr(found) == "Comparison(one, two: 120 rows of test)" and found.runs == ["one", "two"]
    table = found.table
    assert list(table.index) == [*LABELS, "mean"] and list(table.columns)[:2] == [("recall", "one"), ("recall", "two")]
    values = {(v["metric"], v["label"]): v["value"] for v in found.results["runs"][1]["values"]}
    assert table.loc[LABELS[0], ("auroc", "two")] == values["auroc", LABELS[0]]
    gap = found.differences.query("metric == 'auroc' and label == 'mean'").iloc[0]
    assert gap["value"] == pytest.approx(table["auroc", "two"].loc["mean"] - table["auroc", "one"].loc["mean"])
    assert gap["low"] <= gap["value"] <= gap["high"] and list(found.differences)[:3] == ["first", "second", "metric"]
    assert [t.get_text() for t in found.figure("auroc").axes[0].get_yticklabels()] == [*LABELS, "mean"]
    with pytest.raises(UserError, match="unknown figure 'aurok' of the comparison; did you mean 'auroc'"):
        found.figure("aurok")
    page = found._repr_html_()
    assert "two" in page and page.count("<img") == 2

    written = evaluations.compare([first, second], out=tmp_path / "c.html")
    assert written.report == tmp_path / "c.html" and written.report.exists()
    assert json.loads((tmp_path / "c.json").read_text()) == written.results
    assert str(written.report) in written._repr_html_()
    with pytest.raises(UserError, match=r"in a list: compare\(\[first, second\]\)"):
        evaluations.compare(first)  # type: ignore[arg-type]
