"""One output of a notebook that is updated in place, such as a progress bar. It needs no widgets. Elsewhere there is none."""

import sys
from html import escape
from importlib import import_module
from typing import Any


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, which has no terminal but shows HTML."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return shell is not None and hasattr(shell, "kernel")


class Output:
    """HTML below the cell that creates it. Threads may show more in its place; the last HTML stays."""

    def __init__(self) -> None:
        self._shown: Any = None

    def show(self, html: str) -> None:
        """Show `html` in place of what was shown."""
        shell = import_module("IPython.display")  # only a notebook has it
        content = shell.HTML(html)
        if self._shown is None:
            self._shown = shell.display(content, display_id=True)
        else:
            self._shown.update(content)


def bar(done: int, total: int, words: str) -> str:
    """HTML of a bar and the words next to it."""
    return f'<progress value="{done}" max="{max(total, 1)}"></progress> <span>{escape(words)}</span>'
