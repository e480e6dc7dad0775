"""What makes a figure stand alone, without the page around it: title, named axes, named colours, ticks that state their place."""

import io
import itertools

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from cxr_ray.plotting.plots import RULE, STYLE


def assert_stands_alone(figure: Figure, *, colours_named_in: str = "legend") -> None:
    """Raises if a reader of the PNG alone would not know what it shows. `colours_named_in`: legend, or title (of a heat map)."""
    with matplotlib.rc_context(STYLE):
        figure.savefig(io.BytesIO(), format="png")  # ticks and their labels exist only then
    titles = [axes.get_title("left") or axes.get_title() for axes in figure.axes]
    texts = [text.get_text() for text in figure.texts]
    assert any(titles) or texts or figure.get_suptitle(), "no title"
    legend = bool(figure.legends) or any(axes.get_legend() for axes in figure.axes)
    plotted = [axes for axes in figure.axes if axes.axison and (axes.lines or axes.patches or axes.collections)]
    colours = set(itertools.chain.from_iterable(map(_colours, plotted)))
    if colours_named_in == "legend" and len(colours) > 1:
        assert legend, f"colours {sorted(colours)} have no names"
    for axes in plotted:
        named = axes.get_yticks().size and all(not _number(label.get_text()) for label in axes.get_yticklabels())
        assert axes.get_ylabel() or named or axes.get_label() == "<colorbar>", "the vertical axis has no name"
        if axes.get_label() != "<colorbar>":
            assert axes.get_xlabel() or not axes.get_xticks().size or not _number(axes.get_xticklabels()[0].get_text())
        assert_honest_ticks(axes)


def assert_honest_ticks(axes: Axes) -> None:
    """Each number at a tick is the tick's place: exactly, so that equal steps are equal numbers."""
    for axis in (axes.xaxis, axes.yaxis):
        for place, label in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True):
            text = label.get_text()
            if _number(text):
                value = float(text.replace("−", "-").replace("%", "").replace(",", ""))
                assert np.isclose(value, place * (100 if "%" in text else 1), rtol=1e-5, atol=1e-12), (text, place)


def _number(text: str) -> bool:
    try:
        float(text.replace("−", "-").replace("%", "").replace(",", ""))
    except ValueError:
        return False
    return True


def _colours(axes: Axes) -> set[str]:
    """Of what is plotted; rules and guides aside."""
    bars = [patch for box in axes.containers if isinstance(box, BarContainer) for patch in box]
    found = {to_hex(line.get_color()) for line in axes.lines if len(np.asarray(line.get_xdata()))}
    return (found | {to_hex(bar.get_facecolor()) for bar in bars}) - {RULE, "#1d2733", "#6b7682"}
