"""Records of a dataset: one row per image, without pixels. Each dataset's own layout is in the module of its source."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from cxr_ray.data.info import DatasetInfo
from cxr_ray.data.store_format import separate_labels
from cxr_ray.datasets.recognise import likely_source
from cxr_ray.datasets.tables import TEXT
from cxr_ray.errors import UserError, quoted, shortened, unknown
from cxr_ray.labels import LABEL_PREFIX, NEGATIVE, PARTS, POSITIVE, UNCERTAIN, label_column, safe_name
from cxr_ray.metrics.names import TAKEN_LABELS
from cxr_ray.registry import SOURCES
from cxr_ray.storage.names import readable
from cxr_ray.storage.remote import AnyPath, to_path

COLUMNS = ("image", "source_row", "patient", "study", "view", "sex", "age", "source", "mask", "split")
"""First columns of every records table, in this order. The source's own columns follow, then the labels."""
PART_NAMES = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validate": "val", "validation": "val",
    "dev": "val", "test": "test", "testing": "test",
}  # fmt: skip
"""Names of the parts in datasets, in lower case, to ours."""
ANY_LAYOUT = ("table", "dicom_folder")
"""Sources for folders of any layout: another source may know the dataset, and need not be meant."""
BOX_COLUMNS = ("row", "label", "x", "y", "w", "h")


@dataclass(frozen=True)
class Records:
    """A dataset before any policy is applied: its table, and what its source declares about it."""

    table: pd.DataFrame
    """`COLUMNS` (image: posix path below the root; source_row: row of the dataset's own table, counted from 0 without the
    header, or position in the sorted list of a folder's images; study: unique in the dataset; age: years; split: train,
    val, test or NaN), then columns of this source only, then one float32 column per label (`labels.label_column`): 1 positive,
    0 negative, -1 uncertain, NaN not mentioned. The index is a RangeIndex named `row`."""
    info: DatasetInfo
    """What the source declares about the dataset."""
    boxes: pd.DataFrame | None = None
    """`BOX_COLUMNS`, in pixels of the original image; None if the dataset has no boxes."""
    files: "pd.Series[str] | None" = None
    """Path of each image below the root (index of the table) if file names identify persons: `image` then contains hashes,
    and these paths are used for reading and never written to disk. None: `image` contains the paths."""
    source: str = ""
    """Name of the source that read them, set by `load`."""

    @property
    def paths(self) -> "pd.Series[str]":
        """Path of each image below the root, for reading."""
        return self.table["image"] if self.files is None else self.files


def load(name: str, root: str | os.PathLike[str] | AnyPath, options: Mapping[str, Any] | None = None) -> Records:
    """Read the dataset in the folder `root` (local or remote) with the source `name` and its `options`, and check it.

    Raises `UserError` for an unknown source or option, a missing root, or a layout that the source does not know."""
    entry = SOURCES[name]
    settings = entry.parse(dict(options or {}), where="options")
    folder = to_path(root)
    if not folder.exists():
        raise UserError(f"no folder at {folder.absolute()}; give the folder that holds the {name} dataset")
    if not folder.is_dir():
        raise UserError(f"{folder.absolute()} is a file; give the folder that holds the {name} dataset")
    try:
        records = entry.make(folder, settings)
    except UserError as error:
        likely = likely_source(folder)
        if likely in (None, name) or name in ANY_LAYOUT:
            raise
        raise UserError(f"{error}; the folder looks like the dataset of the source {likely}: use that one") from None
    except TypeError as error:
        if "Records.__init__()" not in str(error):
            raise
        raise UserError(
            f"the source {name} builds its Records as in 0.1.0 ({error}); write Records(table=..., info=DatasetInfo(labels=..., "
            "task=..., ...)), both from cxr_ray.datasets"
        ) from error
    return replace(check_records(records, folder, name), source=name)


def list_datasets() -> list[str]:
    """Names of the datasets that can be read: those of this package, and those that loaded plugins have registered."""
    return [entry.name for entry in SOURCES]


def read_dataset(name: str, root: str | os.PathLike[str], **options: Any) -> Records:
    """Read the tables of the dataset in the folder `root` with the source `name`; no pixel is read.

    `options` are the source's own, as `cxr-ray sources NAME` lists them. `Records.table` is a row per image; `ingest` takes the
    records. Raises `UserError` as `load` does."""
    return load(name, root, options)


def read(name: str, root: str | AnyPath, **options: Any) -> pd.DataFrame:
    """The table of `load(name, root, options)`; see `Records.table` for its columns."""
    return load(name, root, options).table


def records_table(columns: Mapping[str, Any], labels: Mapping[str, Any], *, rows: int) -> pd.DataFrame:
    """A table of `rows` rows with the columns and types of `Records.table`, the labels last. Columns of `COLUMNS` that are missing
    become NaN."""
    body: dict[str, Any] = {}
    for column in COLUMNS:
        values = columns.get(column)
        if column == "source_row":
            body[column] = np.asarray(np.arange(rows) if values is None else values, dtype=np.int64)
        elif column == "age":
            body[column] = np.full(rows, np.nan) if values is None else np.asarray(values, dtype=np.float64)
        elif isinstance(values, pd.Series):  # converting a million strings to objects and back would be slow
            body[column] = values.astype(TEXT).array
        else:
            objects = np.full(rows, np.nan, dtype=object) if values is None else np.asarray(values, dtype=object)
            try:
                body[column] = pd.array(objects, dtype=TEXT)
            except UnicodeEncodeError:  # names of files that are not UTF-8
                readable_objects = [readable(text) if isinstance(text, str) else text for text in objects]
                body[column] = pd.array(np.asarray(readable_objects, dtype=object), dtype=TEXT)
    body |= {column: values for column, values in columns.items() if column not in COLUMNS}
    for label, values in labels.items():
        body[LABEL_PREFIX + label if label in body else label] = np.asarray(values, dtype=np.float32)
    table = separate_labels(pd.DataFrame(body, index=pd.RangeIndex(rows)), list(labels))
    table.index.name = "row"
    return table


