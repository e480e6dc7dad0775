"""Intervals of operating points, against a slow re-statement."""

from collections.abc import Callable

import numpy as np
import pytest

from cxr_ray.evaluation.point_intervals import intervals_at
from cxr_ray.evaluation.prediction_table import EvaluationSettings, PredictionTable
from cxr_ray.evaluation.results import evaluate_table
from cxr_ray.metrics import operating_points
from cxr_ray.metrics.intervals import wilson
from tests.report.test_run_page import CLASSES, MANY, predictions

RESAMPLES = 150


@pytest.mark.parametrize("by", ["patient", "image"])
@pytest.mark.parametrize(("labels", "task"), [(CLASSES, "multiclass"), (MANY[:3], "multilabel"), (["Covid"], "binary")])
def test_they_are_quantiles_over_resampled_patients(labels: list[str], task: str, by: str) -> None:
    frame = predictions(labels, task, 90, 1.0)
    table = PredictionTable(frame, labels, task)
    settings = EvaluationSettings({"recall": 0.8}, bootstrap=RESAMPLES, interval_by=by, seed=5)
    found = evaluate_table(table, settings, val=PredictionTable(predictions(labels, task, 80, 1.0, 9), labels, task))
    groups = table.resampling_units(by)[1]
    rng = np.random.default_rng(5)
    drawn = [rng.integers(0, groups.max() + 1, groups.max() + 1) for _ in range(RESAMPLES)]
    rows_of = [np.concatenate([np.flatnonzero(groups == g) for g in picked]) for picked in drawn]
    for label in labels:
        point = found["operating"]["here"][label]
        truth, score = frame[f"true/{label}"].to_numpy(), frame[f"prob/{label}"].to_numpy()
        positive = score >= np.float32(found["operating"]["points"][label]["threshold"])
        of: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
            "recall": lambda rows, t, p: p[rows][t[rows] == 1],
            "specificity": lambda rows, t, p: ~p[rows][t[rows] == 0],
            "precision": lambda rows, t, p: (t[rows] == 1)[p[rows] & ~np.isnan(t[rows])],
            "alarms_per_100": lambda rows, t, p: p[rows][~np.isnan(t[rows])],
        }
        for metric, cells in of.items():
            scale = 100 if metric == "alarms_per_100" else 1
            assert point[metric] == pytest.approx(scale * cells(np.arange(len(frame)), truth, positive).mean())
            if point[metric] / scale in (0.0, 1.0):
                continue
            slow = np.quantile([cells(rows, truth, positive).mean() for rows in rows_of], [0.025, 0.975])
            assert point["intervals"][metric] == pytest.approx(scale * slow), (label, metric)
    assert all(row["here"]["intervals"].keys() >= {"recall", "alarms_per_100"} for row in found["at_recall"])


def test_a_share_of_one_has_wilsons_interval_and_bca_is_used_where_it_is_set() -> None:
    frame = predictions(["x"], "binary", 60, 1.0)
    table = PredictionTable(frame, ["x"], "binary")
    point = operating_points.apply(table.decide(), operating_points.choose(0.0, table.decide()))
    groups = table.resampling_units("image")[1]
    (found,) = intervals_at(table.decide(), groups, [point], EvaluationSettings(bootstrap=40, interval_by="image"))
    positives = int((frame["true/x"] == 1).sum())
    assert found["x"]["recall"] == pytest.approx(wilson(positives, positives))
    assert found["x"]["alarms_per_100"] == pytest.approx([100 * end for end in wilson(60, 60)])
    half = operating_points.apply(table.decide(), operating_points.choose(0.5, table.decide()))
    plain, bca = (
        intervals_at(table.decide(), groups, [half], EvaluationSettings(bootstrap=200, interval=kind))[0]["x"]
        for kind in ("percentile", "bca")
    )
    recall = half["x"].recall
    assert recall is not None and plain["recall"] != bca["recall"] and bca["recall"][0] < recall < bca["recall"][1]
    assert intervals_at(table.decide(), groups, [half], EvaluationSettings(bootstrap=0)) == [{"x": {}}]
