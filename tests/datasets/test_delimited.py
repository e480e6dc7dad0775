"""Text tables as programs write them: encodings, delimiters, rows of other lengths than the header, and what is refused."""

import csv
import gzip
import io
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cxr_ray.datasets.delimited import DELIMITERS, TextForm, read_delimited

HEADER = ["image", "patient", "Höhe"]
words = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=8)
cells = st.one_of(words, st.sampled_from(["", "NA", '5" nail', "two\nlines", "a,b", "c;d", "1|2", "x\ty", "'", "007"]))
rows_of_cells = st.lists(st.lists(cells, min_size=3, max_size=3), min_size=1, max_size=12)
shared = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def text_of(rows: list[list[str]], delimiter: str, end: str = "\n") -> str:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_MINIMAL).writerows(rows)
    return out.getvalue()


def read(path: Path, body: bytes, form: TextForm | None = None) -> list[list[str]]:
    path.write_bytes(body)
    table = read_delimited(path, form)
    return [table.columns.tolist(), *table.to_numpy().tolist()]


def problem(path: Path, body: bytes, form: TextForm | None = None) -> str:
    path.write_bytes(body)
    with pytest.raises(ValueError) as caught:
        read_delimited(path, form)
    return str(caught.value)


@shared
@given(
    rows_of_cells,
    st.sampled_from(DELIMITERS),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
def test_every_cell_survives_with_the_delimiter_given(
    tmp_path: Path, rows: list[list[str]], delimiter: str, encoding: str, end: str, packed: bool
) -> None:
    body = text_of([HEADER, *rows], delimiter, end).encode(encoding)
    body = gzip.compress(body) if packed else body
    assert read(tmp_path / "a.csv", body, TextForm(delimiter)) == [HEADER, *rows]


plain = st.lists(st.lists(st.text("abcö 1.", max_size=6), min_size=3, max_size=3), min_size=1, max_size=12)


@shared
@given(
    plain,
    st.sampled_from(DELIMITERS),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_delimiters_and_encodings_are_recognised(
    tmp_path: Path, rows: list[list[str]], delimiter: str, encoding: str, end: str
) -> None:
    rows = [["a.png", *row[1:]] for row in rows]
    for name in ("a.csv", "a.tsv"):
        body = text_of([HEADER, *rows], delimiter, end).encode(encoding)
        assert read(tmp_path / name, body) == [HEADER, *rows]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("image,tags\na.png,Edema;Mass\nb.png,Mass\n", ["image", "tags"]),  # a list in a cell
        ("image;age\na.png;50,5\nb.png;61,0\n", ["image", "age"]),  # decimal commas
        ("image;note, old\na.png;x\nb.png;y, z, w\n", ["image", "note, old"]),
        ("image,a;b\nx,1;2\ny,3;4\n", ["image", "a;b"]),  # both are consistent: the comma is the standard
        ("sep=;\nimage;age\na.png;50\n", ["image", "age"]),  # Excel's own mark
        ('"sep=\t"\r\nimage\tage\r\na.png\t50\r\n', ["image", "age"]),
        ("image\na.png\n", ["image"]),
    ],
)
def test_other_delimiters_in_cells(tmp_path: Path, text: str, expected: list[str]) -> None:
    assert read(tmp_path / "a.csv", text.encode())[0] == expected


def test_a_given_delimiter_wins(tmp_path: Path) -> None:
    assert read(tmp_path / "a.csv", b"x,a;b\n1,2;3\n", TextForm(";")) == [["x,a", "b"], ["1,2", "3"]]


NIH = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
NAMES = ["Image Index", "Finding Label", "Bbox [x", "y", "w", "h]"]


@pytest.mark.parametrize("ends", [[""], [",,,"], ["", ",,,", ","], [",,", ""]])
def test_fields_without_a_name_and_content_do_not_count(tmp_path: Path, ends: list[str]) -> None:
    rows = [f"a{at}.png,Mass,1,2,3,4{end}" for at, end in enumerate(ends)]
    table = read(tmp_path / "a.csv", "\n".join([NIH, *rows]).encode())
    assert [name for name in table[0] if name] == NAMES
    assert [row[:6] for row in table[1:]] == [[f"a{at}.png", "Mass", "1", "2", "3", "4"] for at in range(len(ends))]