def check_records(records: Records, root: AnyPath, name: str) -> Records:
    """`records` with the index of `Records.table`. `name` is the source's. An error of the source's code fails an assertion.

    Raises `UserError` for an error in the dataset: no label or image, a wrong label value, or a wrong path."""
    labels = list(records.info.labels)
    table = separate_labels(records.table, labels)
    own = [label_column(label, table.columns) for label in labels]
    assert tuple(table.columns[: len(COLUMNS)]) == COLUMNS, f"{name}: columns {list(table.columns)}"
    assert list(table.columns[len(table.columns) - len(labels) :]) == own, (
        f"{name}: labels are the last columns, in order"
    )
    assert all(label == safe_name(label) for label in labels), f"{name}: labels are safe names"
    assert all((table[column].dtype == np.float32) for column in own), f"{name}: labels are float32"
    assert table.columns.is_unique, f"{name}: duplicate column"
    if not labels:
        raise UserError(
            f"{name}: no label column is left; see the options that select labels with `cxr-ray sources {name}`"
        )
    for label in labels:
        if label in TAKEN_LABELS:
            raise UserError(
                f"{name}: a label cannot be called {label!r}, which means several labels in settings and metrics, as do "
                f"{', '.join(each for each in TAKEN_LABELS if each != label)}; rename it in the dataset"
            )
    if records.files is None and table["image"].str.contains("\\", regex=False).any():  # a table of Windows
        table = table.assign(image=table["image"].str.replace("\\", "/", regex=False))
    if table.empty:
        raise UserError(f"{name}: the table in {root.absolute()} lists no image; give the folder of a complete dataset")
    _check_paths(table, root, name)
    for label, column in zip(labels, own, strict=True):
        values = table[column].to_numpy()
        good = np.isnan(values) | np.isin(values, (POSITIVE, NEGATIVE, UNCERTAIN))
        if not good.all():
            at = int(np.argmin(good))
            raise UserError(
                f"{name}: the label {quoted(label)} is {values[at]:g} in row {table['source_row'].iloc[at]} (counted from 0) of the "
                f"table in {root.absolute()} ({shortened(table['image'].iloc[at])}); correct it to 1 (positive), 0 (negative), "
                "-1 (uncertain) or blank"
            )
    parts = set(table["split"].dropna().unique()) - set(PARTS)
    assert not parts, f"{name}: split {parts}"
    boxes = records.boxes
    if boxes is not None:
        assert tuple(boxes.columns) == BOX_COLUMNS and boxes["row"].isin(range(len(table))).all(), f"{name}: boxes"
        extra = set(boxes["label"].unique()) - set(labels)
        if extra:
            raise unknown("label", sorted(extra)[0], labels, where=f" in the boxes of {name}")
    table = table.reset_index(drop=True)
    table.index.name = "row"
    return replace(records, table=table)


def _check_paths(table: pd.DataFrame, root: AnyPath, name: str) -> None:
    """Raises `UserError` unless every row has a path, paths are unique and stay below `root`. Symbolic links are checked only
    in the first folder of each path."""
    image, source_row = table["image"], table["source_row"]
    where = f"(counted from 0) of the table in {root.absolute()}"
    blank = image.isna() | (image == "")
    if blank.any():
        first = source_row.iloc[int(np.argmax(blank))]
        raise UserError(
            f"{name}: no image name in row {first} {where}; rows without one: {int(blank.sum())}; "
            "fill in the names, or delete the rows"
        )
    repeated = image.duplicated()
    if repeated.any():
        second = int(np.argmax(repeated))
        first = int(np.argmax(image == image.iloc[second]))
        raise UserError(
            f"{name}: {shortened(image.iloc[second])} is in row {source_row.iloc[first]} and again in row {source_row.iloc[second]} "
            f"{where}; repeated rows: {int(repeated.sum())}; keep one row per image"
        )
    paths = pa.array(image, from_pandas=True)
    outside = pc.match_substring_regex(paths, r"^/|(?:^|/)\.\.(?:/|$)|^[A-Za-z]:").to_numpy(zero_copy_only=False)
    if outside.any():
        at = int(np.argmax(outside))
        raise UserError(
            f"{name}: the path {quoted(image.iloc[at])} in row {source_row.iloc[at]} {where} leads out of that folder; "
            "give paths below it"
        )
    top = pc.unique(pc.struct_field(pc.extract_regex(paths, r"^(?P<top>[^/]*)"), "top")).to_pylist()
    if not isinstance(root, Path):
        return  # object stores have no links
    resolved = root.resolve()
    for folder in top if len(top) < 1000 else ():  # 1000 or more: a flat folder of images, each checked when it is read
        if (root / folder).is_symlink() and not (root / folder).resolve().is_relative_to(resolved):
            raise UserError(
                f"{name}: {shortened(PurePosixPath(folder))} is a link out of {root.absolute()}; "
                "replace it with a copy of its target, or give the folder that holds the target"
            )
