"""Reading datasets on disk into tables of records: one row per image, without pixels."""

from cxr_ray.datasets.base import (
    BOX_COLUMNS,
    COLUMNS,
    PART_NAMES,
    DatasetInfo,
    Records,
    check_records,
    list_datasets,
    load,
    read,
    read_dataset,
    records_table,
)
from cxr_ray.datasets.classes import class_columns, is_unremarkable
from cxr_ray.datasets.tables import read_csv, read_text_table, reading, require_columns
from cxr_ray.labels import Filter

__all__ = [
    "BOX_COLUMNS",
    "COLUMNS",
    "PART_NAMES",
    "DatasetInfo",
    "Filter",
    "Records",
    "check_records",
    "class_columns",
    "is_unremarkable",
    "list_datasets",
    "load",
    "read",
    "read_csv",
    "read_dataset",
    "read_text_table",
    "reading",
    "records_table",
    "require_columns",
]
