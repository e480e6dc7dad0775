"""Text tables (CSV, TSV) as they are found: encoding, delimiter, and rows whose number of fields differs from the header's.

What is unambiguous is recognised; what is not is an error that names the option. tables.py chooses the reader by the file's name.
"""

import codecs
import csv
import gzip
import io
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv as arrow_csv

from cxr_ray.errors import quoted

TEXT = pd.StringDtype(na_value=float("nan"))
DELIMITERS = (",", ";", "\t", "|")
"""Recognised delimiters, the first that makes a table of several columns."""
SAMPLE = 1 << 16
"""Bytes or characters from which the encoding and the delimiter are recognised."""
MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}  # fmt: skip
"""Byte order marks and their encodings."""
SEP_LINE = re.compile(r'"?sep=(.)"?\r?\n')
"""First line by which Excel marks the delimiter."""


@dataclass(frozen=True)
class TextForm:
    """How a text table is written, as far as the user states it. None: recognised."""

    delimiter: str | None = None
    """One character."""
    encoding: str | None = None
    """A name that Python knows, such as cp1252."""


def read_delimited(path: Path, form: TextForm | None = None) -> pd.DataFrame:
    """A CSV or TSV file (either may be .gz) with every cell as text, an empty string if blank. `form` None: the caller has no
    options for it, and errors suggest none.

    UTF-8 and UTF-16 are recognised, and the delimiters `DELIMITERS`. Rows may have fewer or more fields than the header only where
    these have no name and no content. Raises `ValueError` with the problem and the row, counted from 0 without the header."""
    given = form or TextForm()
    body = _to_utf8(_read_bytes(path), given.encoding, suggest=form is not None)
    head = body[:SAMPLE].decode(errors="ignore")
    marked = SEP_LINE.match(head)
    if marked:
        body, head = body[len(marked[0].encode()) :], head[marked.end() :]
    preferred = "\t" if ".tsv" in path.name.lower() else ","
    delimiter = given.delimiter or (marked[1] if marked else recognise_delimiter(head, preferred))
    return _read(body, delimiter)


def recognise_encoding(body: bytes) -> str:
    """utf-8, or the encoding of the byte order mark, or UTF-16 without one, whose ASCII letters have every other byte 0.

    Raises `ValueError` for bytes that are no text."""
    for mark, encoding in MARKS.items():
        if body.startswith(mark):
            return encoding
    if body.startswith(b"PK\x03\x04"):
        raise ValueError("it is a ZIP archive or an Excel workbook; unpack it, or save the sheet as CSV")
    head = body[:SAMPLE]
    zeros = head.count(0)
    if not zeros:
        return "utf-8"
    for first, encoding in ((0, "utf-16-be"), (1, "utf-16-le")):
        if head[first::2].count(0) == zeros and zeros * 4 > len(head):
            return encoding
    raise ValueError("it contains zero bytes, so it is not a text table; save it as CSV in UTF-8")


def recognise_delimiter(head: str, preferred: str = ",") -> str:
    """The delimiter of a table with this beginning: the first, from `preferred` on, with several columns and as many fields in
    every complete record as in the header; else the first with several columns in the header, whose rows are ragged; else
    `preferred`."""
    ordered = [preferred, *(delimiter for delimiter in DELIMITERS if delimiter != preferred)]
    consistent = [d for d in ordered if _columns(head, d) > 1]
    in_header = [d for d in ordered if d in head.partition("\n")[0]]
    return [*consistent, *in_header, preferred][0]


