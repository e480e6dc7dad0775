"""Labels out of a table whose columns the user names: one a label, a list of findings, or a class. Which table, and what joins
it to images, is the source's."""
# N images, L labels

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field, field_validator

from cxr_ray.datasets.base import class_columns, need_columns
from cxr_ray.datasets.cells import MARKS, Floats, marks, named, text
from cxr_ray.errors import UserError
from cxr_ray.labels import Task, safe_name
from cxr_ray.registry import Options
from cxr_ray.storage.remote import Place

KINDS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
"""What tables are called."""


class LabelOptions(Options):
    """Which columns are the labels, and what their cells mean."""

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

    @field_validator("values")
    @classmethod
    def _means_something(cls, values: dict[str, int | None]) -> dict[str, int | None]:
        for name, value in values.items():
            if value not in (1, 0, -1, None):
                raise ValueError(f"{name!r} means 1, 0, -1 or null")
        return values


def one_kind(options: LabelOptions, raw: pd.DataFrame, path: Place) -> None:
    """Raises `UserError` unless one of labels, findings and classes is given; `raw` is the table that is asked first."""
    given = [f"--{name}" for name in ("labels", "findings", "classes") if getattr(options, name)]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)}: the labels stand in one of them; leave the others out")
    if not given:
        raise UserError(
            "which columns hold the labels? --labels COLUMN (one a label, given again for the next), --findings COLUMN (a list) "
            f"or --classes COLUMN; the columns of {path}: {', '.join(raw.columns[:30])}"
        )


def label_columns(
    held: pd.DataFrame, path: Place, options: LabelOptions, row_N: npt.NDArray[np.int64]
) -> tuple[Task, dict[str, Floats]]:
    """The task, and the label columns [N] of images whose labels stand in the rows `row_N` of `held`; -1: in none, which is
    not mentioned throughout.

    Raises `UserError` for a missing column, a cell that means nothing, an image without a class, and two labels of one name."""
    need_columns(held, [*options.labels, *filter(None, (options.findings, options.classes))], path)
    task: Task = "multilabel"
    if options.classes:
        cells = text(held[options.classes])
        blank_N = cells.isna().to_numpy()[row_N] | (row_N < 0)
        if blank_N.any():
            at = int(np.argmax(blank_N))
            raise UserError(f"{path}: no class for row {row_N[at] if row_N[at] >= 0 else at}; every image has one")
        of_images = cells.iloc[row_N]
        task, found = class_columns(of_images.tolist(), sorted(of_images.unique()), positive=options.positive)
    else:
        if options.findings:
            columns = named(held[options.findings], path, split=lambda cell: cell.split(options.separator))
        else:
            fix = "add it to --values" if options.values else "say what it means with --values.'{}' 1 (or 0, -1, null)"
            columns = {k: marks(held, k, path, options.values or MARKS, fix=fix) for k in options.labels}
        found = {k: np.where(row_N >= 0, values[row_N], np.float32(np.nan)) for k, values in columns.items()}
    labels = {safe_name(k): values for k, values in found.items()}
    if len(labels) < len(found):
        raise UserError(
            f"{path}: two labels share one name once slashes and dots become _: {', '.join(found)}; rename one"
        )
    return task, labels


def only_table(root: Place, *, like: str = "table") -> Place:
    """The one table in `root`. Raises `UserError` where there is none, or several."""
    found = sorted(p for p in root.iterdir() if p.name.lower().endswith(KINDS) and not p.name.startswith("."))
    if len(found) != 1:
        which = f"{len(found)} tables ({', '.join(path.name for path in found[:5])})" if found else f"no {like}"
        raise UserError(f"{root.absolute()} holds {which}; say which with --table FILE")
    return found[0]
