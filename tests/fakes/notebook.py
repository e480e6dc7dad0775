"""A notebook's kernel as far as progress bars use it: IPython with a shell, `display` and `HTML`."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


def install(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Make this process look like a notebook. Returns what it shows: for each output the HTML of each of its states."""
    outputs: list[list[str]] = []

    def display(html: str, *, display_id: bool = False) -> Any:
        outputs.append([html])
        return SimpleNamespace(update=outputs[-1].append) if display_id else None

    shell, module = ModuleType("IPython.display"), ModuleType("IPython")
    shell.HTML, shell.display = str, display  # type: ignore[attr-defined]
    module.get_ipython = lambda: SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setitem(sys.modules, "IPython.display", shell)
    return outputs
