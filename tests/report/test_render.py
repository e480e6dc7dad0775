"""What every page shares: one frame, a menu from the sections, names of settings that break between words only."""

import re
from html import unescape
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_ray.report import render

TEMPLATES = sorted(Path(render.__file__).parent.glob("*.html"))


@pytest.mark.parametrize("path", [p for p in TEMPLATES if p.name != "page.html"], ids=lambda p: p.stem)
def test_every_page_has_the_same_frame(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith('{% extends "page.html" %}')
    assert not re.search(r"<(footer|nav|header|html|body)\b", text)


def test_the_menu_is_in_the_order_of_the_page() -> None:
    content = """<section id="result"><p>first</p></section>
    <section id="b">\n<h2>Long title of b</h2></section><section id="a"><h2 data-menu="A &amp; co">Another &amp; more</h2></section>"""
    assert [(name, str(title)) for name, title in render.menu(content)] == [
        ("b", "Long title of b"),
        ("a", "A &amp; co"),
    ]


@given(st.text(alphabet="ab._<& :0", max_size=30))
def test_a_setting_breaks_after_dots_and_underscores_only(text: str) -> None:
    shown = str(render.setting(text))
    assert unescape(shown.replace("<wbr>", "")) == text
    assert all(before in "._" for before in re.findall(r"(.)<wbr>", shown))


def test_the_words_of_a_setting_stay_whole() -> None:
    shown = str(render.setting("data.oversample_min_count: was 0, is 150.5"))
    assert shown == "data.<wbr>oversample_<wbr>min_<wbr>count: was 0, is 150.<wbr>5"
