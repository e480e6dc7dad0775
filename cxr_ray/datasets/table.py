"""Any table: the user names the columns of the path, the patient and the labels, and the meaning of the labels' cells."""

from typing import Any

import numpy as np
import pandas as pd

from cxr_ray.data.info import DatasetInfo
from cxr_ray.datasets.base import Records, records_table
from cxr_ray.datasets.cells import Floats, clean_text, parse_numbers, parse_parts
from cxr_ray.datasets.classes import is_unremarkable
from cxr_ray.datasets.folders import join_folder, resolve_file
from cxr_ray.datasets.label_columns import LabelOptions, label_columns, require_label_option
from cxr_ray.datasets.tables import find_rows, find_table, read_text_table, require_columns
from cxr_ray.labels import Task
from cxr_ray.registry import SOURCES
from cxr_ray.storage.remote import AnyPath

TEXT_COLUMNS = ("patient", "study", "view", "sex", "source", "mask")
"""Columns of the records that are copied as text."""


class TableOptions(LabelOptions):
    """Columns of the table of images."""

    table: str | None = None
    """CSV, TSV or Parquet file with one row per image; its path is from the current folder or the root. null: the only one in the
    root."""
    image: str = "image"
    """Column of the image's path below the root."""
    folder: str = ""
    """Folder added before every path, such as images."""
    extension: str = ""
    """Extension added after every path, such as .png."""
    label_table: str | None = None
    """Second table with the labels: one row per study (or patient), for all its images."""
    on: str = "study"
    """Column in both tables on which they are joined."""
    patient: str | None = None
    """Column of the patient. null, here and below: the column with the name of the option, if there is one."""
    study: str | None = None
    """Column of the study."""
    view: str | None = None
    """Column of the view."""
    sex: str | None = None
    """Column of the sex."""
    age: str | None = None
    """Column of the age in years."""
    source: str | None = None
    """Column of the origin of the image."""
    mask: str | None = None
    """Column of the path of a mask."""
    split: str | None = None
    """Column of the official part: train, val (valid, validation, dev) or test."""


@SOURCES.register("table", TableOptions)
def table(root: AnyPath, options: TableOptions) -> Records:
    """Any CSV, TSV or Parquet with one row per image: --image, --patient, and --labels, --findings or --classes name its columns.

    Cells are text, so a class may be called None or NA. No label is mentioned if the list of findings is blank, or if the label
    table does not have the image's study. Raises `UserError` for a missing table or column, and for a label's cell without a
    meaning in `values`."""
    path = resolve_file(options.table, root) if options.table else find_table(root)
    raw = read_text_table(path, what="a table of images")
    require_label_option(options, raw, path)
    require_columns(raw, (options.image, *_named_columns(options, raw)), path)
    name = raw[options.image].str.strip().str.replace("\\", "/").str.removeprefix("./")
    name = (name + options.extension).where(name != "", "")
    columns: dict[str, Any] = {}
    for field in TEXT_COLUMNS:
        if column := _column(options, raw, field):
            columns[field] = clean_text(raw[column])
    columns["image"] = join_folder(options.folder.strip("/"), name)
    if column := _column(options, raw, "age"):
        columns["age"] = parse_numbers(raw, column, path)
    if column := _column(options, raw, "split"):
        columns["split"] = parse_parts(raw[column], path)
    task, labels, notes = _labels(raw, path, root, options)
    return Records(
        table=records_table(columns, labels, rows=len(raw)),
        info=DatasetInfo(
            labels=tuple(labels),
            task=task,
            default_labels=tuple(k for k in labels if task != "multilabel" or not is_unremarkable(k)) or tuple(labels),
            features=tuple(column for column in ("view", "sex", "source") if column in columns),
            notes=notes,
        ),
    )


def _labels(
    raw: pd.DataFrame, path: AnyPath, root: AnyPath, options: TableOptions
) -> tuple[Task, dict[str, Floats], tuple[str, ...]]:
    """The task, the label columns of the images, and notes about them."""
    label_table, row_N = raw, np.arange(len(raw))
    if options.label_table is not None:
        image_path, path = path, resolve_file(options.label_table, root)
        label_table = read_text_table(path, what="a table of labels")
        require_columns(raw, (options.on,), image_path)
        require_columns(label_table, (options.on,), path)
        row_N = find_rows(raw[options.on].str.strip(), label_table[options.on].str.strip(), path, what=options.on)
    task, labels = label_columns(label_table, path, options, row_N)
    unlabelled = int((row_N < 0).sum())
    note = f"{unlabelled} of {len(raw)} images have no row in {path.name}: their labels are not mentioned"
    return task, labels, (note,) if unlabelled else ()


def _column(options: TableOptions, raw: pd.DataFrame, field: str) -> str | None:
    """The column of `field`: the one that the option names, or else the column called `field`, if there is one."""
    given: str | None = getattr(options, field)
    return given or (field if field in raw.columns else None)


def _named_columns(options: TableOptions, raw: pd.DataFrame) -> list[str]:
    return [column for field in (*TEXT_COLUMNS, "age", "split") if (column := _column(options, raw, field))]
