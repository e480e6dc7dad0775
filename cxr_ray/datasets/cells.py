"""Cells of a dataset's table to values, a column at once. A cell that stands for nothing known is refused with its row."""
# N rows, D distinct cells, L labels

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from cxr_ray.datasets.base import PART_NAMES, need_columns, reading
from cxr_ray.errors import UserError, closest
from cxr_ray.storage.remote import Place

Floats = npt.NDArray[np.float32]
TEXT = pd.StringDtype(na_value=np.nan)
BLANK = frozenset({"", "na", "n/a", "nan", "none", "null", "<na>"})
"""What tables write for "no value", in lower case. It is read so in columns of numbers and of marks, never in names."""
MARKS: dict[str, float | None] = {"1": 1.0, "0": 0.0, "-1": -1.0, "true": 1.0, "false": 0.0}
"""What a mark says where nobody says otherwise: positive, negative, uncertain."""


def read_text(path: Place, *, like: str) -> pd.DataFrame:
    """A CSV, TSV (either may be .gz) or Parquet with every cell as the text that stands there, blank where there is none.

    Nothing is guessed: a patient may be called 007, a finding None or NA. Raises `UserError` where it cannot be read, and for
    a column that is there twice."""
    with reading(path, like=like) as file:
        table = _parquet(file) if file.suffix.lower() == ".parquet" else _csv(file)
    table.columns = pd.Index([str(column).strip() or f"({at})" for at, column in enumerate(table.columns)])
    if not table.columns.is_unique:
        twice = table.columns[table.columns.duplicated()][0]
        raise UserError(f"{path} has the column {twice!r} twice; rename one of them")
    return table


def _csv(path: Path) -> pd.DataFrame:
    """pyarrow's reader: it takes a byte order mark and both line ends, refuses ragged rows, and is the fastest by far."""
    parse = csv.ParseOptions(delimiter="\t" if ".tsv" in path.name.lower() else ",", newlines_in_values=True)
    with csv.open_csv(path, parse_options=parse) as head:
        names = head.schema.names
    convert = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.large_string()), strings_can_be_null=False)
    return csv.read_csv(path, parse_options=parse, convert_options=convert).to_pandas(types_mapper=lambda _: TEXT)


def _parquet(path: Path) -> pd.DataFrame:
    # Whole numbers that pandas holds as floats, for a blank among them, are written as whole numbers.
    return pd.read_parquet(path).convert_dtypes().apply(lambda column: column.astype(TEXT).fillna(""))


def text(column: "pd.Series[str]") -> "pd.Series[str]":
    """Text without the spaces around it; NaN where blank."""
    stripped = column.astype(TEXT).str.strip()
    return stripped.mask(stripped == "")


def matched(column: "pd.Series[str]", pattern: str) -> pd.DataFrame:
    """The named groups of `pattern` (RE2) in each cell, a text column each; NaN where the cell does not match."""
    found = pc.extract_regex(pa.array(column.astype(TEXT), from_pandas=True), pattern)
    names = [field.name for field in found.type]
    return pd.DataFrame({name: pd.array(pc.struct_field(found, name), dtype=TEXT) for name in names})


def numbers(table: pd.DataFrame, column: str, path: Place) -> npt.NDArray[np.float64]:
    """The numbers [N] of a column, NaN where blank. Raises `UserError` for the first cell that is neither."""
    held = table[column]
    if pd.api.types.is_numeric_dtype(held):
        return held.to_numpy(np.float64)
    words = held.astype(TEXT).str.strip()
    blank = words.isna() | words.str.casefold().isin(BLANK)
    values = pd.to_numeric(words.mask(blank), errors="coerce")
    wrong = values.isna() & ~blank
    if wrong.any():
        at = int(np.argmax(wrong.to_numpy()))
        raise UserError(f"{path}: {column!r} is {held.iloc[at]!r} at row {at}, not a number; is the download whole?")
    return values.to_numpy(np.float64)


