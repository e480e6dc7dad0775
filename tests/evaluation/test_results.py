"""Results of a table that need more than one metric: operating points of classes."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cxr_ray.evaluation.prediction_table import EvaluationSettings, PredictionTable
from cxr_ray.evaluation.results import evaluate_table

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
