"""The bar of a notebook: one output, updated in place; none elsewhere."""

import pytest

from cxr_ray.runtime import notebook
from tests.fakes import notebook as fake


def test_a_bar_is_one_output(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not notebook.in_notebook()
    shown = fake.install(monkeypatch)
    assert notebook.in_notebook()
    now = [0.0]
    bar = notebook.NotebookBar("run <1>", "epochs", clock=lambda: now[0])
    bar(0, 4)
    now[0] = 61.0
    bar(2, 4, "loss 0.1")
    assert len(shown) == 1 and len(shown[0]) == 2
    assert 'value="2" max="4"' in shown[0][1] and "run &lt;1&gt;: 2 of 4 epochs, 61 s, loss 0.1" in shown[0][1]
