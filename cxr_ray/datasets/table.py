"""Any table: the user names the columns of the path, the patient and the labels, and the meaning of the labels' cells."""
# R rows of the table of images, N images

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray.data.info import DatasetInfo
from cxr_ray.datasets.base import Records, records_table
from cxr_ray.datasets.cells import clean_codes, clean_text, parse_parts
from cxr_ray.datasets.classes import is_unremarkable
from cxr_ray.datasets.folders import find_images, join_folder, locate, resolve_file
from cxr_ray.datasets.joined_rows import RowGroups, group_rows, same_values
from cxr_ray.datasets.label_columns import LabelOptions, label_columns, require_label_option, without_class
from cxr_ray.datasets.persons import parse_ages, parse_sex
from cxr_ray.datasets.tables import find_rows, find_table, read_text_table, require_columns, row_error
from cxr_ray.errors import UserError, quoted
from cxr_ray.registry import SOURCES
from cxr_ray.storage.remote import AnyPath

TEXT_COLUMNS = ("patient", "study", "view", "sex", "source", "mask")
"""Columns of the records that are copied as text."""
MANY_IMAGES = 100
"""So many images without two of one patient are no coincidence."""
JOIN = "or join them with --join-rows max (a label is positive if one of the rows is)"


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
    search: bool = False
    """Look for each file by its name, at any depth below the folder: the column has names and no paths."""
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
    blank: Literal["refuse", "drop"] = "refuse"
    """Images without a class: refuse the table, or drop and count them. Only with classes; other labels may be blank."""
    join_rows: Literal["refuse", "max"] = "refuse"
    """Several rows of an image (or of a study, in the label table): refuse them, or max: join them. A label is then positive if one
    of the rows is, else uncertain, else negative. Classes and all other columns must agree."""


@SOURCES.register("table", TableOptions)
def table(root: AnyPath, options: TableOptions) -> Records:
    """Any CSV, TSV or Parquet with one row per image: --image, --patient, and --labels, --findings or --classes name its columns.

    Cells are text, so a class may be called None or NA. No label is mentioned if the list of findings is blank, or if the label
    table does not have the image's study. With `join_rows` an image may have several rows, with `blank` none of the classes.
    Raises `UserError` for a missing table or column, for a label's cell without a meaning in `values`, and for rows of one image
    that differ."""
    path = resolve_file(options.table, root) if options.table else find_table(root)
    raw = read_text_table(path, what="a table of images", form=options.form)
    require_label_option(options, raw, path)
    if options.blank == "drop" and not options.classes:
        raise UserError("--blank drop needs --classes; blank cells of --labels and --findings are labels not mentioned")
    require_columns(raw, (options.image, *_named_columns(options, raw)), path)
    name = raw[options.image].str.strip().str.replace("\\", "/").str.removeprefix("./")
    name = (name + options.extension).where(name != "", "")
    if options.join_rows == "refuse":
        _refuse_repeated(name, path)
    images = group_rows(name) if options.join_rows == "max" else None
    columns, notes = _columns(raw, path, options, images)
    found = _label_rows(raw, path, root, options, images)
    source_row_N = np.arange(len(raw)) if images is None else images.first_G
    if len(source_row_N) < len(raw):
        notes.append(f"{len(raw):,} rows of {path.name} are joined to {len(source_row_N):,} images (--join-rows max)")
    keep_N = np.ones(len(source_row_N), dtype=bool)
    if options.blank == "drop":
        keep_N = ~without_class(found.raw, found.path, options, found.row_N, found.groups)
        notes += _dropped(source_row_N[~keep_N], len(keep_N), options)
    row_N = found.row_N[keep_N]
    task, labels = label_columns(found.raw, found.path, options, row_N, found.groups)
    notes += _unmatched(found, row_N)
    columns = {field: values[keep_N].reset_index(drop=True) for field, values in columns.items()}
    source_row_N = source_row_N[keep_N]
    image = _paths(root, name.iloc[source_row_N].reset_index(drop=True), options)
    columns |= {"source_row": source_row_N, "image": image}
    return Records(
        table=records_table(columns, labels, rows=len(row_N)),
        info=DatasetInfo(
            labels=tuple(labels),
            task=task,
            default_labels=tuple(k for k in labels if task != "multilabel" or not is_unremarkable(k)) or tuple(labels),
            features=tuple(column for column in ("view", "sex", "source") if column in columns),
            notes=(*notes, *_patient_notes(columns, options)),
        ),
    )


def _paths(root: AnyPath, name: "pd.Series[str]", options: TableOptions) -> "pd.Series[str]":
    """The path below the root of each named file. Raises `UserError` if a search finds two files of one name."""
    listed_paths = join_folder(options.folder.strip("/"), name)
    if not options.search:
        return listed_paths
    folder = root / options.folder
    if not folder.is_dir():
        raise UserError(f"no folder at {folder.absolute()} to search; correct --folder")
    found = pd.Series(find_images(folder, root)[0], dtype=name.dtype)
    names = found.str.rpartition("/")[2]
    twice = names.duplicated() & names.isin(name)
    if twice.any():
        two = found[names == names[twice].iloc[0]].iloc[:2]
        raise UserError(
            f"two files are called alike: {' and '.join(map(quoted, two))}; give paths in the column, not --search"
        )
    return locate(name, dict(zip(names, found, strict=True)), listed_paths)