def test_a_header_may_lack_the_last_delimiter_of_its_rows(tmp_path: Path) -> None:
    assert read(tmp_path / "a.csv", b"x,y\n1,2,\n3,4\n") == [["x", "y"], ["1", "2"], ["3", "4"]]
    assert read(tmp_path / "a.csv", b"x,y,\n1,2\n3,4,5\n")[1:] == [["1", "2", ""], ["3", "4", "5"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y\n1,2\n3\n", "row 1 (counted from 0) has 1 fields, the header 2; it is cut off"),
        (
            "x,y\n1,2\n3,4,5\n",
            "row 1 (counted from 0) has 3 fields, the header 2; a cell that contains the delimiter must be in quotes",
        ),
        (
            "x;y\n1;2\n3;4;5\n",
            "row 1 (counted from 0) has 3 fields, the header 2; a cell that contains the delimiter must be in quotes",
        ),
        ("x\ty\n1\t2\n3\n", "row 1 (counted from 0) has 1 fields, the header 2; it is cut off"),
        ("", "it is empty"),
        ("\n\n", "it is empty"),
    ],
)
def test_rows_that_do_not_fit_are_named_without_their_cells(tmp_path: Path, text: str, message: str) -> None:
    assert problem(tmp_path / "a.csv", text.encode()) == message


@pytest.mark.parametrize(
    "text", ['x,y\n1,"Edema\n2,Mass\n3,Mass\n', 'x,y\n1,"a"b\n2,"c\n', 'x,y\n1,"Edema\n2,"Mass\n3,z\n']
)
def test_an_open_quote_hides_no_rows(tmp_path: Path, text: str) -> None:
    message = problem(tmp_path / "a.csv", text.encode())
    assert message.endswith('; a cell that contains " or the delimiter must be in quotes')
    assert message.startswith("row 0 (counted from 0): ")


def test_windows_1252_is_one_flag_away(tmp_path: Path) -> None:
    path, body = tmp_path / "a.csv", "image,Befund\na.png,Erguß\nb.png,Ödem\n".encode("cp1252")
    assert problem(path, body, TextForm()) == (
        "row 0 (counted from 0) is not UTF-8 text; give --encoding cp1252 if it contains 'Erguß', else the name of its encoding"
    )
    assert problem(path, body) == "row 0 (counted from 0) is not UTF-8 text; save the table as UTF-8"
    assert read(path, body, TextForm(encoding="cp1252"))[2] == ["b.png", "Ödem"]
    assert problem(path, "Höhe\n1\n".encode("cp1252"), TextForm()).startswith(
        "the header is not UTF-8 text; give --enc"
    )
    assert problem(path, body, TextForm(encoding="utf-16")).endswith("; give its encoding with --encoding")


@pytest.mark.parametrize("written", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_where_the_text_has_another_encoding_the_flag_is_to_be_left_out(tmp_path: Path, written: str) -> None:
    body = "image,Befund\na.png,Ödem\n".encode(written)
    assert re.fullmatch(
        r"it is not text in utf-8; it seems to be utf-(16|32)(-[lb]e)?: leave out --encoding",
        problem(tmp_path / "a.csv", body, TextForm(encoding="utf-8")),
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"PK\x03\x04rest", "it is a ZIP archive or an Excel workbook; unpack it, or save the sheet as CSV"),
        (b"x,y\n1,\x00\n", "it contains zero bytes, so it is not a text table; save it as CSV in UTF-8"),
        (b"\x1f\x8bcut", "the gzip archive is damaged"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, body: bytes, message: str) -> None:
    assert problem(tmp_path / "a.csv", body).startswith(message)


def test_an_empty_table_keeps_its_columns(tmp_path: Path) -> None:
    assert read(tmp_path / "a.csv", b"x,y\n") == [["x", "y"]]
