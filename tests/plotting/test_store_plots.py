"""The figures of a store as a reader sees them alone."""

import matplotlib
import numpy as np
import pytest
from matplotlib.patches import Rectangle

from cxr_ray.data import summary
from cxr_ray.metrics import prevalence
from cxr_ray.plotting import store_plots as plots
from cxr_ray.plotting.plots import STYLE
from tests.fakes.store import fake_store
from tests.plotting.standing import assert_stands_alone

STORE = fake_store(80, uncertain=0.1, unknown=0.1)
INDEX, LABELS = STORE.index, list(STORE.labels)


def figures() -> dict[str, plots.Figure]:
    truth = INDEX[LABELS].replace(-1, np.nan).to_numpy()
    parts = {
        p: prevalence(truth[k:], labels=LABELS, patients=INDEX["patient"][k:]) for k, p in ((0, "train"), (40, "val"))
    }
    with matplotlib.rc_context(STYLE):
        return {
            "frequency": plots.label_frequency(summary.label_frequency(INDEX, LABELS), "80 images of x"),
            "classes": plots.class_counts(summary.label_frequency(INDEX, LABELS), "80 images of x"),
            "vectors": plots.label_vectors(summary.label_vectors(INDEX, LABELS), about="80 images of x"),
            "co_occurrence": plots.co_occurrence(summary.co_occurrence(INDEX, LABELS), "80 images of x"),
            "findings": plots.findings(summary.findings_per_image(INDEX, LABELS), "80 images of x"),
            "balance": plots.split_balance(parts, LABELS, "80 images of x"),
            "pixels": plots.pixels(INDEX, STORE.pixels, "80 images of x"),
            "sizes": plots.sizes(summary.original_sizes(INDEX.assign(width=300, height=200))),
        }


@pytest.mark.parametrize("name", list(figures()))
def test_every_figure_stands_alone(name: str) -> None:
    assert_stands_alone(figures()[name], colours_named_in="title" if name == "co_occurrence" else "legend")


def test_findings_have_a_bar_for_every_number() -> None:
    table = summary.findings_per_image(INDEX[INDEX[LABELS].eq(1).sum(axis=1) != 1], LABELS)
    figure = plots.findings(table)
    bars = [bar for bar in figure.axes[0].patches if isinstance(bar, Rectangle)]
    heights = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in bars}
    assert heights[0] == (INDEX[LABELS].eq(1).sum(axis=1) == 0).sum() and heights[1] == 0 and len(heights) >= 3
