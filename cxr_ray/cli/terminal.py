"""Tables and lists that commands print, on a terminal or as plain text in a log."""

import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

LOG_WIDTH = 160
"""Columns of a log, which has no width of its own."""
LONGEST_LINE, LONGEST_WORD = 24, 32
"""A longer cell may have several lines, and a longer word, such as a path, may be broken: no terminal has room for them."""
NAMED = 5
"""Labels that a merged note names."""
NUMBER = re.compile(r"\d+(?:\.\d+)?")


def table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None, first_out: Sequence[str] = ()
) -> None:
    """Print a table as wide as the terminal, then one line that names the columns without room.

    Numeric columns are right-aligned. Cells are plain text, never markup. See `fit` for `first_out`."""
    shown, printed = fit(columns, rows, title=title, first_out=first_out)
    console().print(printed)
    if missing := [" ".join(name.split()) for name in columns if name.strip() and name not in shown]:
        print(f"no room at {console().width} columns for: {', '.join(missing)}")


def fit(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None, first_out: Sequence[str] = ()
) -> "tuple[list[str], Table]":
    """(columns, table): the columns that have room, and the table of these. No number and no word is broken, and short cells have one line.

    Without room, columns are left out: those in `first_out` in this order, then from the right, but never the first column. One that has
    room after all, because a wider one was left out after it, is shown."""
    names = list(columns)
    cells = [[_text(cell) for cell in row] for row in rows]
    least = {name: _least(name, [row[index] for row in cells]) for index, name in enumerate(names)}
    order = [name for name in first_out if name in names]
    order += [name for name in reversed(names[1:]) if name not in order]
    width, out = console().width, list[str]()
    while len(out) < len(order) and _width([least[name] for name in names if name not in out]) > width:
        out.append(order[len(out)])
    for name in reversed(out.copy()):
        others = [one for one in out if one != name]
        if _width([least[one] for one in names if one not in others]) <= width:
            out = others
    shown = [name for name in names if name not in out]
    kept = [names.index(name) for name in shown]
    return shown, _build(shown, [[row[index] for index in kept] for row in cells], title)


def _least(name: str, cells: Sequence[str]) -> int:
    """The width of a column in which no number, no word and no short line is broken."""
    lines = [line for text in cells for line in text.split("\n")]
    whole = [line for line in lines if len(line) <= LONGEST_LINE]
    words = [word for text in (name, *lines) for word in text.split()]
    return max((min(len(text), LONGEST_WORD) for text in (*whole, *words)), default=1)


def _width(columns: Sequence[int]) -> int:
    """The width of a table: between two columns are a space on each side and the line, and one space is at each edge."""
    return sum(columns) + 3 * (len(columns) - 1) + 2


def _build(columns: Sequence[str], cells: Sequence[Sequence[str]], title: str | None) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    built = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(columns):
        column = [row[index] for row in cells]
        numeric = bool(cells) and all(_is_number(cell) for cell in column)
        least = _least(name, column)
        built.add_column(Text(name), justify="right" if numeric else "left", overflow="fold", min_width=least)
    for row in cells:
        built.add_row(*(Text(cell) for cell in row))
    return built


def bullets(title: str, lines: Sequence[str]) -> None:
    """Print a heading and one indented line per bullet, without Markdown marks; `none` if there are no bullets."""
    print(f"{title}:" if lines else f"{title}: none")
    for line in lines:
        print("  " + line.removeprefix("- ").replace("`", ""))


def merge_notes(notes: Mapping[str, str]) -> list[str]:
    """One line per text of `notes`, label -> text: texts that differ only in their numbers become one, with ranges of these numbers.

    `{"a": "too few (3)", "b": "too few (5)"}` is `["a, b: too few (3 to 5)"]`. More than `NAMED` labels are counted."""
    grouped: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for label, text in notes.items():
        words, numbers = NUMBER.split(text), NUMBER.findall(text)
        grouped.setdefault(tuple(words), {})[label] = numbers
    lines = []
    for between, by_label in grouped.items():
        columns = [sorted(set(column), key=float) for column in zip(*by_label.values(), strict=True)]
        ranges = [column[0] if len(column) == 1 else f"{column[0]} to {column[-1]}" for column in columns]
        names, rest = list(by_label)[:NAMED], len(by_label) - NAMED
        text = "".join(word + number for word, number in zip(between, [*ranges, ""], strict=True))
        lines.append(f"{', '.join(names)}{f' and {rest} more' if rest > 0 else ''}: {text}")
    return lines


def console() -> "Console":
    """A console as wide as the terminal; 160 columns in a log."""
    from rich.console import Console

    options: dict[str, Any] = {} if sys.stdout.isatty() or "COLUMNS" in os.environ else {"width": LOG_WIDTH}
    return Console(highlight=False, **options)


def _text(cell: object) -> str:
    if isinstance(cell, float):
        return "" if cell != cell else f"{cell:.3f}"
    if isinstance(cell, int) and not isinstance(cell, bool):
        return f"{cell:,}"
    return "" if cell is None else str(cell)


def _is_number(cell: str) -> bool:
    if not cell or cell == "-":
        return True
    try:
        float(cell.replace(",", "").rstrip("%"))
    except ValueError:
        return False
    return True
