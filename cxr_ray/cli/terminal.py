"""Tables and lists that commands print, on a terminal or as plain text in a log."""

from collections.abc import Iterable, Sequence


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
    """Print a table. Numeric columns are right-aligned. Cells are plain text, never markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    cells = [[_text(cell) for cell in row] for row in rows]
    printed = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(columns):
        numeric = bool(cells) and all(_is_number(row[index]) for row in cells)
        printed.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        printed.add_row(*(Text(cell) for cell in row))
    console().print(printed)


def bullets(title: str, lines: Sequence[str]) -> None:
    """Print a heading and one indented line per bullet, without Markdown marks; `none` if there are no bullets."""
    print(f"{title}:" if lines else f"{title}: none")
    for line in lines:
        print("  " + line.removeprefix("- ").replace("`", ""))


def console() -> "rich.console.Console":  # type: ignore[name-defined]  # noqa: F821
    """A console as wide as the terminal; 160 columns in a log."""
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
