"""A progress bar in a notebook: one output that is updated in place. It needs no widgets. Elsewhere there is none."""

import sys
import time
from collections.abc import Callable
from html import escape
from importlib import import_module
from typing import Any


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, which has no terminal but shows HTML."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return shell is not None and hasattr(shell, "kernel")


class NotebookBar:
    """A bar of `what`, in units such as epochs. Threads may call it; the last state stays below the cell."""

    def __init__(self, what: str, unit: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._what, self._unit, self._clock, self._start = what, unit, clock, clock()
        self._shown: Any = None

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Show that `done` of `total` units are done, and a note."""
        shell = import_module("IPython.display")  # only a notebook has it
        seconds = self._clock() - self._start
        words = f"{self._what}: {done:,} of {total:,} {self._unit}, {seconds:,.0f} s" + (f", {note}" if note else "")
        bar = shell.HTML(f'<progress value="{done}" max="{max(total, 1)}"></progress> <span>{escape(words)}</span>')
        if self._shown is None:
            self._shown = shell.display(bar, display_id=True)
        else:
            self._shown.update(bar)
