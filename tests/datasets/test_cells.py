"""Cells of tables against one Python call a cell."""

import gzip
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ray.datasets import cells, folders
from cxr_ray.errors import UserError
from tests.fakes.pictures import picture

PATH = Path("table.csv")


def column(values: list[str]) -> "pd.Series[str]":
    return pd.Series(values, dtype=cells.TEXT)


names = st.sampled_from(["Edema", "Mass", "No Finding", "None", "NA", "Lung Opacity"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(names, max_size=3), min_size=1, max_size=30), st.booleans())
def test_lists_of_findings_by_their_definition(rows: list[list[str]], spaced: bool) -> None:
    joined = [(" | " if spaced else "|").join(row) for row in rows]
    found = cells.named(column(joined), PATH, split=lambda cell: cell.split("|"))
    assert list(found) == sorted({name for row in rows for name in row})
    for name, values in found.items():
        slow = [np.nan if not row else float(name in row) for row in rows]
        np.testing.assert_array_equal(values, np.array(slow, np.float32))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["1", "1.0", "0", "-1", "", " ", "NA", "None", "nan", "TRUE", "false"]), min_size=1))
def test_marks_by_their_definition(rows: list[str]) -> None:
    slow = {"1": 1, "1.0": 1, "0": 0, "-1": -1, "TRUE": 1, "false": 0}
    found = cells.marks(pd.DataFrame({"A": column(rows)}), "A", PATH)
    np.testing.assert_array_equal(found, np.array([slow.get(cell, np.nan) for cell in rows], np.float32))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.floats(-1e6, 1e6).map(repr), st.sampled_from(["", "NA", " 7 "])), min_size=1))
def test_numbers_by_their_definition(rows: list[str]) -> None:
    found = cells.numbers(pd.DataFrame({"A": column(rows)}), "A", PATH)
    np.testing.assert_array_equal(found, [np.nan if cell.strip() in ("", "NA") else float(cell) for cell in rows])


def test_a_cell_that_is_no_number_is_named_with_its_row() -> None:
    with pytest.raises(UserError) as said:
        cells.numbers(pd.DataFrame({"Age": ["7", "", "seven"]}), "Age", PATH)
    assert str(said.value) == "table.csv: 'Age' is 'seven' at row 2, not a number; is the download whole?"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ab/1.", max_size=8), min_size=1))
def test_groups_of_a_pattern_by_their_definition(rows: list[str]) -> None:
    pattern = r"^(?P<head>a+)/(?P<tail>[0-9]*)"
    found = cells.matched(column(rows), pattern)
    for at, cell in enumerate(rows):
        hit = re.search(pattern, cell)
        assert found.loc[at].fillna("-").tolist() == (list(hit.groups()) if hit else ["-", "-"])


def test_rows_of_a_second_table() -> None:
    keys = column(["b", "a", "x", "b"])
    assert cells.rows_of(keys, column(["a", "b"]), PATH, like="study").tolist() == [1, 0, -1, 1]
    with pytest.raises(UserError, match=r"^table\.csv lists the study a twice; keep one row of it$"):
        cells.rows_of(keys, column(["a", "b", "a"]), PATH, like="study")


def test_parts_whatever_they_are_called() -> None:
    said = cells.parts(pd.Series([" Train", "VALID", "dev", "", "testing"], name="part"), PATH)
    assert said.fillna("-").tolist() == ["train", "val", "val", "-", "test"]
    with pytest.raises(UserError, match=r"^table\.csv: 'part' is 'held out' at row 0, none of train, training, val, "):
        cells.parts(pd.Series(["held out"], name="part"), PATH)


@pytest.mark.parametrize(
    ("url", "host"),
    [("https://www.sirm.org/x", "sirm.org"), ("kaggle.com/c", "kaggle.com"), ("", ""), ("http://[", "")],
)
def test_the_host_of_a_url(url: str, host: str) -> None:
    assert cells.host(url) == host


def test_text_is_read_as_it_stands(tmp_path: Path) -> None:
    for name, text in (("a.csv", "x,y\n007,NA\n,None\n"), ("a.tsv", "x\ty\n007\tNA\n\tNone\n")):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        table = cells.read_text(tmp_path / name, like="a table")
        assert table.columns.tolist() == ["x", "y"]
        assert table.to_numpy().tolist() == [["007", "NA"], ["", "None"]]
    (tmp_path / "notes.csv.gz").write_bytes(gzip.compress(b'x,y\r\n"two\r\nlines, one cell","say ""a"""\r\n'))
    table = cells.read_text(tmp_path / "notes.csv.gz", like="a table")
    assert table.to_numpy().tolist() == [["two\r\nlines, one cell", 'say "a"']]


@pytest.mark.parametrize(
    "body",
    [b"x\n\xff\xfe\n", b"x,y\n1,2,3\n", b"x,y\n1\n", b"", b"\x1f\x8bcut"],
    ids=["bytes", "long", "short", "empty", "gzip"],
)
def test_a_table_that_is_none_is_named(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / ("bad.csv.gz" if body[:2] == b"\x1f\x8b" else "bad.csv")
    path.write_bytes(body)
    with pytest.raises(UserError, match=r"^cannot read .*bad\.csv(\.gz)? as a table: .*; is the download whole\?$"):
        cells.read_text(path, like="a table")


def test_a_column_that_is_there_twice_is_named_and_blank_ones_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,,,y\n1,2,3,4\n")
    assert cells.read_text(path, like="a table").columns.tolist() == ["x", "(1)", "(2)", "y"]
    path.write_text("x,y,x\n1,2,3\n")
    with pytest.raises(UserError) as said:
        cells.read_text(path, like="a table")
    assert str(said.value) == f"{path} has the column 'x' twice; rename one of them"


def test_files_are_found_by_name_in_the_first_folder_that_has_them(tmp_path: Path) -> None:
    for path in ("b/deep/1.png", "a/1.png", "a/2.jpg", "c/3.png"):
        picture(tmp_path / path)
    assert folders.by_name(tmp_path, ["a", "b", "nowhere"]) == {"1.png": "a/1.png", "2.jpg": "a/2.jpg"}
    assert folders.by_name(tmp_path, ["b", "a"], stem=True) == {"1": "b/deep/1.png", "2": "a/2.jpg"}
    name = column(["1.png", "9.png", "", "/etc/x.png"])
    placed = folders.placed(name, folders.by_name(tmp_path, ["b"]), folders.below("images", name))
    assert placed.tolist() == ["b/deep/1.png", "images/9.png", "", "/etc/x.png"]
    assert folders.below(column(["x", "", "x", "x"]), name).tolist() == ["x/1.png", "9.png", "", "/etc/x.png"]


def test_the_later_of_two_files_is_taken(tmp_path: Path) -> None:
    for name in ("Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv", "._Data_Entry_2017_v3000.csv"):
        (tmp_path / name).write_text("x")
    assert folders.file_like(tmp_path, "*Data_Entry_2017*.csv").name == "Data_Entry_2017_v2020.csv"
