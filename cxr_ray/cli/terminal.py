"""What verbs show: tables and lists on a terminal, and the same as plain text in a log."""

from collections.abc import Iterable, Sequence


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
    """A table; columns that hold numbers only stand to the right. Nothing in a cell is read as markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    cells = [[_text(cell) for cell in row] for row in rows]
    shown = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for at, name in enumerate(columns):
        right = bool(cells) and all(_is_number(row[at]) for row in cells)
        shown.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in cells:
        shown.add_row(*(Text(cell) for cell in row))
    console().print(shown)


def bullets(title: str, lines: Sequence[str]) -> None:
    """A heading and a bullet a line (Markdown marks removed); says so where there are none."""
    print(f"{title}:" if lines else f"{title}: none")
    for line in lines:
        print("  " + line.removeprefix("- ").replace("`", ""))


def console() -> "rich.console.Console":  # type: ignore[name-defined]  # noqa: F821
    """A console that prints as wide as the terminal, and 160 columns into a log."""
    import os
    import sys

    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160, highlight=False)


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
