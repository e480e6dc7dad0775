"""Any table: the user says which columns hold the path, the patient and the labels, and what the labels' cells mean."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field, field_validator

from cxr_ray.errors import UserError
from cxr_ray.labels import Task, safe_name
from cxr_ray.registry import SOURCES, Options
from cxr_ray.sources import Records, class_columns, is_unremarkable, need_columns, records_table
from cxr_ray.sources.cells import MARKS, Floats, marks, named, numbers, parts, read_text, rows_of, text
from cxr_ray.sources.folders import below, given_file

KINDS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
PLAIN = ("patient", "study", "view", "sex", "source", "mask")
"""Columns of the records that are text as it stands."""
MEND = "say what it means with --values.'{}' 1 (or 0, -1, null)"


class TableOptions(Options):
    """Which column holds what."""

    table: str | None = None
    """CSV, TSV or Parquet of one row an image, given from here or from the root; null: the only one in the root."""
    image: str = "image"
    """Column of the picture's path, below the root."""
    folder: str = ""
    """Put before every path, such as images."""
    extension: str = ""
    """Put behind every path, such as .png."""
    labels: list[str] = Field(default=[])
    """Columns that are a label each; of labels, findings and classes, give one."""
    findings: str | None = None
    """Column that lists the findings of the image, joined by the separator."""
    separator: str = "|"
    """What joins the findings."""
    classes: str | None = None
    """Column of the one class that each image belongs to."""
    positive: str | None = None
    """Of two classes, the one whose label is 1; null: the one not called normal, no finding, negative or healthy."""
    values: dict[str, int | None] = Field(default={})
    """What the cells of label columns mean, such as {Y: 1, N: 0}: 1, 0, -1 (uncertain) or null (not mentioned); empty: 1, 0,
    -1, true, false."""
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

    @field_validator("values")
    @classmethod
    def _means_something(cls, values: dict[str, int | None]) -> dict[str, int | None]:
        for name, value in values.items():
            if value not in (1, 0, -1, None):
                raise ValueError(f"{name!r} means 1, 0, -1 or null")
        return values


@SOURCES.register("table", TableOptions)
def table(root: Path, options: TableOptions) -> Records:
    """Any CSV, TSV or Parquet with one row an image: --image, --patient, and --labels, --findings or --classes name its columns.

    Cells are text as they stand, so a class may be called None or NA. A blank list of findings, and an image whose study the
    label table does not have, are not mentioned throughout. Raises `UserError` for a missing table or column, and for a cell
    of a label that `values` gives no meaning."""
    path = given_file(options.table, root) if options.table else _only_table(root)
    raw = read_text(path, like="a table of images")
    _one_kind(options, raw, path)
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
    raw: pd.DataFrame, path: Path, root: Path, options: TableOptions
) -> tuple[Task, dict[str, Floats], tuple[str, ...]]:
    """The task, the label columns of the images, and what to say about them."""
    held, row_N = raw, np.arange(len(raw))
    if options.label_table is not None:
        image_path, path = path, given_file(options.label_table, root)
        held = read_text(path, like="a table of labels")
        need_columns(raw, (options.on,), image_path)
        need_columns(held, (options.on,), path)
        row_N = rows_of(raw[options.on].str.strip(), held[options.on].str.strip(), path, like=options.on)
    need_columns(held, [*options.labels, *filter(None, (options.findings, options.classes))], path)
    task: Task = "multilabel"
    if options.findings:
        found = named(held[options.findings], path, split=lambda cell: cell.split(options.separator))
    elif options.classes:
        cells = held[options.classes].str.strip()
        if (cells == "").any() or (row_N < 0).any():
            at = int(np.argmax(cells == "")) if (cells == "").any() else int(np.argmax(row_N < 0))
            raise UserError(f"{path}: no class for row {at}; every image has one")
        task, found = class_columns(cells.tolist(), sorted(cells.unique()), positive=options.positive)
    else:
        mend = MEND if not options.values else "add it to --values"
        found = {k: marks(held, k, path, options.values or MARKS, mend=mend) for k in options.labels}
    labels = {safe_name(k): np.where(row_N >= 0, values[row_N], np.float32(np.nan)) for k, values in found.items()}
    if len(labels) < len(found):
        raise UserError(
            f"{path}: two labels share one name once slashes and dots become _: {', '.join(found)}; rename one"
        )
    left = int((row_N < 0).sum())
    return (
        task,
        labels,
        (f"{left} of {len(raw)} images have no row in {path.name}: their labels are not mentioned",) if left else (),
    )


def _one_kind(options: TableOptions, raw: pd.DataFrame, path: Path) -> None:
    given = [f"--{name}" for name in ("labels", "findings", "classes") if getattr(options, name)]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)}: the labels stand in one of them; leave the others out")
    if not given:
        raise UserError(
            "which columns hold the labels? --labels COLUMN (one a label, given again for the next), --findings COLUMN (a list) "
            f"or --classes COLUMN; the columns of {path}: {', '.join(raw.columns[:30])}"
        )


def _column(options: TableOptions, raw: pd.DataFrame, what: str) -> str | None:
    """The column that holds `what`: the one that is named, else the one of that very name, else none."""
    named_one: str | None = getattr(options, what)
    return named_one or (what if what in raw.columns else None)


def _named_columns(options: TableOptions, raw: pd.DataFrame) -> list[str]:
    return [held for what in (*PLAIN, "age", "split") if (held := _column(options, raw, what))]


def _only_table(root: Path) -> Path:
    found = sorted(
        path for path in root.iterdir() if path.name.lower().endswith(KINDS) and not path.name.startswith(".")
    )
    if len(found) != 1:
        which = f"{len(found)} tables ({', '.join(path.name for path in found[:5])})" if found else "no table"
        raise UserError(f"{root.absolute()} holds {which}; say which with --table FILE")
    return found[0]
