"""An output of a notebook, updated in place; none elsewhere."""

import pytest

from cxr_ray.runtime import notebook
from tests.fakes import notebook as fake


def test_an_output_is_updated_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not notebook.in_notebook()
    shown = fake.install(monkeypatch)
    assert notebook.in_notebook()
    output = notebook.Output()
    output.show("<b>1</b>")
    output.show("<b>2</b>")
    assert shown == [["<b>1</b>", "<b>2</b>"]]


def test_words_next_to_a_bar_are_escaped() -> None:
    assert notebook.bar(2, 4, "run <1>") == '<progress value="2" max="4"></progress> <span>run &lt;1&gt;</span>'
    assert 'max="1"' in notebook.bar(0, 0, "nothing to do")
