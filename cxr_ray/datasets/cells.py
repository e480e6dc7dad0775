"""Meaning of a table's cells, one column at a time. An unknown cell is an error that names its row. Files are read in tables.py."""
# N rows, D distinct cells, L labels

from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from cxr_ray.datasets.base import PART_NAMES
from cxr_ray.datasets.tables import TEXT, row_error
from cxr_ray.errors import UserError, closest, listed, quoted, shortened
from cxr_ray.storage.remote import AnyPath

Floats = npt.NDArray[np.float32]
BLANK = frozenset({"", "na", "n/a", "nan", "none", "null", "<na>"})
"""Cells of numbers and label values that mean "no value", in lower case. Columns of names have only the empty one."""
LABEL_VALUES: dict[str, float | None] = {"1": 1.0, "0": 0.0, "-1": -1.0, "true": 1.0, "false": 0.0}
"""Default meaning of a label's cell: 1 positive, 0 negative, -1 uncertain."""
OTHERS = "*"
"""In a map of label values: every cell that is neither in the map nor blank."""
MOST_FINDINGS = 1000
"""More are no findings but sentences. PadChest, the dataset with most, has 193."""
FIX = "correct the cell, or download the file again"


def clean_text(column: "pd.Series[str]") -> "pd.Series[str]":
    """Text without leading and trailing spaces; NaN if blank."""
    stripped = column.astype(TEXT).str.strip()
    return stripped.mask(stripped == "")


def clean_codes(column: "pd.Series[str]") -> "pd.Series[str]":
    """As `clean_text`, for columns of codes (view, sex), where `nan` and NA are blank too: exports write them so."""
    words = clean_text(column)
    return words.mask(words.str.casefold().isin(BLANK))


def extract_groups(column: "pd.Series[str]", pattern: str) -> pd.DataFrame:
    """A text column for each named group of `pattern` (RE2); NaN in cells that do not match."""
    found = pc.extract_regex(pa.array(column.astype(TEXT), from_pandas=True), pattern)
    names = [field.name for field in found.type]
    return pd.DataFrame({name: pd.array(pc.struct_field(found, name), dtype=TEXT) for name in names})


def parse_numbers(table: pd.DataFrame, column: str, path: AnyPath) -> npt.NDArray[np.float64]:
    """The numbers [N] of a column, NaN if blank. Raises `UserError` for the first cell that is neither."""
    values = table[column]
    if pd.api.types.is_numeric_dtype(values):
        return values.to_numpy(np.float64)
    code_N, cells_D = pd.factorize(
        values.astype(TEXT), use_na_sentinel=False
    )  # parsing distinct cells only is far faster
    words_D = pd.Series(cells_D, dtype=TEXT).str.strip()
    blank_D = (words_D.isna() | words_D.str.casefold().isin(BLANK)).to_numpy()
    number_D = pd.to_numeric(words_D.mask(blank_D), errors="coerce").to_numpy(np.float64)
    wrong_N = (~np.isfinite(number_D) & ~blank_D)[code_N]
    if wrong_N.any():
        at = int(np.argmax(wrong_N))
        raise row_error(path, at, f"{quoted(column)} is {quoted(values.iloc[at])}, not a number; {FIX}")
    return number_D[code_N]


