"""The figures of a sweep's page as SVG and PNG, each rendered once. Which figures there are is in tuning/figures.py."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cxr_ray.plotting import plots
from cxr_ray.plotting import sweep_plots as draw
from cxr_ray.plotting.plots import Figure
from cxr_ray.report import render


@functools.lru_cache(maxsize=64)
def svg_of(make: Callable[..., Figure], *given: Any) -> str:
    """The figure as SVG for the page, cached by its numbers."""
    return draw.marked(make(*given))


@functools.lru_cache(maxsize=64)
def png_of(make: Callable[..., Figure], *given: Any) -> bytes:
    """The figure as PNG, cached by its numbers."""
    return plots.png(make(*given))


def save_figures(folder: Path, figures: Mapping[str, bytes]) -> None:
    """Write every figure as PNG and delete those that no longer belong to the sweep."""
    folder.mkdir(exist_ok=True)
    names = {render.file_name(name): body for name, body in figures.items()}
    for old in folder.glob("*.png"):
        if old.name not in names:
            old.unlink()
    for name, body in names.items():
        file = folder / name
        if not file.exists() or file.read_bytes() != body:
            file.write_bytes(body)
