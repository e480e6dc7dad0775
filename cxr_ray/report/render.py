"""How every page is rendered: the template environment, number formats, figures as files."""
# N rows, L labels

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from cxr_ray.metrics.titles import p_text
from cxr_ray.plotting import plots
from cxr_ray.plotting.plots import Figure
from cxr_ray.plotting.run_figures import data_uri


@cache
def jinja() -> Environment:
    """The template environment of all pages, with their filters. One for all: it keeps compiled templates."""
    environment = Environment(
        loader=PackageLoader("cxr_ray.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # menus have the order of the data
    environment.filters |= {
        "number": number,
        "interval": interval,
        "span": span,
        "tenths": lambda ends: f"{ends[0]:.1f} to {ends[1]:.1f}" if ends[0] < ends[1] else "",
        "p_text": p_text,
        "signed": signed,
        "figure": lambda figure: data_uri(plots.svg(figure)),
        "thousands": thousands,
        "lasting": lasting,
        "menu": menu,
        "setting": setting,
    }
    return environment


def menu(content: str) -> list[tuple[str, Markup]]:
    """(id, title) of the sections of a page's `content`, in their order. The title is that of the section's `<h2>`, or its attribute
    `data-menu`, which is shorter."""
    found = re.findall(r'<section id="([^"]+)">\s*<h2(?: data-menu="([^"]*)")?>(.*?)</h2>', content, re.DOTALL)
    return [(name, Markup(short or title)) for name, short, title in found]


def setting(text: str) -> Markup:
    """Text with names of settings that a line can break after a dot or an underscore, and nowhere within a word."""
    return Markup(re.sub(r"(?<=\w)([._])(?=\w)", r"\1<wbr>", str(escape(text))))


def write_figures(folder: Path, figures: Mapping[str, Figure]) -> None:
    """Every figure as PNG; those of an earlier report go."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    for name, figure in figures.items():
        (folder / file_name(name)).write_bytes(plots.png(figure))


def file_name(figure: str) -> str:
    """The name of a figure's PNG."""
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '_', figure)}.png"


def number(value: float | None) -> str:
    """Three decimals, a real minus, or a dash where there is no value."""
    return "–" if value is None else f"{value:.3f}".replace("-", "−")


def signed(value: float) -> str:
    """Three decimals with their sign."""
    return f"{value:+.3f}".replace("-", "−")


def interval(row: Mapping[str, Any] | None) -> str:
    """`0.71 to 0.83`, or nothing where there is no interval."""
    return "" if not row or row.get("low") is None else span((row["low"], row["high"]))


def span(ends: Sequence[float]) -> str:
    """`0.71 to 0.83`, with as many decimals, from two to four, as tell both ends apart; nothing for an interval of no width."""
    low, high = ends
    shown = next(
        (pair for n in (2, 3, 4) if (pair := (f"{low:.{n}f}", f"{high:.{n}f}"))[0] != pair[1]),
        ("", "") if low == high else (f"{low:.4f}", f"{high:.4f}"),
    )
    return " to ".join(shown).replace("-", "−") if shown[0] else ""


def thousands(value: float) -> str:
    """`131,748`."""
    return f"{int(value):,}"


def lasting(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
