"""Run folders, the selected epoch, and ensembles of runs. Nothing here builds a model."""

from cxr_ray.runs.create import check_name, create, default_name, differences
from cxr_ray.runs.run import (
    METRIC_COLUMNS,
    Run,
    folder_of,
    list_runs,
    load,
    plan_of,
    predictions_table,
    prevalence,
)
from cxr_ray.runs.selection import (
    best_epoch,
    is_selected_on_val,
    selected_epoch,
    selected_text,
    selected_values,
    val_metrics,
    values_by_name,
)

__all__ = [
    "METRIC_COLUMNS",
    "Run",
    "best_epoch",
    "check_name",
    "create",
    "default_name",
    "differences",
    "folder_of",
    "is_selected_on_val",
    "list_runs",
    "load",
    "plan_of",
    "predictions_table",
    "prevalence",
    "selected_epoch",
    "selected_text",
    "selected_values",
    "val_metrics",
    "values_by_name",
]
