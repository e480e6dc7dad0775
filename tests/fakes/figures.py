"""Pages without the time that figures take: none is drawn."""

from itertools import count

import pytest

from cxr_ray.plotting import plots

FIGURES = ("roc", "precision_recall", "reliability", "progress", "prevalence", "confusion")


def skip_drawing(patch: pytest.MonkeyPatch) -> None:
    """Until the patch ends every figure of a run is a short text; no two are equal, so that a replaced file is noticed."""
    number = count()
    for name in FIGURES:
        patch.setattr(plots, name, lambda *_, name=name, **__: name)
    patch.setattr(plots, "svg", lambda figure: f"<svg><!-- {figure} {next(number)} --></svg>")
    patch.setattr(plots, "png", lambda figure: f"{figure} {next(number)}".encode())
