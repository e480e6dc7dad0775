"""Labels from a table whose columns the user names: one per label, a list of findings, or a class. The source chooses the table
and joins it to the images."""
# N images, L labels

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field, field_validator

from cxr_ray.datasets.cells import LABEL_VALUES, Floats, clean_text, parse_findings, parse_labels
from cxr_ray.datasets.classes import class_columns
from cxr_ray.datasets.tables import require_columns, row_error
from cxr_ray.errors import UserError
from cxr_ray.labels import Task, safe_name
from cxr_ray.registry import Options
from cxr_ray.storage.remote import AnyPath


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
    """Meaning of the cells of label columns, such as {Y: 1, N: 0}: 1, 0, -1 (uncertain) or null (not mentioned). Empty: 1 or
    true, 0 or false, -1."""

    @field_validator("values")
    @classmethod
    def _check_values(cls, values: dict[str, int | None]) -> dict[str, int | None]:
        for name, value in values.items():
            if value not in (1, 0, -1, None):
                raise ValueError(f"{name!r} must mean 1, 0, -1 or null")
        return values


def require_label_option(options: LabelOptions, raw: pd.DataFrame, path: AnyPath) -> None:
    """Raises `UserError` unless exactly one of labels, findings and classes is given; it lists the columns of `raw`."""
    given = [f"--{name}" for name in ("labels", "findings", "classes") if getattr(options, name)]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} exclude each other; give one of them")
    if not given:
        raise UserError(
            "which columns contain the labels? Give --labels COLUMN (repeat it for each label), --findings COLUMN (a list) "
            f"or --classes COLUMN; the columns of {path}: {', '.join(raw.columns[:30])}"
        )


def label_columns(
    raw: pd.DataFrame, path: AnyPath, options: LabelOptions, row_N: npt.NDArray[np.int64]
) -> tuple[Task, dict[str, Floats]]:
    """The task, and the label columns [N] of images. `row_N` is the row of each image in `raw`, the table at `path`; -1: it has
    none, and no label is mentioned.

    Raises `UserError` for a missing column, a cell without a meaning, an image without a class, and two labels of one name."""
    require_columns(raw, [*options.labels, *filter(None, (options.findings, options.classes))], path)
    task: Task = "multilabel"
    if options.classes:
        cells = clean_text(raw[options.classes])
        blank_N = cells.isna().to_numpy()[row_N] | (row_N < 0)
        if blank_N.any():
            at = int(np.argmax(blank_N))
            if row_N[at] < 0:
                image = f"the image in row {at} (counted from 0) of the table of images"
                raise UserError(f"{path} has no row for {image}; every image needs a class: add the row")
            raise row_error(
                path, int(row_N[at]), f"{options.classes!r} is blank; every image needs a class: fill it in"
            )
        class_N = cells.iloc[row_N]
        task, found = class_columns(class_N.tolist(), sorted(class_N.unique()), positive=options.positive)
    else:
        if options.findings:
            columns = parse_findings(raw[options.findings], path, split=lambda cell: cell.split(options.separator))
        else:
            fix = "add it to --values" if options.values else "give its meaning with --values.'{}' 1 (or 0, -1, null)"
            columns = {k: parse_labels(raw, k, path, options.values or LABEL_VALUES, fix=fix) for k in options.labels}
        found = {k: np.where(row_N >= 0, values[row_N], np.float32(np.nan)) for k, values in columns.items()}
    labels = {safe_name(k): values for k, values in found.items()}
    if len(labels) < len(found):
        raise UserError(
            f"{path}: two labels have the same name after slashes and dots become _: {', '.join(found)}; rename one of them"
        )
    return task, labels
