"""Intervals of operating points: recall, specificity, precision and alarms at given thresholds, each label against the rest."""
# N rows, L labels, P thresholds of each label

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_ray.evaluation.prediction_table import EvaluationSettings
from cxr_ray.evaluation.value_intervals import value_row
from cxr_ray.metrics import Value
from cxr_ray.metrics.intervals import decision_samples
from cxr_ray.metrics.operating_points import Point
from cxr_ray.metrics.table import Table

METRICS = {"recall": 1.0, "specificity": 1.0, "precision": 1.0, "alarms": 100.0}
"""Metrics that have an interval, and their unit."""
NAMES = {"alarms": "alarms_per_100"}


def intervals_at(
    table: Table, group_N: npt.NDArray[np.int64], each: Sequence[Mapping[str, Point]], settings: EvaluationSettings
) -> list[dict[str, dict[str, list[float]]]]:
    """For each mapping of `each` (label to its point, measured on `table`) the intervals by label and metric, where there are any.

    They are made as those of all other metrics: `group_N` [N] are the resampled units, all points share the resamples, and a share of
    0 or 1 has a Wilson interval."""
    decided = _wide(table, each)
    samples = decision_samples(decided, group_N, resamples=settings.bootstrap, rng=np.random.default_rng(settings.seed))
    left_out = {}
    if settings.bootstrap and settings.interval == "bca":
        left_out = decision_samples(decided, group_N, resamples=settings.bootstrap, rng=None)
    out: list[dict[str, dict[str, list[float]]]] = []
    columns = iter(decided.labels)
    for points in each:
        by_label = {label: (next(columns), points[label]) for label in table.labels}
        out.append(
            {
                label: {
                    NAMES.get(metric, metric): [scale * row["low"], scale * row["high"]]
                    for metric, scale in METRICS.items()
                    if (value := getattr(point, NAMES.get(metric, metric))) is not None
                    and "low" in (row := _row(metric, column, value / scale, decided, group_N, samples, left_out))
                }
                for label, (column, point) in by_label.items()
            }
        )
    return out


def _row(metric: str, column: str, value: float, *of: Any) -> dict[str, Any]:
    return value_row(Value(metric, column, value, 0, 0), *of)


def _wide(table: Table, each: Sequence[Mapping[str, Point]]) -> Table:
    """A table with a column for each label and point, decided at its threshold; columns are called by their numbers."""
    prob_NL = table.prob_NL
    positive = [
        prob_NL >= np.array([points[k].threshold for k in table.labels]).astype(prob_NL.dtype) for points in each
    ]
    times = (1, len(each))
    return Table(
        labels=tuple(str(i) for i in range(len(each) * len(table.labels))),
        task="multilabel",
        known_NL=np.tile(table.known_NL, times),
        true_NL=np.tile(table.true_NL, times),
        prob_NL=np.tile(prob_NL, times),
        positive_NL=np.concatenate(positive, axis=1),
    )
