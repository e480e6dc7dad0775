"""Ages, years and sex in a dataset's table, each cell read on its own. What cannot be read is refused with its row or counted."""
# N rows, D distinct cells

import re
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray.datasets.cells import BLANK, FIX, clean_codes
from cxr_ray.datasets.tables import TEXT, row_error
from cxr_ray.errors import quoted
from cxr_ray.storage.remote import AnyPath

Years = npt.NDArray[np.float64]
MAX_AGE = 120
"""Years. NIH's first release has ages up to 414."""
AGE = re.compile(r">?=?\s*(\d+(?:[.,]\d+)?)\s*([a-z]*)\.?\s*\+?", re.IGNORECASE)
PER_YEAR = {"": 1.0, "y": 1.0, "m": 12.0, "w": 365.25 / 7, "d": 365.25}
"""How many of a unit are a year; DICOM writes 058Y, 013M, 002W and 002D."""
UNITS = {
    "": "", "y": "y", "yr": "y", "yrs": "y", "year": "y", "years": "y", "yo": "y", "m": "m", "mo": "m", "month": "m",
    "months": "m", "w": "w", "wk": "w", "week": "w", "weeks": "w", "d": "d", "day": "d", "days": "d",
}  # fmt: skip
FIRST_YEAR, LAST_YEAR = 1850, 2100
DATE = re.compile(
    r"(\d{4})(?:\.0)?|(\d{4})(\d{2})(\d{2})(?:\.0)?|(\d{4})([-/.])\d{1,2}\6\d{1,2}(?:[T ].*)?|\d{1,2}([-/.])\d{1,2}\7(\d{4})"
)
"""A year, or a date as in DICOM, in ISO 8601, or with the year last."""
SEX_WORDS = {"m": "m", "male": "m", "f": "f", "female": "f"}


def parse_ages(table: pd.DataFrame, column: str, path: AnyPath) -> tuple[Years, list[str]]:
    """Ages in years [N] from 58, 58.5, 060Y, 3M (months), 12W, 20D or 90+, NaN if blank; and a note about ages that are unknown
    because they are over `MAX_AGE`. Raises `UserError` for the first cell that is no age."""
    years_N = _by_cell(table[column], path, _age, "an age such as 58, 058Y or 3M")
    return known_ages(years_N)


def known_ages(years_N: Years) -> tuple[Years, list[str]]:
    """The ages that are between 0 and `MAX_AGE`, NaN for others, and a note that counts those."""
    wrong_N = (years_N < 0) | (years_N > MAX_AGE)
    if not wrong_N.any():
        return years_N, []
    counted = (
        f"{int(wrong_N.sum()):,} of {len(years_N):,} ages are not between 0 and {MAX_AGE} years and count as unknown"
    )
    note = f"{counted}: row {int(np.argmax(wrong_N))} (counted from 0) is the first"
    return np.where(wrong_N, np.nan, years_N), [note]


def parse_years(table: pd.DataFrame, column: str, path: AnyPath) -> Years:
    """The year of each date [N], NaN if blank or without a date (00000000). Raises `UserError` for the first other cell."""
    return _by_cell(table[column], path, _year, "a year or a date such as 20140915 or 2014-09-15")


def parse_sex(column: "pd.Series[str]") -> "pd.Series[str]":
    """The sex as the table writes it; NaN if blank. Where a table mixes M, male and Male, all become the most frequent spelling."""
    cells_N = clean_codes(column)
    counts: dict[str, int] = {str(cell): int(n) for cell, n in cells_N.value_counts().items()}
    usual: dict[str, str] = {}  # meaning -> its most frequent spelling
    for cell, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])):
        usual.setdefault(_sex(cell), cell)
    return cells_N.map({cell: usual[_sex(cell)] for cell in counts}).astype(TEXT)


def _by_cell(
    column: "pd.Series[str]", path: AnyPath, parse: Callable[[str], float | None], expected: str
) -> npt.NDArray[np.float64]:
    """The number of each cell [N]; NaN if blank. `parse` gives None for a cell that it cannot read."""
    code_N, cells_D = pd.factorize(column.astype(TEXT), use_na_sentinel=False)
    value_D = np.full(len(cells_D), np.nan)
    for at, cell in enumerate(cells_D):
        words = "" if pd.isna(cell) else str(cell).strip()
        if words.casefold() in BLANK:
            continue
        value = parse(words)
        if value is None:
            problem = f"{quoted(column.name)} is {quoted(cell)}, not {expected}; {FIX}"
            raise row_error(path, int(np.argmax(code_N == at)), problem)
        value_D[at] = value
    return value_D[code_N]


def _age(cell: str) -> float | None:
    match = AGE.fullmatch(cell)
    unit = UNITS.get(match[2].casefold()) if match else None
    return None if match is None or unit is None else float(match[1].replace(",", ".")) / PER_YEAR[unit]


def _year(cell: str) -> float | None:
    match = DATE.fullmatch(cell)
    if match is None:
        return None
    year = float(next(group for group in match.groups() if group and len(group) == 4))
    return year if FIRST_YEAR <= year <= LAST_YEAR else np.nan


def _sex(cell: str) -> str:
    return SEX_WORDS.get(cell.casefold(), cell.casefold())
