"""Ages, dates and sex in mixed columns: each cell by its own form, compared with the value it was written from."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ray.datasets.persons import parse_ages, parse_sex, parse_years
from cxr_ray.datasets.tables import TEXT
from cxr_ray.errors import UserError

PATH = Path("table.csv")
number = st.integers(0, 120)
forms = st.one_of(
    number.map(lambda n: (str(n), float(n))),
    number.map(lambda n: (f"{n:03}Y", float(n))),
    number.map(lambda n: (f" {n}.0 ", float(n))),
    number.map(lambda n: (f"{n},5" if n < 120 else "120", n + 0.5 if n < 120 else 120.0)),
    number.map(lambda n: (f"{n} years", float(n))),
    number.map(lambda n: (f"{n:03}M", n / 12)),
    number.map(lambda n: (f"{n}w", n * 7 / 365.25)),
    number.map(lambda n: (f"{n:03}D", n / 365.25)),
    st.sampled_from([("90+", 90.0), (">89", 89.0), ("", np.nan), ("nan", np.nan), ("NA", np.nan), (" ", np.nan)]),
)


def column(cells: list[str], name: str = "Age") -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(cells, dtype=TEXT)})


@settings(max_examples=60, deadline=None)
@given(st.lists(forms, min_size=1, max_size=20))
def test_every_age_of_a_mixed_column_is_read(ages: list[tuple[str, float]]) -> None:
    found, notes = parse_ages(column([cell for cell, _ in ages]), "Age", PATH)
    np.testing.assert_allclose(found, [age for _, age in ages], rtol=1e-12)
    assert notes == []


@pytest.mark.parametrize("cell", ["sixty", "60 kg", "-5", "5/12", "1e2", "inf", "0x10", "60Y3M", "x" * 500])
def test_a_cell_that_is_no_age_is_named_with_its_row(cell: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_ages(column(["58", "060Y", cell]), "Age", PATH)
    message = str(caught.value)
    assert message.startswith(f"table.csv, row 2 (counted from 0): 'Age' is {cell[:70]!r}"[:100])
    assert "not an age such as 58, 058Y or 3M; correct the cell" in message and len(message) < 250


def test_impossible_ages_are_unknown_and_counted() -> None:
    found, notes = parse_ages(column(["58", "414", "060Y", "999Y", ""]), "Age", PATH)
    np.testing.assert_array_equal(found, [58, np.nan, 60, np.nan, np.nan])
    assert notes == [
        "2 of 5 ages are not between 0 and 120 years and count as unknown: row 1 (counted from 0) is the first"
    ]


def test_numbers_of_another_reader_are_read_too() -> None:
    found, _ = parse_ages(pd.DataFrame({"Age": [58.0, np.nan, 3.0]}), "Age", PATH)
    np.testing.assert_array_equal(found, [58, np.nan, 3])


year = st.integers(1850, 2100)
dates = st.one_of(
    year.map(lambda y: (str(y), y)),
    year.map(lambda y: (f"{y}.0", y)),
    year.map(lambda y: (f"{y}0915", y)),
    year.map(lambda y: (f"{y}0915.0", y)),
    year.map(lambda y: (f"{y}-09-15", y)),
    year.map(lambda y: (f"{y}/9/5", y)),
    year.map(lambda y: (f"{y}-09-15 10:11:12", y)),
    year.map(lambda y: (f"15.09.{y}", y)),
    year.map(lambda y: (f"9/15/{y}", y)),
    st.sampled_from([("", np.nan), ("nan", np.nan), ("00000000", np.nan)]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(dates, min_size=1, max_size=20))
def test_every_date_of_a_mixed_column_is_read(cells: list[tuple[str, float]]) -> None:
    found = parse_years(column([cell for cell, _ in cells], "Date"), "Date", PATH)
    np.testing.assert_array_equal(found, [value for _, value in cells])


@pytest.mark.parametrize("cell", ["yesterday", "15.09.14", "2014-09", "201409", "2014-09/15"])
def test_a_cell_that_is_no_date_is_named_with_its_row(cell: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_years(column(["20140915", cell], "Date"), "Date", PATH)
    assert str(caught.value) == (
        f"table.csv, row 1 (counted from 0): 'Date' is {cell!r}, not a year or a date such as 20140915 or 2014-09-15; correct the "
        "cell, or download the file again"
    )


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["M", "F", "O", "nan", ""], ["M", "F", "O", None, None]),  # PadChest
        (["Male", "Female", "Unknown"], ["Male", "Female", "Unknown"]),  # CheXpert
        (["M", "male", "M", " m ", "Female", "F", "F"], ["M", "M", "M", "M", "F", "F", "F"]),
        (["male", "female", "male", "M"], ["male", "female", "male", "male"]),
        (["1", "2", "1.0"], ["1", "2", "1.0"]),  # codes without a known meaning stay
    ],
)
def test_sex_has_one_spelling(cells: list[str], expected: list[str | None]) -> None:
    found = parse_sex(pd.Series(cells, dtype=TEXT))
    assert [None if pd.isna(cell) else cell for cell in found] == expected
