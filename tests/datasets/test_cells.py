"""Columns of cells, compared with one Python call per cell."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ray.datasets import cells
from cxr_ray.datasets.tables import TEXT
from cxr_ray.errors import UserError

PATH = Path("table.csv")


def column(values: list[str]) -> "pd.Series[str]":
    return pd.Series(values, dtype=TEXT)


names = st.sampled_from(["Edema", "Mass", "No Finding", "None", "NA", "Lung Opacity"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(names, max_size=3), min_size=1, max_size=30), st.booleans())
def test_findings_match_their_definition(rows: list[list[str]], spaced: bool) -> None:
    joined = [(" | " if spaced else "|").join(row) for row in rows]
    found = cells.parse_findings(column(joined), PATH, split=lambda cell: cell.split("|"))
    assert list(found) == sorted({name for row in rows for name in row})
    for name, values in found.items():
        expected = [np.nan if not row else float(name in row) for row in rows]
        np.testing.assert_array_equal(values, np.array(expected, np.float32))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["1", "1.0", "0", "-1", "", " ", "NA", "None", "nan", "TRUE", "false"]), min_size=1))
def test_labels_match_their_definition(rows: list[str]) -> None:
    meaning = {"1": 1, "1.0": 1, "0": 0, "-1": -1, "TRUE": 1, "false": 0}
    found = cells.parse_labels(pd.DataFrame({"A": column(rows)}), "A", PATH)
    np.testing.assert_array_equal(found, np.array([meaning.get(cell, np.nan) for cell in rows], np.float32))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.floats(-1e6, 1e6).map(repr), st.sampled_from(["", "NA", " 7 "])), min_size=1))
def test_numbers_match_their_definition(rows: list[str]) -> None:
    found = cells.parse_numbers(pd.DataFrame({"A": column(rows)}), "A", PATH)
    np.testing.assert_array_equal(found, [np.nan if cell.strip() in ("", "NA") else float(cell) for cell in rows])


def test_a_cell_that_is_not_a_number_is_named_with_its_row() -> None:
    with pytest.raises(UserError) as caught:
        cells.parse_numbers(pd.DataFrame({"Age": ["7", "", "seven"]}), "Age", PATH)
    assert str(caught.value) == (
        "table.csv, row 2 (counted from 0): 'Age' is 'seven', not a number; correct the cell, or download the file again"
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ab/1.", max_size=8), min_size=1))
def test_groups_of_a_pattern_match_re(rows: list[str]) -> None:
    pattern = r"^(?P<head>a+)/(?P<tail>[0-9]*)"
    found = cells.extract_groups(column(rows), pattern)
    for at, cell in enumerate(rows):
        match = re.search(pattern, cell)
        assert found.fillna("-").iloc[at].tolist() == (list(match.groups()) if match else ["-", "-"])


def test_parts_have_many_names() -> None:
    found = cells.parse_parts(pd.Series([" Train", "VALID", "dev", "", "testing"], name="part"), PATH)
    assert found.fillna("-").tolist() == ["train", "val", "val", "-", "test"]
    with pytest.raises(
        UserError,
        match=r"^table\.csv, row 0 \(counted from 0\): 'part' is 'held out', not one of train, training, val, .*; correct the cell$",
    ):
        cells.parse_parts(pd.Series(["held out"], name="part"), PATH)


@pytest.mark.parametrize(
    ("url", "host"),
    [("https://www.sirm.org/x", "sirm.org"), ("kaggle.com/c", "kaggle.com"), ("", ""), ("http://[", "")],
)
def test_host_of_a_url(url: str, host: str) -> None:
    assert cells.url_host(url) == host
