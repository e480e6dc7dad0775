"""Tables in every file format, and how their errors name the file, the column and the row."""

import gzip
from pathlib import Path

import pandas as pd
import pytest

from cxr_ray.datasets import tables
from cxr_ray.errors import UserError

PATH = Path("table.csv")


def column(values: list[str]) -> "pd.Series[str]":
    return pd.Series(values, dtype=tables.TEXT)


def test_rows_of_a_second_table() -> None:
    keys = column(["b", "a", "x", "b"])
    assert tables.find_rows(keys, column(["a", "b"]), PATH, what="study").tolist() == [1, 0, -1, 1]
    with pytest.raises(
        UserError, match=r"^table\.csv lists the study a twice, in rows 0 and 2 \(counted from 0\); delete one row$"
    ):
        tables.find_rows(keys, column(["a", "b", "a"]), PATH, what="study")


def test_cells_are_read_as_text(tmp_path: Path) -> None:
    for name, text in (("a.csv", "x,y\n007,NA\n,None\n"), ("a.tsv", "x\ty\n007\tNA\n\tNone\n")):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        table = tables.read_text_table(tmp_path / name, what="a table")
        assert table.columns.tolist() == ["x", "y"]
        assert table.to_numpy().tolist() == [["007", "NA"], ["", "None"]]
    (tmp_path / "notes.csv.gz").write_bytes(gzip.compress(b'x,y\r\n"two\r\nlines, one cell","say ""a"""\r\n'))
    table = tables.read_text_table(tmp_path / "notes.csv.gz", what="a table")
    assert table.to_numpy().tolist() == [["two\r\nlines, one cell", 'say "a"']]


@pytest.mark.parametrize(
    "body",
    [b"x\n\xff\xfe\n", b"x,y\n1,2,3\n", b"x,y\n1\n", b"", b"\x1f\x8bcut"],
    ids=["bytes", "long", "short", "empty", "gzip"],
)
def test_an_unreadable_table_is_named(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / ("bad.csv.gz" if body[:2] == b"\x1f\x8b" else "bad.csv")
    path.write_bytes(body)
    with pytest.raises(
        UserError,
        match=r"^cannot read .*bad\.csv(\.gz)? as a table: .*; correct the file, or download it again if it is incomplete$",
    ):
        tables.read_text_table(path, what="a table")


def test_a_duplicate_column_is_named_and_unnamed_columns_are_numbered(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,,,y\n1,2,3,4\n")
    assert tables.read_text_table(path, what="a table").columns.tolist() == ["x", "(1)", "(2)", "y"]
    path.write_text("x,y,x\n1,2,3\n")
    with pytest.raises(UserError) as caught:
        tables.read_text_table(path, what="a table")
    assert str(caught.value) == f"{path} has the column 'x' twice; rename one of them"


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_blank_rows_at_the_end_are_no_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    frame = pd.DataFrame({"x": ["1", "", "2", "", " "], "y": ["a", "", "b", "", ""]})
    frame.to_parquet(path) if name.endswith("parquet") else frame.to_csv(path, index=False, sep=";")
    assert tables.read_text_table(path, what="a table").to_numpy().tolist() == [["1", "a"], ["", ""], ["2", "b"]]
