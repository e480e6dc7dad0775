"""Records: one row an image and no pixels. What each dataset looks like on disk lives in its own file of this folder."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from cxr_ray.errors import UserError, closest, unknown
from cxr_ray.labels import NEGATIVE, PARTS, POSITIVE, UNCERTAIN, Filter, Task, safe_name
from cxr_ray.registry import SOURCES
from cxr_ray.storage.remote import Place, local, place

__all__ = [
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

COLUMNS = ("image", "source_row", "patient", "study", "view", "sex", "age", "source", "mask", "split")
"""What every records table starts with, in this order; a source's own columns follow, then the labels."""
PART_NAMES = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validate": "val", "validation": "val",
    "dev": "val", "test": "test", "testing": "test",
}  # fmt: skip
"""What datasets call the parts, in lower case."""
BOX_COLUMNS = ("row", "label", "x", "y", "w", "h")
UNREMARKABLE = {"normal", "no finding", "no findings", "nofinding", "nofindings", "negative", "healthy"}


@dataclass(frozen=True)
class Records:
    """What a dataset on disk says, before any policy: its table and what its source declares about it."""

    table: pd.DataFrame
    """`COLUMNS` (image: posix path below the root; source_row: 0-based line of the dataset's own table, or position in
    the sorted listing of a folder; study: a name unique in the dataset; age: years; split: train, val, test or NaN),
    then columns that this source alone has, then one float32 column a label: 1, 0, -1 (uncertain), NaN (not
    mentioned). The index is the RangeIndex called `row`."""
    labels: tuple[str, ...]
    task: Task
    groups: dict[str, tuple[str, ...]]
    """Names for sets of labels, such as competition5."""
    filters: tuple[Filter, ...]
    """The cleaning that the source recommends, applied in this order by the plan, never here."""
    default_labels: tuple[str, ...]
    """The labels that the recommended cleaning keeps."""
    features: tuple[str, ...]
    """Columns whose balance between the parts is watched, beside the labels."""
    notes: tuple[str, ...]
    """What every report about this dataset must say."""
    boxes: pd.DataFrame | None
    """`row, label, x, y, w, h`: pixels of the original image; None where the dataset has none."""
    files: "pd.Series[str] | None" = None
    """Where each image lies below the root (index as the table's), for sources whose file names tell who somebody is: `image`
    is then made of hashes, and this is read by and never written; None: `image` says it."""

    @property
    def places(self) -> "pd.Series[str]":
        """The path of each image below the root."""
        return self.table["image"] if self.files is None else self.files


def load(name: str, root: str | Place, options: Mapping[str, Any] | None = None) -> Records:
    """The records of the dataset at `root` (a folder, here or remote), read by the source `name` under its `options` and
    checked.

    Raises `UserError` for an unknown source or option, a missing root, or a layout that is not the source's."""
    entry = SOURCES[name]
    settings = entry.parse(dict(options or {}), where="options")
    folder = place(root)
    if not folder.exists():
        raise UserError(f"no folder at {folder.absolute()}; give the folder that holds the {name} dataset")
    if not folder.is_dir():
        raise UserError(f"{folder.absolute()} is a file; give the folder that holds the {name} dataset")
    return _checked(entry.make(folder, settings), folder, name)


def read(name: str, root: str | Place, **options: Any) -> pd.DataFrame:
    """The table of `load(name, root, options)` alone; see `Records.table` for its columns."""
    return load(name, root, options).table


def records_table(columns: Mapping[str, Any], labels: Mapping[str, Any], *, rows: int) -> pd.DataFrame:
    """A table of `rows` rows in the documented order and types; of `COLUMNS`, what `columns` leaves out is unknown (NaN)."""
    body: dict[str, Any] = {}
    for column in COLUMNS:
        held = columns.get(column)
        if column == "source_row":
            body[column] = np.asarray(np.arange(rows) if held is None else held, dtype=np.int64)
        elif column == "age":
            body[column] = np.full(rows, np.nan) if held is None else np.asarray(held, dtype=np.float64)
        elif isinstance(held, pd.Series):  # a million strings are not turned into objects and back
            body[column] = held.astype(pd.StringDtype(na_value=np.nan)).array
        else:
            values = np.full(rows, np.nan, dtype=object) if held is None else np.asarray(held, dtype=object)
            body[column] = pd.array(values, dtype=pd.StringDtype(na_value=np.nan))
    body |= {column: values for column, values in columns.items() if column not in COLUMNS}
    body |= {label: np.asarray(values, dtype=np.float32) for label, values in labels.items()}
    table = pd.DataFrame(body, index=pd.RangeIndex(rows))
    table.index.name = "row"
    return table


def class_columns(
    class_N: Sequence[str], classes: Sequence[str], *, positive: str | None = None
) -> tuple[Task, dict[str, np.ndarray]]:
    """The label columns [N] of images that each belong to one class.

    More than two classes: multiclass, one column a class, sorted. Two: binary, ONE column, named after `positive`, or
    else after the class that is not called normal, no finding(s), negative or healthy. Raises `UserError` where the
    names do not tell."""
    folded = {safe_name(c): c for c in classes}
    if len(folded) < len(classes):
        raise UserError(f"two classes share the name of one label: {', '.join(sorted(classes))}; rename one folder")
    if positive is not None and positive not in classes:
        raise unknown("class", positive, classes, where=" for --positive")
    if positive is not None and len(classes) > 2:
        raise UserError(
            f"--positive is for two classes; here are {len(classes)}: {', '.join(sorted(classes))}; leave it out"
        )
    task: Task = "multiclass"
    columns = sorted(folded)
    if len(classes) == 2:
        task = "binary"
        if positive is None:
            findings = [c for c in sorted(classes) if not is_unremarkable(c)]
            if len(findings) != 1:
                which = "neither" if findings else "each"
                raise UserError(
                    f"which class is the finding? {which} of {' and '.join(map(repr, sorted(classes)))} is called normal, "
                    "no finding, negative or healthy; say it with --positive NAME"
                )
            positive = findings[0]
        columns = [safe_name(positive)]
    names_N = np.asarray(class_N, dtype=object)
    return task, {c: np.where(names_N == folded[c], np.float32(POSITIVE), np.float32(NEGATIVE)) for c in columns}