def parse_labels(
    table: pd.DataFrame,
    column: str,
    path: AnyPath,
    values: Mapping[str, float | None] = LABEL_VALUES,
    *,
    fix: str = FIX,
) -> Floats:
    """1, 0, -1 or NaN for each cell [N], as `values` maps cells (in any case; None: not mentioned). `*` maps all other cells.

    1 and 1.0 are the same cell. A blank is not mentioned unless `values` maps it. Raises `UserError` for the first cell
    without a meaning; `fix`, with `{}` for the cell, is how to fix it."""
    meanings = {_normalized(name): value for name, value in values.items()}
    code_N, cells_D = pd.factorize(table[column].astype(TEXT), use_na_sentinel=False)
    value_D = np.full(len(cells_D), np.nan, dtype=np.float32)
    for at, cell in enumerate(cells_D):
        key = "" if pd.isna(cell) else _normalized(str(cell))
        if key in meanings:
            value = meanings[key]
            value_D[at] = np.nan if value is None else value
        elif key in BLANK:
            continue
        elif OTHERS in meanings:
            others = meanings[OTHERS]
            value_D[at] = np.nan if others is None else others
        else:
            known = f"known: {listed(meanings, most=20)} and blank"
            named = fix.format(shortened(cell))
            problem = f"{quoted(column)} is {quoted(cell)}, which is not a label value; {known}; {named}"
            raise row_error(path, int(np.argmax(code_N == at)), problem)
    return value_D[code_N]


def parse_findings(
    column: "pd.Series[str]",
    path: AnyPath,
    *,
    split: Callable[[str], Sequence[str]],
    known: Sequence[str] | None = None,
) -> dict[str, Floats]:
    """A column [N] for each finding: 1 if the cell's list contains it, 0 if the list contains only others, NaN if the cell is
    blank.

    `known` are all findings in their order; None: those that occur, sorted. `split` raises `ValueError` with the problem for
    a cell that is not a list. Raises `UserError` for such a cell, and for the first unknown finding."""
    code_N, cells_D = pd.factorize(clean_text(column), use_na_sentinel=False)
    names_D: list[list[str]] = []
    for at, cell in enumerate(cells_D):
        try:
            names_D.append([] if pd.isna(cell) else [name for name in map(str.strip, split(str(cell))) if name])
        except ValueError as error:
            problem = f"{quoted(column.name)} is {quoted(cell)}, {error}"
            raise row_error(path, int(np.argmax(code_N == at)), problem) from None
    order = sorted({n for names in names_D for n in names}) if known is None else list(known)
    if len(order) > MOST_FINDINGS:
        raise UserError(
            f"{path}: {quoted(column.name)} has {len(order):,} different findings ({listed(order)}), at most {MOST_FINDINGS:,}; "
            "is it the column of the lists, and is the separator right?"
        )
    position = {name: at for at, name in enumerate(order)}
    found_DL = np.zeros((len(cells_D), len(order)), dtype=np.float32)
    for at, names in enumerate(names_D):
        if not names:
            found_DL[at] = np.nan
        for name in names:
            if name not in position:
                hint = closest(name, order)
                known_names = listed(order, most=40)
                problem = (
                    f"unknown finding {quoted(name)} in {quoted(column.name)}{hint or ';'} known: {known_names}; {FIX}"
                )
                raise row_error(path, int(np.argmax(code_N == at)), problem)
            found_DL[at, position[name]] = 1.0
    return {name: found_DL[code_N, at] for name, at in position.items()}


def parse_parts(column: "pd.Series[str]", path: AnyPath) -> "pd.Series[str]":
    """train, val or test for each cell, from any of `PART_NAMES`; NaN if blank. Raises `UserError` for another name."""
    names = clean_codes(column)
    parts = names.str.casefold().map(PART_NAMES)
    wrong = (parts.isna() & names.notna()).to_numpy()
    if wrong.any():
        at = int(np.argmax(wrong))
        problem = (
            f"{quoted(column.name)} is {quoted(names.iloc[at])}, not one of {', '.join(PART_NAMES)}; correct the cell"
        )
        raise row_error(path, at, problem)
    return parts


def url_host(url: str) -> str:
    """The host of a URL, without www; an empty string if there is none."""
    words = url.strip()
    try:
        found = urlsplit(words if "//" in words else f"//{words}").hostname or ""
    except ValueError:
        return ""
    return found.removeprefix("www.")


def _normalized(cell: str) -> str:
    """`1`, `1.0` and ` 1 ` are the same cell."""
    return cell.strip().casefold().removesuffix(".0")