def marks(
    table: pd.DataFrame,
    column: str,
    path: Place,
    values: Mapping[str, float | None] = MARKS,
    *,
    fix: str = "is the download whole?",
) -> Floats:
    """1, 0, -1 or NaN for each cell [N], as `values` says (its names without case; None: not mentioned).

    1 and 1.0 are the same mark, and a blank is not mentioned where `values` says nothing of it. Raises `UserError` for
    the first cell that means nothing."""
    meant = {_mark(name): value for name, value in values.items()}
    code_N, cells_D = pd.factorize(table[column].astype(TEXT), use_na_sentinel=False)
    value_D = np.full(len(cells_D), np.nan, dtype=np.float32)
    for at, cell in enumerate(cells_D):
        mark = "" if pd.isna(cell) else _mark(str(cell))
        if mark in meant:
            found = meant[mark]
            value_D[at] = np.nan if found is None else found
        elif mark not in BLANK:
            row = int(np.argmax(code_N == at))
            raise UserError(
                f"{path}: {column!r} is {cell!r} at row {row}, which is no label value; known: {', '.join(meant)} and blank; "
                + fix.format(cell)
            )
    return value_D[code_N]


def named(
    column: "pd.Series[str]",
    path: Place,
    *,
    split: Callable[[str], Sequence[str]],
    known: Sequence[str] | None = None,
) -> dict[str, Floats]:
    """A column a name [N]: 1 where the cell's list holds it, 0 where the list is of others, NaN where the cell is blank.

    `known` are the names there are, in their order; without it, all that occur, sorted. `split` raises `ValueError`, with
    what is wrong, for a cell that is no list. Raises `UserError` for such a cell, and for the first name that is not known."""
    code_N, cells_D = pd.factorize(text(column), use_na_sentinel=False)
    names_D: list[list[str]] = []
    for at, cell in enumerate(cells_D):
        try:
            names_D.append([] if pd.isna(cell) else [name for name in map(str.strip, split(str(cell))) if name])
        except ValueError as error:
            row = int(np.argmax(code_N == at))
            raise UserError(f"{path}: {column.name!r} is {str(cell)[:60]!r} at row {row}, {error}") from None
    order = sorted({n for names in names_D for n in names}) if known is None else list(known)
    place = {name: at for at, name in enumerate(order)}
    held_DL = np.zeros((len(cells_D), len(order)), dtype=np.float32)
    for at, names in enumerate(names_D):
        if not names:
            held_DL[at] = np.nan
        for name in names:
            if name not in place:
                row = int(np.argmax(code_N == at))
                hint = closest(name, order)
                raise UserError(f"{path}: unknown finding {name!r} at row {row}{hint or ';'} known: {', '.join(order)}")
            held_DL[at, place[name]] = 1.0
    return {name: held_DL[code_N, at] for name, at in place.items()}


def parts(column: "pd.Series[str]", path: Place) -> "pd.Series[str]":
    """train, val or test for each cell, whatever the dataset calls them; NaN where blank. Raises `UserError` for others."""
    said = text(column)
    part = said.str.casefold().map(PART_NAMES)
    odd = (part.isna() & said.notna()).to_numpy()
    if odd.any():
        at = int(np.argmax(odd))
        raise UserError(f"{path}: {column.name!r} is {said.iloc[at]!r} at row {at}, none of {', '.join(PART_NAMES)}")
    return part


def rows_of(keys: "pd.Series[str]", table_keys: "pd.Series[str]", path: Place, *, like: str) -> npt.NDArray[np.int64]:
    """Row of a table, read from `path`, for each of `keys` [N]; -1 where it has none. `like` says what a key names.

    Raises `UserError` for a key that the table has twice."""
    index = pd.Index(table_keys)
    if not index.is_unique:
        raise UserError(f"{path} lists the {like} {index[index.duplicated()][0]} twice; keep one row of it")
    return index.get_indexer(pd.Index(keys)).astype(np.int64)


def either(table: pd.DataFrame, names: Sequence[str], path: Place) -> str:
    """The first of `names` that is a column: headers drift between releases. Raises `UserError` where none is."""
    here = [name for name in names if name in table.columns]
    need_columns(table, here[:1] or names[:1], path)
    return here[0]


def host(url: str) -> str:
    """Where a picture was found: the host of its URL, without www; blank where there is none."""
    words = url.strip()
    try:
        found = urlsplit(words if "//" in words else f"//{words}").hostname or ""
    except ValueError:
        return ""
    return found.removeprefix("www.")


def _mark(cell: str) -> str:
    """`1`, `1.0` and ` 1 ` are one mark."""
    word = cell.strip().casefold()
    return word.removesuffix(".0")
