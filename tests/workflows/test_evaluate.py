"""Evaluations of a small model on its own store: threshold rules, studies, subgroups, thresholds.json, changed bytes."""

import json
import platform
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cxr_ray import cli, runs
from cxr_ray.data import store as stores
from cxr_ray.errors import UserError
from cxr_ray.evaluation.prediction_table import EvaluationSettings, PredictionTable
from cxr_ray.evaluation.results import evaluate_table
from cxr_ray.inference import unusual
from cxr_ray.metrics import compute_metrics, operating_points, studies
from cxr_ray.workflows import evaluations
from tests.data.test_store_check import flip
from tests.fakes.study_store import write_store


def quiet(line: str) -> None:
    pass


def test_a_rule_is_applied_on_val_used_on_test_and_saved(run: runs.Run, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = evaluations.evaluate(run.path, thresholds={"recall": 0.8}, log=quiet)
    val, test = run.predictions("val"), run.predictions("test")
    assert (
        f"predict: {len(test)} of {len(test)} images (100%)" in capsys.readouterr().out
    )  # long on a large part: progress
    saved = json.loads((run.path / "thresholds.json").read_text())
    assert saved["given"] == {"recall": 0.8} and saved["assurance"] == 0.95
    assert saved["chosen_on"]["part"] == "val" and saved["chosen_on"]["rows"] == len(val)
    assert saved["chosen_on"]["patients"] == val["patient"].nunique()
    for label in ("Edema", "Mass"):
        point, at = saved["labels"][label], saved["labels"][label]["threshold"]
        positives = val.loc[val[f"true/{label}"] == 1, f"prob/{label}"]
        assert (positives >= np.float32(at)).mean() == pytest.approx(point["recall"]) and point["recall"] >= 0.8
        recall = next(v for v in evaluation.results["values"] if (v["metric"], v["label"]) == ("recall", label))
        on_test = test.loc[test[f"true/{label}"] == 1, f"prob/{label}"]
        assert recall["value"] == pytest.approx((on_test >= np.float32(at)).mean())
    assert {r["recall"] for r in evaluation.results["at_recall"]} == {0.8, 0.9, 0.95}


def test_a_training_fits_the_check_for_unusual_images_and_an_evaluation_a_missing_one(run: runs.Run) -> None:
    fitted = unusual.read(run.path / unusual.FILE)
    (run.path / unusual.FILE).unlink()
    lines: list[str] = []
    evaluations.evaluate(run.path, split="val", report={"bootstrap": 0}, log=lines.append)
    found = unusual.read(run.path / unusual.FILE)
    assert found.about == fitted.about and found.thresholds == pytest.approx(fitted.thresholds)
    assert any(line.startswith("check for unusual images: fitted to") for line in lines)


@pytest.mark.parametrize("data", ["its own", "other"])
def test_changed_bytes_are_named_and_no_result_is_kept(
    run: runs.Run, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = runs.Run(Path(shutil.copytree(run.path, tmp_path / "run")))
    for file in (
        *copy.path.glob("evaluation*"),
        *copy.path.glob("predictions/*-test.parquet"),
        copy.path / "predictions/test.parquet",
    ):
        file.unlink(missing_ok=True)
    store = stores.open(run.info["store"]["path"]) if data == "its own" else write_store(tmp_path / "other", seed=3)
    shard = store.path / sorted(name for name in store.manifest.files if name.endswith(".arrow"))[1]
    rows = store.index.loc[store.index["shard"] == 1, "row"]
    before = {file.relative_to(copy.path) for file in copy.path.rglob("*")}
    words = ["evaluate", str(copy.path), "--bootstrap", "0"] + (["--data", str(store.path)] if data == "other" else [])
    flip(shard, 1000)
    try:
        assert cli.main(words) == 2
    finally:
        flip(shard, 1000)
    said = f"{shard} (rows {rows.min()} to {rows.max()}) has changed: its checksum differs, on the node {platform.node()}; "
    assert said in capsys.readouterr().err
    assert {file.relative_to(copy.path) for file in copy.path.rglob("*")} == before


def test_epochs_are_evaluated_at_thresholds_of_their_own_val(run: runs.Run) -> None:
    val = pd.read_parquet(run.path / "predictions" / "epochs" / "0002-val.parquet")
    logged = run.metrics.query("epoch == 2 and part == 'val' and metric == 'recall' and label == 'Edema'")["value"]
    table = PredictionTable(val, ["Edema", "Mass"], "multilabel")
    results = evaluate_table(table, EvaluationSettings("youden", bootstrap=0, interval_by="image"), val=table)
    recall = next(v["value"] for v in results["values"] if (v["metric"], v["label"]) == ("recall", "Edema"))
    assert logged.item() == pytest.approx(recall, abs=1e-9)


def test_the_parts_come_from_the_plan_of_the_run(run: runs.Run) -> None:
    """After rows are moved from test to train in plan.parquet, the evaluation follows the file and not the split."""
    plan = run.plan
    moved = plan.copy()
    moved.loc[moved.index[moved["part"] == "test"][:2], "part"] = "train"
    moved.to_parquet(run.path / "plan.parquet")
    try:
        evaluation = evaluations.evaluate(run.path, log=quiet)
        assert evaluation.results["rows"] == int((plan["part"] == "test").sum()) - 2
    finally:
        plan.to_parquet(run.path / "plan.parquet")


def test_a_run_of_a_gpu_is_evaluated_without_one(run: runs.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained on the GPUs of a cluster (train.gpu: true), evaluated on a machine without any."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = run.config
    on_gpu = config.model_copy(update={"train": config.train.model_copy(update={"gpu": True})})
    (run.path / "config.yaml").write_text(on_gpu.to_yaml())
    (run.path / "predictions" / "test.parquet").unlink(missing_ok=True)
    try:
        evaluations.evaluate(run.path, log=quiet)
    finally:
        (run.path / "config.yaml").write_text(config.to_yaml())
    assert len(run.predictions("test")) == (run.plan["part"] == "test").sum()


def test_an_evaluation_by_study_has_the_metrics_of_the_combined_table(run: runs.Run) -> None:
    evaluation = evaluations.evaluate(run.path, by="study", combine="mean", thresholds=0.4, log=quiet)
    table = studies.combine(run.predictions("test"), ["Edema", "Mass"], method="mean", task="multilabel")
    truth, prob = (table[[f"{k}/{name}" for name in ("Edema", "Mass")]].to_numpy() for k in ("true", "prob"))
    expected = compute_metrics(truth, prob, labels=["Edema", "Mass"], task="multilabel", thresholds_L=[0.4, 0.4])
    actual = {(v["metric"], v["label"]): v["value"] for v in evaluation.results["values"]}
    assert actual == pytest.approx({(v.metric, v.label): v.value for v in expected})
    assert evaluation.report.name == "report-by-study.html"
    assert evaluation.results["rows"] == len(table) < len(run.predictions("test"))
    assert set(evaluation.results["rivals"]) == {"thumbnail", "border"}


def test_subgroups_and_the_shift_of_weights_are_in_the_results(run: runs.Run) -> None:
    with_errors = evaluations.evaluate(run.path, thresholds=0.999, log=quiet)
    assert "data:image/jpeg;base64," in with_errors.report.read_text()
    results = evaluations.evaluate(run.path, log=quiet).results
    assert {g["feature"] for g in results["groups"]} >= {"sex", "view", "age", "Tubes"}
    assert all(s > 0 for s in results["calibration"]["shift"].values())  # positives are rarer and have larger weights
    methods = results["calibration"]["methods"]
    assert methods["weights taken out"]["ece"]["Mass"] != methods["as trained"]["ece"]["Mass"]
    page = (run.path / "report.html").read_text()
    assert "Weights and oversampling subtracted" in page and "with Tubes" in page
    assert "Prevalence by part" in page  # which the training saved
    counts = run.info["prevalence"]["train"]
    assert counts["rows"] == (run.plan["part"] == "train").sum() and counts["patients"] == counts["rows"] // 4
    assert (run.path / "figures" / "roc-Edema.png").read_bytes().startswith(b"\x89PNG")
    assert not any(f"p{k}/s" in page for k in range(40))  # the page has no patient and no study


def test_the_settings_of_intervals_can_be_changed(run: runs.Run) -> None:
    default = evaluations.evaluate(run.path, log=quiet).results["interval"]
    assert (default["by"], default["resamples"], default["method"]) == ("patient", 60, "percentile")
    settings = {"interval_by": "image", "bootstrap": 20, "interval": "bca"}
    other = evaluations.evaluate(run.path, report=settings, log=quiet).results
    interval = other["interval"]
    assert (interval["by"], interval["resamples"], interval["method"]) == ("image", 20, "bca")
    assert {v["method"] for v in other["values"] if "low" in v} >= {"bca"}
    assert interval["groups"] == other["rows"] > default["groups"]
    none = evaluations.evaluate(run.path, split="train", report={"bootstrap": 0, "rivals": False}, log=quiet)
    assert not any("low" in v for v in none.results["values"]) and none.results["rivals"] == {}
    assert any(g["gaps"] for g in none.results["groups"]) and "gap in " in none.report.read_text()
    with pytest.raises(UserError, match=r"report\.interval_by"):
        evaluations.evaluate(run.path, report={"interval_by": "study"}, log=quiet)


# External data.


def test_a_run_without_val_accepts_only_numbers(run: runs.Run) -> None:
    table = run.predictions("test")
    with pytest.raises(UserError, match="this run has no val rows"):
        evaluate_table(PredictionTable(table, ["Edema", "Mass"], "multilabel"), EvaluationSettings("f1", bootstrap=0))
    assert operating_points.describe("youden").startswith("the largest recall")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"split": "validation"}, "unknown split 'validation'"),
        ({"by": "x"}, "unknown value of by 'x'"),
        ({"by": "study", "combine": "x"}, "unknown value of combine 'x'"),
    ],
)
def test_unknown_names_are_refused(run: runs.Run, given: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        evaluations.evaluate(run.path, **given, log=quiet)  # type: ignore[arg-type]
