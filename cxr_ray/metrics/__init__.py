"""Metrics: targets and probabilities in, named numbers out. An undefined number is absent, never filled in."""

from cxr_ray.metrics.compute import compute_metrics, confusion
from cxr_ray.metrics.names import (
    AT_PRECISION,
    AVERAGES,
    COUNTS,
    MAIN_METRICS,
    MEAN,
    RATES,
    TABLE_METRICS,
    WHOLE_METRICS,
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
    "RATES",
    "TABLE_METRICS",
    "WHOLE_METRICS",
    "Value",
    "compute_metrics",
    "confusion",
    "find",
    "parse",
    "prevalence",
    "thresholds",
]