def _columns(head: str, delimiter: str) -> int:
    """Number of fields of every complete record in `head`; 0 if they differ."""
    complete = head[: head.rfind("\n") + 1] or head
    try:
        records = [record for record in csv.reader(io.StringIO(complete, newline=""), delimiter=delimiter) if record]
    except csv.Error:
        return 0
    # The last record of a sample may end within quotes.
    sizes = {len(record) for record in (records[:-1] if len(complete) >= SAMPLE // 2 else records)}
    return sizes.pop() if len(sizes) == 1 else 0


def _read(body: bytes, delimiter: str) -> pd.DataFrame:
    """The table in UTF-8 text. pyarrow's reader is the fastest by far, but refuses ragged rows, and a quote that is not closed
    hides rows from it."""
    if _is_well_quoted(body, delimiter):
        parse = arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
        try:
            with arrow_csv.open_csv(pa.BufferReader(body), parse_options=parse) as head:
                names = head.schema.names
            types = dict.fromkeys(names, pa.large_string())
            convert = arrow_csv.ConvertOptions(column_types=types, strings_can_be_null=False)
            table = arrow_csv.read_csv(pa.BufferReader(body), parse_options=parse, convert_options=convert)
            return table.to_pandas(types_mapper=lambda _: TEXT)
        except pa.ArrowInvalid:
            pass  # the reader below accepts the table, or names the row
    return _read_ragged(body.decode(), delimiter)


def _is_well_quoted(body: bytes, delimiter: str) -> bool:
    """Whether every other quote opens a cell and the ones between close it. A quote within a cell without quotes is not."""
    if b'"' not in body:
        return True
    text = np.frombuffer(b"\n" + body.replace(b'""', b"") + b"\n", dtype=np.uint8)
    quotes = np.flatnonzero(text == ord('"'))
    ends = np.frombuffer(delimiter.encode() + b"\r\n", dtype=np.uint8)
    opening, closing = quotes[::2], quotes[1::2]
    matched = len(opening) == len(closing)
    return matched and bool(np.isin(text[opening - 1], ends).all() and np.isin(text[closing + 1], ends).all())


def _read_ragged(text: str, delimiter: str) -> pd.DataFrame:
    """As `_read`, record by record. Raises `ValueError` for a row that does not fit the header, and for an open quote."""
    records: list[list[str]] = []
    try:
        for record in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True):
            records += [record] if record else []  # an empty line is no row
    except csv.Error as error:
        where = f"row {len(records) - 1} (counted from 0)" if records else "the header"
        raise ValueError(f'{where}: {error}; a cell that contains " or the delimiter must be in quotes') from None
    if not records:
        raise ValueError("it is empty")
    header, *rows = records
    named = _used(header)
    for at, row in enumerate(rows):
        if len(row) < named or _used(row) > len(header):
            problem = "it is cut off" if len(row) < named else "a cell that contains the delimiter must be in quotes"
            raise ValueError(f"row {at} (counted from 0) has {len(row)} fields, the header {len(header)}; {problem}")
    width = max([named, *map(_used, rows)])
    body = [(row + [""] * width)[:width] for row in rows]
    columns = {at: pd.array([row[at] for row in body], dtype=TEXT) for at in range(width)}
    frame = pd.DataFrame(columns)
    frame.columns = pd.Index(header[:width])
    return frame


def _used(record: list[str]) -> int:
    """Fields of a record without the blank ones at its end."""
    return max((at + 1 for at, cell in enumerate(record) if cell.strip()), default=0)


def _read_bytes(path: Path) -> bytes:
    body = path.read_bytes()
    if not body.startswith(b"\x1f\x8b"):
        return body
    try:
        return gzip.decompress(body)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"the gzip archive is damaged ({error})") from None


def _to_utf8(body: bytes, given: str | None, *, suggest: bool) -> bytes:
    """UTF-8 text without a byte order mark, from the encoding `given`, or else the recognised one. `suggest`: errors name the option.

    Raises `ValueError` that names the row, and what its text is in Windows-1252, the usual encoding of old tables in Europe."""
    encoding = given or recognise_encoding(body)
    try:
        text = body.decode(encoding)
        return body if encoding == "utf-8" else text.removeprefix("\ufeff").encode()
    except UnicodeDecodeError as error:
        before = body[: error.start].count(b"\n")
        where = f"row {before - 1} (counted from 0)" if before else "the header"
        if given and (fitting := recognise_encoding(body)) not in ("utf-8", codecs.lookup(given).name):
            raise ValueError(f"it is not text in {encoding}; it seems to be {fitting}: leave out --encoding") from None
        if not encoding.startswith("utf-8"):
            raise ValueError(f"{where} is not text in {encoding}; give its encoding with --encoding") from None
        around = body[max(error.start - 30, 0) : error.start + 30].decode("cp1252", errors="replace")
        word = next(word for word in re.findall(r"[^\s,;|\"]+", around) if not word.isascii())
        fix = f"give --encoding cp1252 if it contains {quoted(word)}, else the name of its encoding"
        raise ValueError(f"{where} is not UTF-8 text; {fix if suggest else 'save the table as UTF-8'}") from None
