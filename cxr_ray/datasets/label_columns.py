"""Labels from a table whose columns the user names: one per label, a list of findings, or a class. The source chooses the table
and joins it to the images."""
# N images, L labels

import codecs
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field, field_validator

from cxr_ray.datasets.cells import LABEL_VALUES, Floats, clean_text, parse_findings, parse_labels
from cxr_ray.datasets.classes import class_columns
from cxr_ray.datasets.delimited import TextForm
from cxr_ray.datasets.joined_rows import RowGroups, max_labels, same_values
from cxr_ray.datasets.tables import require_columns, row_error
from cxr_ray.errors import UserError, listed, quoted
from cxr_ray.labels import Task, safe_name
from cxr_ray.registry import Options
from cxr_ray.storage.remote import AnyPath

NAMED_DELIMITERS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " "}


class LabelOptions(Options):
    """Columns of the labels, and the meaning of their cells."""

    labels: list[str] = Field(default=[])
    """Columns of one label each. Give one of labels, findings and classes."""
    findings: str | None = None
    """Column with the list of the image's findings."""
    separator: str = "|"
    """Separator of the findings in a list."""
    classes: str | None = None
    """Column of the image's class. Every image has exactly one."""
    positive: str | None = None
    """Of two classes, the one whose label is 1. null: the one not called normal, no finding, negative or healthy."""
    values: dict[str, int | None] = Field(default={})
    """Meaning of the cells of label columns, such as {Y: 1, N: 0}: 1, 0, -1 (uncertain) or null (not mentioned). "*" stands for
    every other cell that is not blank: {-1: 0, "*": 1}. Empty: 1 or true, 0 or false, -1."""
    delimiter: str | None = None
    """Character between the fields of text tables: a character, or tab. null: recognised (comma, semicolon, tab or |)."""
    encoding: str | None = None
    """Encoding of text tables, such as cp1252 (Windows, Western Europe). null: UTF-8 or UTF-16, recognised."""

    @field_validator("values", mode="before")
    @classmethod
    def _text_keys(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {str(name).lower() if isinstance(name, bool) else str(name): value for name, value in values.items()}

    @field_validator("values")
    @classmethod
    def _check_values(cls, values: dict[str, int | None]) -> dict[str, int | None]:
        for name, value in values.items():
            if value not in (1, 0, -1, None):
                raise ValueError(f"{name!r} must mean 1, 0, -1 or null")
        return values

    @field_validator("delimiter")
    @classmethod
    def _check_delimiter(cls, delimiter: str | None) -> str | None:
        if delimiter is None:
            return None
        found = NAMED_DELIMITERS.get(delimiter.casefold(), delimiter)
        if len(found) != 1 or found in '"\r\n':
            raise ValueError(f"must be one character, such as ';', or one of {', '.join(NAMED_DELIMITERS)}")
        return found

    @field_validator("encoding")
    @classmethod
    def _check_encoding(cls, encoding: str | None) -> str | None:
        if encoding is None:
            return None
        try:
            "".encode(encoding)  # refuses codecs that are not of text, such as base64
            return codecs.lookup(encoding).name
        except LookupError:
            raise ValueError("unknown encoding; known are utf-8, utf-16, cp1252 and the others of Python") from None

    @property
    def form(self) -> TextForm:
        """How text tables are written."""
        return TextForm(self.delimiter, self.encoding)


def require_label_option(options: LabelOptions, raw: pd.DataFrame, path: AnyPath) -> None:
    """Raises `UserError` unless exactly one of labels, findings and classes is given; it lists the columns of `raw`."""
    given = [f"--{name}" for name in ("labels", "findings", "classes") if getattr(options, name)]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} exclude each other; give one of them")
    if not given:
        raise UserError(
            "which columns contain the labels? Give --labels COLUMN (repeat it for each label), --findings COLUMN (a list) "
            f"or --classes COLUMN; the columns of {path}: {listed(list(raw.columns), most=30)}"
        )


def without_class(
    raw: pd.DataFrame,
    path: AnyPath,
    options: LabelOptions,
    row_N: npt.NDArray[np.int64],
    groups: RowGroups | None = None,
) -> npt.NDArray[np.bool_]:
    """Which images [N] have no class; see `label_columns`."""
    require_columns(raw, [*filter(None, (options.classes,))], path)
    if not options.classes:
        return np.zeros(len(row_N), dtype=bool)
    return _classes(raw, path, options, groups).isna().to_numpy()[row_N] | (row_N < 0)


def label_columns(
    raw: pd.DataFrame,
    path: AnyPath,
    options: LabelOptions,
    row_N: npt.NDArray[np.int64],
    groups: RowGroups | None = None,
) -> tuple[Task, dict[str, Floats]]:
    """The task, and the label columns [N] of images. `row_N` is the row of each image in `raw`, the table at `path`; -1: it has
    none, and no label is mentioned. If `groups` of rows are joined, `row_N` is a group instead.

    Raises `UserError` for a missing column, a cell without a meaning, an image without a class, two classes of one image, and two
    labels of one name."""
    require_columns(raw, [*options.labels, *filter(None, (options.findings, options.classes))], path)
    task: Task = "multilabel"
    if options.classes:
        missing_N = without_class(raw, path, options, row_N, groups)
        if missing_N.any():
            raise _no_class(path, options, int(np.argmax(missing_N)), row_N, groups)
        class_N = _classes(raw, path, options, groups).iloc[row_N]
        task, found = class_columns(class_N.tolist(), sorted(class_N.unique()), positive=options.positive)
    else:
        if options.findings:
            columns = parse_findings(raw[options.findings], path, split=lambda cell: cell.split(options.separator))
        else:
            fix = "add it to --values" if options.values else "give its meaning with --values.'{}' 1 (or 0, -1, null)"
            columns = {k: parse_labels(raw, k, path, options.values or LABEL_VALUES, fix=fix) for k in options.labels}
        if groups is not None:
            columns = {k: max_labels(values, groups) for k, values in columns.items()}
        found = {k: np.where(row_N >= 0, values[row_N], np.float32(np.nan)) for k, values in columns.items()}
    labels = {safe_name(k): values for k, values in found.items()}
    if len(labels) < len(found):
        raise UserError(
            f"{path}: two labels have the same name after slashes and dots become _ (and line breaks a space): "
            f"{listed(_same_names(found))}; rename one of them"
        )
    return task, labels


def _classes(raw: pd.DataFrame, path: AnyPath, options: LabelOptions, groups: RowGroups | None) -> "pd.Series[str]":
    cells = clean_text(raw[str(options.classes)])
    return cells if groups is None else same_values(cells, groups, path)


def _no_class(
    path: AnyPath, options: LabelOptions, at: int, row_N: npt.NDArray[np.int64], groups: RowGroups | None
) -> UserError:
    """The error for the image at position `at`, which has no class."""
    drop = ", or leave such images out with --blank drop" if "blank" in type(options).model_fields else ""
    if row_N[at] < 0:
        image = f"the image in row {at} (counted from 0) of the table of images"
        return UserError(f"{path} has no row for {image}; every image needs a class: add the row{drop}")
    row = int(row_N[at]) if groups is None else int(groups.first_G[row_N[at]])
    return row_error(path, row, f"{quoted(options.classes)} is blank; every image needs a class: fill it in{drop}")


def _same_names(names: dict[str, Floats]) -> list[str]:
    """The names that are one label."""
    safe = [safe_name(name) for name in names]
    return [name for name, key in zip(names, safe, strict=True) if safe.count(key) > 1]
