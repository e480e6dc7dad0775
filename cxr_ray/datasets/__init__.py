"""Datasets as they lie on disk, read into tables of records: one row an image and no pixels."""

from cxr_ray.datasets.base import (
    BOX_COLUMNS,
    COLUMNS,
    PART_NAMES,
    Filter,
    Records,
    class_columns,
    is_unremarkable,
    load,
    need_columns,
    read,
    read_csv,
    reading,
    records_table,
)

__all__ = [
    "BOX_COLUMNS",
    "COLUMNS",
    "PART_NAMES",
    "Filter",
    "Records",
    "class_columns",
    "is_unremarkable",
    "load",
    "need_columns",
    "read",
    "read_csv",
    "reading",
    "records_table",
]
