"""The interval of a value from its resamples, or the reason why it has none: one rule for every metric of every page."""
# N rows, L labels

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_ray.errors import listed
from cxr_ray.metrics import AVERAGES, Value
from cxr_ray.metrics.intervals import Samples, bca, percentile, wilson
from cxr_ray.metrics.table import Table

LEVEL = 0.95
# Shares of a count: at 0 or 1 all resamples are equal, so the bootstrap has no interval, but Wilson's formula has.
SHARES = ("recall", "specificity", "precision", "npv", "alarms", "accuracy", "exact_match")


def value_row(
    value: Value, table: Table, group_N: npt.NDArray[np.int64], samples: Samples, left_out: Samples
) -> dict[str, Any]:
    """A value as a row of `values`, with its interval or the reason why there is none."""
    row: dict[str, Any] = value._asdict()
    sample_R = samples.get((value.metric, value.label))
    if sample_R is None:  # a count, or no resamples
        return row
    if value.metric in SHARES and value.label not in AVERAGES:
        groups = _denominator(value, table, group_N)
        independent = len(np.unique(group_N)) == len(group_N)
        if value.value in (0.0, 1.0) or (value.metric == "accuracy" and independent):
            low, high = wilson(round(value.value * groups), groups, LEVEL)
            return {**row, "low": low, "high": high, "method": "wilson", "defined": 0}
    key = value.metric, value.label
    interval = bca(sample_R, value.value, left_out[key], LEVEL) if key in left_out else None
    method = "bca" if interval else "bootstrap"
    interval = interval or percentile(sample_R, LEVEL)
    if interval is None:
        return {**row, "no_interval": "undefined in over a tenth of the resamples: too few positives or negatives"}
    if interval.low == interval.high:
        return {**row, "no_interval": "every resample gives the same value"}
    return {**row, **interval._asdict(), "method": method}


def labels_left_out(samples: Samples, labels: Sequence[str]) -> list[str]:
    """Labels without a positive or without a negative in some resamples, though not in all: these average the other labels."""
    undefined = {k: np.isnan(samples["auroc", k]) for k in labels if ("auroc", k) in samples}
    return [
        k for k, undefined_R in undefined.items() if len(labels) > 1 and undefined_R.any() and not undefined_R.all()
    ]


def means_text(left_out: Sequence[str]) -> str:
    """What the intervals of means do not cover, for `labels_left_out`; empty without any."""
    if not left_out:
        return ""
    return (
        f"Some resamples have no positive or no negative of {listed(left_out)}, and their means are over the other labels: "
        "an interval of a mean is not quite of the labels that the mean is of."
    )


def _denominator(value: Value, table: Table, group_N: npt.NDArray[np.int64]) -> int:
    """Number of patients (or images) in the denominator of a share."""
    if value.label == "":
        return len(np.unique(group_N[table.known_NL.any(axis=1)]))
    i = table.labels.index(value.label)
    known, true, predicted = table.known_NL[:, i], table.true_NL[:, i], table.positive_NL[:, i]
    rows = {"recall": true, "specificity": known & ~true, "precision": known & predicted, "npv": known & ~predicted}
    rows["alarms"] = known
    return len(np.unique(group_N[rows[value.metric]]))