@contextmanager
def reading(path: Place, *, like: str) -> Iterator[Path]:
    """A file of a dataset on this machine's disk. `like` says what it is in the error. Raises `UserError` where it is not there
    or what is read within cannot be."""
    try:
        with local(path) as file:
            yield file
    except FileNotFoundError:
        raise UserError(f"no file at {path.absolute()}; it should be {like}") from None
    except (OSError, ValueError, KeyError) as error:  # pyarrow's and pandas' errors are of these, and bad UTF-8
        raise UserError(
            f"cannot read {path} as {like}: {' '.join(str(error).split())}; is the download whole?"
        ) from None


def read_csv(path: Place, *, like: str) -> pd.DataFrame:
    """A CSV whose columns are what pandas makes of them: for tables of a fixed layout; `cells.read_text` guesses nothing.

    Raises `UserError` as `reading` does."""
    with reading(path, like=like) as file:
        return pd.read_csv(file)


def need_columns(table: pd.DataFrame, wanted: Sequence[str], path: Place) -> None:
    """Raises `UserError` for the first column that `table`, read from `path`, lacks; names the closest one it has."""
    for column in wanted:
        if column not in table.columns:
            present = [str(c) for c in table.columns]
            shown = ", ".join(present[:30]) + (", ..." if len(present) > 30 else "")
            raise UserError(f"{path} has no column {column!r}{closest(column, present) or '.'} Its columns: {shown}")


def is_unremarkable(name: str) -> bool:
    """Whether a label says that there is nothing to see: normal, no finding(s), negative, healthy."""
    return re.sub(r"[\s_.-]+", " ", name).strip().casefold() in UNREMARKABLE


def _checked(records: Records, root: Place, name: str) -> Records:
    """`records` with its index named; a source's own mistake is an assertion, the dataset's a `UserError`."""
    table = records.table
    labels = list(records.labels)
    assert tuple(table.columns[: len(COLUMNS)]) == COLUMNS, f"{name}: columns {list(table.columns)}"
    assert list(table.columns[len(table.columns) - len(labels) :]) == labels, f"{name}: labels stand last, in order"
    assert all(label == safe_name(label) for label in labels), f"{name}: labels go through safe_name"
    assert all((table[label].dtype == np.float32) for label in labels), f"{name}: labels are float32"
    assert table.columns.is_unique, f"{name}: a column is there twice"
    if not labels:
        raise UserError(f"{name}: the table names no label that is kept; see `cxr-ray sources {name}`")
    if table.empty:
        raise UserError(f"{name}: no image is listed in {root.absolute()}")
    _check_paths(table["image"], root, name)
    for label in labels:
        values = table[label].to_numpy()
        good = np.isnan(values) | np.isin(values, (POSITIVE, NEGATIVE, UNCERTAIN))
        if not good.all():
            at = int(np.argmin(good))
            raise UserError(
                f"{name}: {label!r} is {values[at]:g} at line {table['source_row'].iloc[at]} ({table['image'].iloc[at]}); "
                "a label is 1 (positive), 0 (negative), -1 (uncertain) or blank"
            )
    parts = set(table["split"].dropna().unique()) - set(PARTS)
    assert not parts, f"{name}: split {parts}"
    boxes = records.boxes
    if boxes is not None:
        assert tuple(boxes.columns) == BOX_COLUMNS and boxes["row"].isin(range(len(table))).all(), f"{name}: boxes"
        strange = set(boxes["label"].unique()) - set(labels)
        if strange:
            raise unknown("label", sorted(strange)[0], labels, where=f" in the boxes of {name}")
    table = table.reset_index(drop=True)
    table.index.name = "row"
    return replace(records, table=table)


def _check_paths(image: pd.Series, root: Place, name: str) -> None:
    """Paths are there, unique, and stay below `root`; of links, the first folder of each path is looked at."""
    blank = image.isna() | (image == "")
    if blank.any():
        raise UserError(
            f"{name}: {int(blank.sum())} rows name no image, the first is row {int(np.argmax(blank))}; mend the table"
        )
    doubled = image[image.duplicated()]
    if len(doubled):
        raise UserError(
            f"{name}: {doubled.iloc[0]} is listed twice ({len(doubled)} rows in all); drop the doubled rows"
        )
    paths = pa.array(image, from_pandas=True)
    leaves = pc.match_substring_regex(paths, r"^/|(?:^|[/\\])\.\.(?:[/\\]|$)|^[A-Za-z]:|\\").to_numpy(
        zero_copy_only=False
    )
    if leaves.any():
        raise UserError(
            f"{name}: {image.iloc[int(np.argmax(leaves))]!r} leaves {root.absolute()}; paths in the table must stay below it"
        )
    top = pc.unique(pc.struct_field(pc.extract_regex(paths, r"^(?P<top>[^/]*)"), "top")).to_pylist()
    if not isinstance(root, Path):
        return  # an object store has no links
    inside = root.resolve()
    for first in top if len(top) < 1000 else ():  # more: a flat folder of images, whose reader looks at each
        if (root / first).is_symlink() and not (root / first).resolve().is_relative_to(inside):
            raise UserError(
                f"{name}: {PurePosixPath(first)} is a link out of {root.absolute()}; copy its target there or give that folder"
            )
