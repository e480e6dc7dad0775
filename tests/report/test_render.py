"""What every page shares: one frame, a menu from the sections, names of settings that break between words only."""

import re
from html import unescape
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_ray.report import render
from cxr_ray.report.render import interval, span

TEMPLATES = sorted(Path(render.__file__).parent.glob("*.html"))


@pytest.mark.parametrize(
    "path", [p for p in TEMPLATES if p.name not in ("page.html", "sweep_answers.html")], ids=lambda p: p.stem
)
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


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ((0.712, 0.834), "0.71 to 0.83"),
        ((0.9961, 0.9989), "0.996 to 0.999"),  # not 1.00 to 1.00
        ((0.99951, 0.99972), "0.9995 to 0.9997"),
        ((1.0, 1.0), ""),
        ((-0.2, 0.1), "−0.20 to 0.10"),
    ],
)
def test_an_interval_has_as_many_decimals_as_tell_its_ends_apart(ends: tuple[float, float], text: str) -> None:
    assert span(ends) == text == interval({"low": ends[0], "high": ends[1]})
    assert interval({"value": 1.0}) == interval(None) == ""
