"""Results of a table: reproducible, with intervals where there are any, operating points of classes, and tables that are refused."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cxr_ray.errors import UserError
from cxr_ray.evaluation import results
from cxr_ray.evaluation.prediction_table import EvaluationSettings, PredictionTable
from cxr_ray.evaluation.results import evaluate_table
from tests.report.test_run_page import MANY, evaluation_of, predictions

CLASSES = ("COVID", "Normal", "Viral")


def classes(rows: int, seed: int) -> PredictionTable:
    """Predictions of classes, right more often than not."""
    rng = np.random.default_rng(seed)
    truth = np.eye(3)[rng.integers(0, 3, rows)]
    prob = rng.dirichlet(np.ones(3), rows) + truth
    frame = pd.DataFrame({"row": np.arange(rows), "patient": [f"p{i // 2}" for i in range(rows)]})
    for i, label in enumerate(CLASSES):
        frame[f"true/{label}"], frame[f"prob/{label}"] = truth[:, i], prob[:, i] / prob.sum(axis=1)
    return PredictionTable(frame, CLASSES, "multiclass")


@pytest.mark.parametrize("rule", [{"recall": 0.9}, {"specificity": 0.8}, "youden", "f1"])
def test_operating_points_of_classes_are_those_of_each_class_as_a_label(rule: str | dict[str, float]) -> None:
    test, val = classes(120, 1), classes(90, 2)
    settings = EvaluationSettings(rule, assurance=0.95, bootstrap=0)
    found = evaluate_table(test, settings, val=val)
    as_labels = evaluate_table(replace(test, task="multilabel"), settings, val=replace(val, task="multilabel"))
    assert found["operating"]["points"] == as_labels["operating"]["points"]
    assert found["operating"]["here"] == as_labels["operating"]["here"]
    assert found["at_recall"] == as_labels["at_recall"] and len(found["at_recall"]) == 9
    largest = test.prob_NL.argmax(axis=1) == test.truth_NL.argmax(axis=1)
    accuracy = next(v["value"] for v in found["values"] if v["metric"] == "accuracy")
    assert accuracy == pytest.approx(largest.mean())  # a rule does not change the decision
    covid = found["operating"]["here"]["COVID"]
    positive = test.prob_NL[:, 0] >= covid["threshold"]
    assert covid["alarms_per_100"] == pytest.approx(100 * positive.mean())
    assert covid["precision"] == pytest.approx(test.truth_NL[positive, 0].mean())


def test_an_evaluation_is_json_and_reproducible() -> None:
    table = predictions(MANY, "multilabel", 150, 2.0)
    first = evaluation_of(table, MANY, "multilabel")
    assert json.loads(json.dumps(first, allow_nan=False)) == first
    assert evaluation_of(table, MANY, "multilabel") == first
    assert evaluation_of(table, MANY, "multilabel", seed=1) != first


def test_intervals_contain_their_value_and_undefined_metrics_are_listed() -> None:
    out = evaluation_of(predictions(MANY, "multilabel", 300, 2.0), MANY, "multilabel")
    ranged = [v for v in out["values"] if "low" in v]
    assert len(ranged) > 30 and all(v["low"] <= v["value"] <= v["high"] for v in ranged)
    reasons = {(u["metric"], u["label"]): u["reason"] for u in out["undefined"]}
    assert reasons["auroc", "Fracture"] == reasons["ap", "Fracture"] == reasons["recall", "Fracture"] == "no positives"
    assert not {(v["metric"], v["label"]) for v in out["values"]} & set(reasons)


def test_a_proportion_of_one_has_a_wilson_interval_over_patients() -> None:
    table = pd.DataFrame(
        {
            "row": range(6),
            "patient": ["a", "a", "b", "c", "d", "e"],
            "true/x": [1.0, 1, 1, 0, 0, 0],
            "prob/x": [0.9, 0.9, 0.8, 0.1, 0.6, 0.2],
        }
    )
    out = results.evaluate_table(PredictionTable(table, ["x"], "binary"), EvaluationSettings(bootstrap=300))
    recall = next(v for v in out["values"] if (v["metric"], v["label"]) == ("recall", "x"))
    assert recall["value"] == 1.0 and recall["method"] == "wilson"
    assert recall["low"] == pytest.approx(2 / (2 + 1.959963984540054**2))  # two patients, both found
    assert out["confusion"] == [[2, 1], [0, 3]] and out["classes"] == ["not x", "x"]


def test_unknown_patients_count_as_one_patient_an_image() -> None:
    table = predictions(["x"], "binary", 60, 2.0).assign(patient=None)
    out = evaluation_of(table, ["x"], "binary")
    assert out["interval"]["by"] == "image" and out["patients"] is None
    accuracy = next(v for v in out["values"] if v["metric"] == "accuracy")
    assert [accuracy["low"], accuracy["high"]] == out["accuracy_wilson"]


def test_without_bootstrap_there_are_no_intervals_and_differences_are_of_points() -> None:
    table = predictions(list(CLASSES), "multiclass", 90, 2.0)
    out = evaluation_of(table, list(CLASSES), "multiclass", bootstrap=0)
    assert not any("low" in v for v in out["values"])
    point = {(v["metric"], v["label"]): v["value"] for v in out["values"]}
    baseline = {(v["metric"], v["label"]): v["value"] for v in out["rivals"]["border"]}
    for gap in out["differences"]["border"]:
        key = gap["metric"], gap["label"]
        assert gap["value"] == pytest.approx(point[key] - baseline[key], abs=1e-12) and "low" not in gap


def test_a_model_does_not_differ_from_itself() -> None:
    table = predictions(MANY, "multilabel", 120, 1.0)
    prob = table[[f"prob/{k}" for k in MANY]].to_numpy()
    for gap in evaluation_of(table, MANY, "multilabel", baselines={"same": prob})["differences"]["same"]:
        assert gap["value"] == gap["low"] == gap["high"] == 0.0  # paired: the same resamples on both sides


def test_bad_tables_are_refused() -> None:
    table = predictions(["x"], "binary", 20, 1.0)
    with pytest.raises(UserError, match="prob/x"):
        evaluation_of(table.drop(columns="prob/x").assign(z=0), ["x"], "binary", baselines={})
    with pytest.raises(UserError, match="duplicate row"):
        evaluation_of(table.assign(row=1), ["x"], "binary", baselines={})
    with pytest.raises(UserError, match="NaN"):
        evaluation_of(table.assign(**{"prob/x": np.nan}), ["x"], "binary", baselines={})
