"""Decisions of a run on new images: the operating points of its evaluation, or those that are given."""

from pathlib import Path

import numpy as np
import pytest

import cxr_ray
from cxr_ray.errors import UserError
from cxr_ray.metrics import operating_points, studies
from cxr_ray.workflows.decisions import decisions_of
from tests.fakes.explained import trained


def predictor(run: cxr_ray.Run | Path) -> cxr_ray.Predictor:
    return cxr_ray.load_predictor(run, gpu=False)


def youden(by_study: bool = False) -> dict[str, float]:
    """The threshold of each label with the largest recall + specificity on val, by trying each probability."""
    table = trained().predictions("val")
    labels = trained().info["labels"]
    if by_study:
        table = studies.combine(table, labels, method="max", task="multilabel")
    found = {}
    for label in labels:
        prob, true = table[f"prob/{label}"].to_numpy(), table[f"true/{label}"].to_numpy()
        scores = {
            at: (prob[true == 1] >= at).mean() + (prob[true == 0] < at).mean() for at in sorted(set(prob.tolist()))
        }
        best = max(scores.values())
        found[label] = min(at for at, score in scores.items() if score > best - 1e-9)
    return found


@pytest.mark.parametrize("by", ["image", "study"])
def test_a_rule_chooses_on_val(by: str) -> None:
    found = decisions_of(predictor(trained()), "youden", by=by)  # type: ignore[arg-type]
    assert found.thresholds == pytest.approx(youden(by == "study"))
    assert found.rule == operating_points.describe("youden")


def test_numbers_and_the_default() -> None:
    labels = trained().info["labels"]
    assert decisions_of(predictor(trained())).thresholds == dict.fromkeys(labels, 0.5)
    given = decisions_of(predictor(trained()), {"Mass": 0.25}).thresholds
    assert given == {**dict.fromkeys(labels, 0.5), "Mass": 0.25}
    weights = decisions_of(predictor(trained().weights), 0.25)
    assert weights.thresholds == dict.fromkeys(labels, 0.25) and weights.calibrate is None
    with pytest.raises(UserError, match="chosen on val, and this run has no val rows"):
        decisions_of(predictor(trained().weights), "youden")


def test_a_probability_at_the_threshold_is_positive() -> None:
    found = decisions_of(predictor(trained()), 0.7)
    prob = np.array([[0.7, 0.69999, 0.70001]], np.float32)
    assert found.decide(prob).tolist() == [[True, False, True]]
    with pytest.raises(UserError, match="diverged"):
        found.decide(np.array([[np.nan, 0.5, 0.5]], np.float32))
