"""Metrics from targets and probabilities, as named values. An undefined metric is absent, never filled in."""

from cxr_ray.metrics.compute import compute_metrics, confusion
from cxr_ray.metrics.names import (
    AT_PRECISION,
    AVERAGES,
    COUNTS,
    MAIN_METRICS,
    MEAN,
    OVERALL_METRICS,
    RATES,
    TABLE_METRICS,
    Value,
    find,
    parse,
)
from cxr_ray.metrics.prevalence import prevalence
from cxr_ray.metrics.table import thresholds

__all__ = [
    "AT_PRECISION",
    "AVERAGES",
    "COUNTS",
    "MAIN_METRICS",
    "MEAN",
    "OVERALL_METRICS",
    "RATES",
    "TABLE_METRICS",
    "Value",
    "compute_metrics",
    "confusion",
    "find",
    "parse",
    "prevalence",
    "thresholds",
]
