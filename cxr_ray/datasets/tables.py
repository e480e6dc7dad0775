"""Reading the tables of a dataset, and errors about them. Text files are read in delimited.py; what the cells mean is in cells.py."""
# N rows

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray.datasets.delimited import TEXT, TextForm, read_delimited
from cxr_ray.errors import UserError, closest, listed, quoted, shortened
from cxr_ray.storage.remote import AnyPath, local_copy

TABLE_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")


@contextmanager
def reading(path: AnyPath, *, what: str) -> Iterator[Path]:
    """A file of a dataset on the local disk. `what` describes it in errors.

    Raises `UserError` if the file does not exist, or if the body of the `with` cannot read it."""
    try:
        with local_copy(path) as file:
            yield file
    except FileNotFoundError:
        raise UserError(f"no file at {path.absolute()}; it should be {what}") from None
    except (OSError, ValueError, KeyError) as error:  # includes pyarrow's and pandas' errors, and invalid UTF-8
        reason = " ".join(str(error).split())
        raise UserError(
            f"cannot read {path} as {what}: {reason}; correct the file, or download it again if it is incomplete"
        ) from None


def read_csv(path: AnyPath, *, what: str) -> pd.DataFrame:
    """A CSV file with the types that pandas infers: for tables of a fixed layout. `read_text_table` infers nothing.

    Raises `UserError` as `reading` does."""
    with reading(path, what=what) as file:
        return pd.read_csv(file)


def read_text_table(path: AnyPath, *, what: str, form: TextForm | None = None) -> pd.DataFrame:
    """A CSV, TSV (either may be .gz) or Parquet file with every cell as text, an empty string if blank. `form` is what the user
    states about a text file; None: the caller has no such options.

    Types are not inferred: a patient may be called 007, a finding None or NA. A column without a name gets its position,
    such as (3). Blank rows at the end are no rows. Raises `UserError` if the file cannot be read, and for a duplicate column."""
    with reading(path, what=what) as file:
        table = _read_parquet(file) if file.suffix.lower() == ".parquet" else read_delimited(file, form)
    table.columns = pd.Index([str(column).strip() or f"({at})" for at, column in enumerate(table.columns)])
    if not table.columns.is_unique:
        duplicate = table.columns[table.columns.duplicated()][0]
        raise UserError(f"{path} has the column {quoted(duplicate)} twice; rename one of them")
    rows = len(table)
    while rows and (table.iloc[rows - 1].str.strip() == "").all():
        rows -= 1  # spreadsheets write delimiters for rows that were cleared
    return table.iloc[:rows]


def _read_parquet(path: Path) -> pd.DataFrame:
    # pandas stores integers as floats if one is blank; convert_dtypes makes them integers again.
    return pd.read_parquet(path).convert_dtypes().apply(lambda column: column.astype(TEXT).fillna(""))


def find_table(root: AnyPath, *, what: str = "table") -> AnyPath:
    """The only table in the folder `root`. Raises `UserError` if there is none, or several."""
    found = sorted(p for p in root.iterdir() if p.name.lower().endswith(TABLE_SUFFIXES) and not p.name.startswith("."))
    if len(found) != 1:
        content = f"{len(found)} tables ({listed([path.name for path in found])})" if found else f"no {what}"
        raise UserError(f"{root.absolute()} contains {content}; choose one with --table FILE")
    return found[0]


def require_columns(table: pd.DataFrame, wanted: Sequence[str], path: AnyPath) -> None:
    """Raises `UserError` for the first of the `wanted` columns that `table`, read from `path`, does not have; it suggests the
    closest column."""
    for column in wanted:
        if column not in table.columns:
            present = [str(c) for c in table.columns]
            hint = closest(column, present) or "."
            raise UserError(f"{path} has no column {quoted(column)}{hint} Its columns: {listed(present, most=30)}")


def first_column(table: pd.DataFrame, names: Sequence[str], path: AnyPath) -> str:
    """The first of `names` that is a column: releases differ in their headers. Raises `UserError` if none is."""
    present = [name for name in names if name in table.columns]
    require_columns(table, present[:1] or names[:1], path)
    return present[0]


def find_rows(
    keys: "pd.Series[str]", table_keys: "pd.Series[str]", path: AnyPath, *, what: str, fix: str = "delete one row"
) -> npt.NDArray[np.int64]:
    """Row of the table at `path` for each of `keys` [N]; -1 if the table does not have the key. `what` describes a key, `fix` how
    to fix a repeated one.

    Raises `UserError` for a key that is in the table twice."""
    index = pd.Index(table_keys)
    if not index.is_unique:
        second = int(np.argmax(index.duplicated()))
        first = int(np.argmax(index == index[second]))
        raise UserError(
            f"{path} lists the {what} {shortened(index[second])} twice, in rows {first} and {second} (counted from 0); {fix}"
        )
    return index.get_indexer(pd.Index(keys)).astype(np.int64)


def row_error(path: AnyPath, row: int, problem: str) -> UserError:
    """The error for one row of the table at `path`. Rows are counted from 0, without the header."""
    return UserError(f"{path}, row {row} (counted from 0): {problem}")
