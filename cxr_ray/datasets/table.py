"""Any table: the user says which columns hold the path, the patient and the labels, and what the labels' cells mean."""

from typing import Any

import numpy as np
import pandas as pd

from cxr_ray.datasets.base import Records, is_unremarkable, need_columns, records_table
from cxr_ray.datasets.cells import Floats, numbers, parts, read_text, rows_of, text
from cxr_ray.datasets.folders import below, given_file
from cxr_ray.datasets.label_columns import LabelOptions, label_columns, one_kind, only_table
from cxr_ray.labels import Task
from cxr_ray.registry import SOURCES
from cxr_ray.storage.remote import Place

PLAIN = ("patient", "study", "view", "sex", "source", "mask")
"""Columns of the records that are text as it stands."""


class TableOptions(LabelOptions):
    """Which column holds what."""

    table: str | None = None
    """CSV, TSV or Parquet of one row an image, given from here or from the root; null: the only one in the root."""
    image: str = "image"
    """Column of the picture's path, below the root."""
    folder: str = ""
    """Put before every path, such as images."""
    extension: str = ""
    """Put behind every path, such as .png."""
    label_table: str | None = None
    """Second table that holds the labels, one row a study (or a patient), for all its images."""
    on: str = "study"
    """Column that both tables have and that joins them."""
    patient: str | None = None
    """Column of the patient; null, here and below: the column of that name, if there is one."""
    study: str | None = None
    """Column of the study."""
    view: str | None = None
    """Column of the view."""
    sex: str | None = None
    """Column of the sex."""
    age: str | None = None
    """Column of the age in years."""
    source: str | None = None
    """Column of where the picture comes from."""
    mask: str | None = None
    """Column of the path of a mask."""
    split: str | None = None
    """Column of the official part: train, val (valid, validation, dev) or test."""


@SOURCES.register("table", TableOptions)
def table(root: Place, options: TableOptions) -> Records:
    """Any CSV, TSV or Parquet with one row an image: --image, --patient, and --labels, --findings or --classes name its columns.

    Cells are text as they stand, so a class may be called None or NA. A blank list of findings, and an image whose study the
    label table does not have, are not mentioned throughout. Raises `UserError` for a missing table or column, and for a cell
    of a label that `values` gives no meaning."""
    path = given_file(options.table, root) if options.table else only_table(root)
    raw = read_text(path, like="a table of images")
    one_kind(options, raw, path)
    need_columns(raw, (options.image, *_named_columns(options, raw)), path)
    name = raw[options.image].str.strip().str.replace("\\", "/").str.removeprefix("./")
    name = (name + options.extension).where(name != "", "")
    columns: dict[str, Any] = {column: text(raw[held]) for column in PLAIN if (held := _column(options, raw, column))}
    columns["image"] = below(options.folder.strip("/"), name)
    if held := _column(options, raw, "age"):
        columns["age"] = numbers(raw, held, path)
    if held := _column(options, raw, "split"):
        columns["split"] = parts(raw[held], path)
    task, labels, notes = _labels(raw, path, root, options)
    return Records(
        table=records_table(columns, labels, rows=len(raw)),
        labels=tuple(labels),
        task=task,
        groups={},
        filters=(),
        default_labels=tuple(k for k in labels if task != "multilabel" or not is_unremarkable(k)) or tuple(labels),
        features=tuple(column for column in ("view", "sex", "source") if column in columns),
        notes=notes,
        boxes=None,
    )


def _labels(
    raw: pd.DataFrame, path: Place, root: Place, options: TableOptions
) -> tuple[Task, dict[str, Floats], tuple[str, ...]]:
    """The task, the label columns of the images, and what to say about them."""
    held, row_N = raw, np.arange(len(raw))
    if options.label_table is not None:
        image_path, path = path, given_file(options.label_table, root)
        held = read_text(path, like="a table of labels")
        need_columns(raw, (options.on,), image_path)
        need_columns(held, (options.on,), path)
        row_N = rows_of(raw[options.on].str.strip(), held[options.on].str.strip(), path, like=options.on)
    task, labels = label_columns(held, path, options, row_N)
    left = int((row_N < 0).sum())
    return (
        task,
        labels,
        (f"{left} of {len(raw)} images have no row in {path.name}: their labels are not mentioned",) if left else (),
    )


def _column(options: TableOptions, raw: pd.DataFrame, what: str) -> str | None:
    """The column that holds `what`: the one that is named, else the one of that very name, else none."""
    named_one: str | None = getattr(options, what)
    return named_one or (what if what in raw.columns else None)


def _named_columns(options: TableOptions, raw: pd.DataFrame) -> list[str]:
    return [held for what in (*PLAIN, "age", "split") if (held := _column(options, raw, what))]