def _refuse_repeated(name: "pd.Series[str]", path: AnyPath) -> None:
    repeated = name.duplicated() & (name != "")
    if repeated.any():
        second = int(np.argmax(repeated.to_numpy()))
        first = int(np.argmax((name == name.iloc[second]).to_numpy()))
        problem = (
            f"the image {quoted(name.iloc[second])} is also in row {first}; repeated rows: {int(repeated.sum()):,}"
        )
        raise row_error(path, second, f"{problem}; keep one row per image, {JOIN}")


def _columns(
    raw: pd.DataFrame, path: AnyPath, options: TableOptions, images: RowGroups | None
) -> tuple[dict[str, Any], list[str]]:
    """The columns of the records that the table has, for each image [N], and notes. Cells are parsed in the rows of the table, so
    that errors name them."""
    columns: dict[str, Any] = {}
    notes: list[str] = []
    for field in (*TEXT_COLUMNS, "age", "split"):
        column = _column(options, raw, field)
        if column is None:
            continue
        values: pd.Series[Any]
        if field == "age":
            ages, notes = parse_ages(raw, column, path)
            values = pd.Series(ages, name=column)
        elif field == "split":
            values = parse_parts(raw[column], path)
        elif field == "sex":
            values = parse_sex(raw[column])
        else:
            values = clean_codes(raw[column]) if field == "view" else clean_text(raw[column])
        columns[field] = values if images is None else same_values(values, images, path)
    return columns, notes


@dataclass(frozen=True)
class LabelRows:
    """The table of the labels, and where each image is in it."""

    raw: pd.DataFrame
    path: AnyPath
    row_N: npt.NDArray[np.int64]
    """Row, or group of rows, of each image; -1: none."""
    groups: RowGroups | None


def _label_rows(
    raw: pd.DataFrame, path: AnyPath, root: AnyPath, options: TableOptions, images: RowGroups | None
) -> LabelRows:
    if options.label_table is None:
        return LabelRows(raw, path, np.arange(len(raw) if images is None else len(images)), images)
    label_path = resolve_file(options.label_table, root)
    label_table = read_text_table(label_path, what="a table of labels", form=options.form)
    require_columns(raw, (options.on,), path)
    require_columns(label_table, (options.on,), label_path)
    keys, label_keys = clean_text(raw[options.on]), label_table[options.on].str.strip()
    groups = None
    if images is not None:
        keys = same_values(keys, images, path)
        groups = group_rows(label_keys)
        label_keys = label_keys.iloc[groups.first_G]
    row_N = find_rows(keys, label_keys, label_path, what=options.on, fix=f"delete one row, {JOIN}")
    return LabelRows(label_table, label_path, row_N, groups)


def _unmatched(found: LabelRows, row_N: npt.NDArray[np.int64]) -> list[str]:
    """Notes about images without labels, and labels without an image."""
    notes = []
    if unlabelled := int((row_N < 0).sum()):
        counted = f"{unlabelled} of {len(row_N)} images have no row in {found.path.name}"
        notes.append(f"{counted}: their labels are not mentioned")
    rows = len(found.raw) if found.groups is None else len(found.groups)
    if unused := rows - len(np.unique(found.row_N[found.row_N >= 0])):
        notes.append(f"{unused} of {rows} rows of {found.path.name} have no image")
    return notes


def _dropped(row_D: npt.NDArray[np.int64], images: int, options: TableOptions) -> list[str]:
    """A note about the images without a class, in these rows of the table. Raises `UserError` if none is left."""
    if len(row_D) == images:
        raise UserError(
            f"no image has a class in the column {quoted(options.classes)}; name another one with --classes"
        )
    counted = f"{len(row_D):,} of {images:,} images have no class and were dropped (--blank drop)"
    return [f"{counted}: row {row_D[0]} (counted from 0) is the first"] if len(row_D) else []


def _patient_notes(columns: dict[str, Any], options: TableOptions) -> list[str]:
    """A note if the patients cannot be patients: a split by patient would put images of one person into two parts."""
    patient = columns.get("patient")
    if patient is not None and len(patient) >= MANY_IMAGES and patient.notna().all() and patient.is_unique:
        named = f"each of the {len(patient):,} images has its own patient in the column {quoted(options.patient or 'patient')}"
        return [
            f"{named}: if it names images, as patientId of RSNA's challenge does, images of one person may be in two parts"
        ]
    if patient is None and options.image == "patientId":
        return [
            "the column patientId names images (RSNA's challenge): patients are in its mapping to NIH's images; without a column "
            "--patient, images of one person may be in two parts"
        ]
    return []


def _column(options: TableOptions, raw: pd.DataFrame, field: str) -> str | None:
    """The column of `field`: the one that the option names, or else the column called `field`, if there is one."""
    given: str | None = getattr(options, field)
    return given or (field if field in raw.columns else None)


def _named_columns(options: TableOptions, raw: pd.DataFrame) -> list[str]:
    return [column for field in (*TEXT_COLUMNS, "age", "split") if (column := _column(options, raw, field))]
