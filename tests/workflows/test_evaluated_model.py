"""Evaluations of other epochs, parts and units: what they predict, and that none replaces the files of another."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from cxr_ray import runs
from cxr_ray.errors import UserError
from cxr_ray.on_ray import train as on_ray
from cxr_ray.workflows import evaluations
from tests.fakes.figures import skip_drawing
from tests.fakes.store import fake_store
from tests.fakes.trainings import config, write_store


def quiet(line: str) -> None:
    pass


@pytest.fixture(autouse=True)
def fast_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    skip_drawing(monkeypatch)


def store_of(folder: Path, *, seed: int = 0, rows: int = 120) -> Path:
    fake = fake_store(rows, labels=("Edema", "Mass"), size=(32, 32), seed=seed)
    fake.index["study"] = fake.index["patient"] + "/s"
    return write_store(folder, fake)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    folder = tmp_path_factory.mktemp("epochs")
    settings = config(
        folder, data={"shards": str(store_of(folder / "shards")), "split": {"val": 0.25, "test": 0.25}}, optim={"lr": 3e-4},
        report={"bootstrap": 20, "trackers": [], "images": False, "keep_predictions": True}, train={"epochs": 3},
    )  # fmt: skip
    return on_ray.train(settings, log=quiet)


def files(folder: Path) -> dict[str, bytes]:
    """Results, pages and figures below a folder by name; without the index, which lists them."""
    found = [*folder.rglob("evaluation*.json"), *folder.rglob("report*.html"), *folder.rglob("*.png")]
    return {str(file.relative_to(folder)): file.read_bytes() for file in found}


def test_no_evaluation_replaces_the_files_of_another(run: runs.Run, tmp_path: Path) -> None:
    stores = [store_of(tmp_path / name / "other", seed=seed, rows=40) for name, seed in (("a", 7), ("b", 8))]
    kinds = [
        {}, {"split": "val"}, {"split": "train"}, {"by": "study"}, {"split": "val", "by": "study"}, {"epoch": 0},
        {"epoch": 0, "by": "study"}, {"epoch": 0, "split": "val"}, {"epoch": run.info["kept"]["epoch"]},
        {"data": stores[0]}, {"data": stores[1]}, {"data": stores[0], "by": "study"}, {"data": stores[0], "epoch": 0},
    ]  # fmt: skip
    pages: list[Path] = []
    for kind in kinds:
        before = files(run.path)
        evaluation = evaluations.evaluate(run, thresholds=0.4, log=quiet, **kind)  # type: ignore[arg-type]
        after = files(run.path)
        assert {name: after[name] for name in before} == before, kind
        pages.append(evaluation.report)
    assert len(set(pages)) == len(kinds) and pages[0] == run.path / "report.html"
    index = (run.path / "index.html").read_text()
    links = re.findall(r'<a href="([^"#]+)"', index)
    assert sorted(run.path / link for link in links) == sorted(pages) and links[0] == "report.html"
    assert index.count("External data: other") == 4 and "the untrained model" in index

    before, written = files(run.path), (run.path / "thresholds.json").read_bytes()
    evaluations.evaluate(run, split="val", thresholds=0.9, log=quiet)
    changed = {name for name, body in files(run.path).items() if before.get(name) != body}
    assert {"evaluation-val.json", "report-val.html"} <= changed
    assert all("val" in name for name in changed)  # a repetition replaces its own files
    assert (run.path / "thresholds.json").read_bytes() == written  # the operating points of test
    assert json.loads((run.path / "evaluation-val.json").read_text())["thresholds"]["Edema"] == 0.9


def test_the_untrained_model_has_the_metrics_that_the_training_logged(run: runs.Run) -> None:
    """Predicted again, without the saved predictions of epoch 0, and with the arithmetic of the training."""
    (run.path / "predictions" / "epochs" / "0000-val.parquet").rename(run.path / "kept.parquet")
    log: list[str] = []
    found = evaluations.evaluate(run, split="val", epoch=0, log=log.append)
    logged = run.metrics.query("epoch == 0 and part == 'val'").set_index(["metric", "label"])["value"]
    for value in found.results["values"]:
        if value["metric"] in ("auroc", "brier", "recall"):
            assert value["value"] == pytest.approx(logged[value["metric"], value["label"]], abs=1e-6), value
    assert found.results["epoch"] == 0 and found.results["notes"] == [] and "with the model of epoch 0" in log[0]
    metrics = run.metrics
    brier = (metrics["epoch"] == 0) & (metrics["part"] == "val") & (metrics["metric"] == "brier")
    metrics.assign(value=metrics["value"].where(~brier, 0.9)).to_csv(run.path / "metrics.csv", index=False)
    found = evaluations.evaluate(run, split="val", epoch=0, log=log.append)
    assert (
        "is not the one that the training logged" in found.results["notes"][0] and found.results["notes"][0] in log[-1]
    )


def test_the_untrained_model_is_a_baseline_of_the_parts_it_was_evaluated_on(run: runs.Run) -> None:
    assert "untrained" not in evaluations.evaluate(run, split="train", log=quiet).results["rivals"]
    untrained = evaluations.evaluate(run, log=quiet, epoch=0)
    assert "untrained" not in untrained.results["rivals"]
    found = evaluations.evaluate(run, log=quiet)
    values = {(v["metric"], v["label"]): v["value"] for v in untrained.results["values"]}
    baseline = {(v["metric"], v["label"]): v["value"] for v in found.results["rivals"]["untrained"]}
    assert baseline["auroc", "Edema"] == values["auroc", "Edema"]
    gap = next(d for d in found.results["differences"]["untrained"] if d["metric"] == "auroc")
    own = {(v["metric"], v["label"]): v["value"] for v in found.results["values"]}
    assert gap["value"] == pytest.approx(own["auroc", "mean"] - values["auroc", "mean"])
    assert not np.allclose(found.predictions["prob/Edema"], untrained.predictions["prob/Edema"])


def test_an_epoch_without_a_checkpoint_is_refused_with_those_that_are_kept(run: runs.Run) -> None:
    for where in ({}, {"data": run.info["store"]["path"]}):
        with pytest.raises(UserError, match=r"the model of epoch 77 of run is not kept: .*0 is the untrained model"):
            evaluations.evaluate(run, epoch=77, log=quiet, **where)
