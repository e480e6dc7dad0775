"""How every page is rendered: the template environment, number formats, figures as files."""
# N rows, L labels

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from cxr_ray.plotting import plots
from cxr_ray.plotting.plots import Figure
from cxr_ray.plotting.run_figures import data_uri


def jinja() -> Environment:
    """The template environment of all pages, with their filters."""
    environment = Environment(
        loader=PackageLoader("cxr_ray.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {
        "number": number,
        "interval": interval,
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


def interval(row: dict[str, Any] | None) -> str:
    """`0.71 to 0.83`, or nothing where there is no interval."""
    if not row or row.get("low") is None:
        return ""
    return f"{row['low']:.2f} to {row['high']:.2f}".replace("-", "−")


def thousands(value: float) -> str:
    """`131,748`."""
    return f"{int(value):,}"


def lasting(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
