"""The figures of a sweep as a reader sees them alone, and who wins a column of a heat map."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_ray.plotting import sweep_plots as draw
from cxr_ray.plotting import sweep_plots as plots
from cxr_ray.plotting.sweep_plots import Shown
from tests.plotting.standing import assert_stands_alone

SHOWN = (Shown("0000", base=True), Shown("0001", best=True), Shown("0002", stopped=True), Shown("0003"))
AXIS = plots.scale("optim.lr", [1e-4, 1e-3, 1e-2, 3e-3], "loguniform", [1e-5, 1e-1])
STEPS = plots.scale("data.oversample_min_count", [0, 250, 10_250, 500], "integer", [0, 10_250])
LINES = tuple(((0, 1, 2), (0.1, 0.2 + k / 10, 0.3)) for k in range(4))


@pytest.mark.parametrize(
    "figure",
    [
        lambda: plots.hyperparameter(SHOWN, AXIS, (1e-4, 1e-3, 1e-2, 3e-3), (0.1, 0.4, 0.2, 0.3), "Mean recall"),
        lambda: plots.hyperparameter(SHOWN, STEPS, (0, 250, 10_250, 500), (0.1, 0.4, 0.2, 0.3), "Mean recall"),
        lambda: plots.curves(SHOWN, LINES, "Mean recall"),
        lambda: plots.pareto(SHOWN, ((0.1, 0.2), (0.4, 0.3), (0.2, 0.5), (0.1, 0.1)), (False, True, True, False), ("Recall", "F1")),
        lambda: plots.importance(("optim.lr", "seed"), (0.4, 0.1), (0.1, 0.1)),
        lambda: plots.heat(("0000", "0001"), ("Edema", "Mass"), ((0.1, 0.2), (0.3, 0.0)), "Recall"),
    ],
)  # fmt: skip
def test_every_figure_stands_alone(figure) -> None:
    assert_stands_alone(figure())


@pytest.mark.parametrize(
    "bounds", [(1e-4, 1e-2), (1e-6, 1e-3), (1e-12, 1.0), (3e-4, 6e-3), (2e-4, 4e-4), (6.1e-4, 6.9e-4)]
)
def test_ticks_of_a_logarithmic_axis_do_not_overlap(bounds: tuple[float, float]) -> None:
    axis = plots.scale("optim.lr", bounds, "loguniform", bounds)
    figure = plots.hyperparameter(SHOWN[:2], axis, bounds, (0.1, 0.4), "Mean recall")
    assert_stands_alone(figure)
    labels = [label for label in figure.axes[0].get_xticklabels(which="both") if label.get_text()]
    boxes = [label.get_window_extent() for label in labels]
    assert 1 <= len(boxes) <= 5
    assert all(first.x1 < second.x0 for first, second in itertools.pairwise(boxes))


def test_the_legend_has_the_marks_that_occur() -> None:
    def names(shown: tuple[Shown, ...]) -> list[str]:
        figure = plots.curves(shown, LINES[: len(shown)], "Recall")
        return [text.get_text() for legend in figure.legends for text in legend.get_texts()]

    assert names(SHOWN) == ["best", "base configuration", "ended early"]
    assert names(SHOWN[1:2]) == ["best"] and names(SHOWN[3:]) == []


def test_ticks_of_parallel_coordinates_state_their_place() -> None:
    for axis in (STEPS, plots.scale("x", [10_000, 10_900], "uniform", [10_000, 10_900])):
        for place, text in axis.ticks():
            assert axis.place(float(text)) == pytest.approx(place)


@given(
    st.lists(st.lists(st.sampled_from([np.nan, 0.0, 0.25, 0.5, 1.0]), min_size=3, max_size=3), min_size=1, max_size=5)
)
def test_a_winner_is_the_highest_of_a_column_that_differs(rows: list[list[float]]) -> None:
    won, shares = plots.winners(rows), plots.shares(rows)
    for j in range(3):
        column = [row[j] for row in rows if not np.isnan(row[j])]
        for i, row in enumerate(rows):
            assert won[i][j] == (len(set(column)) > 1 and row[j] == max(column))
        if column and not any(column):  # all are 0: nobody wins and nothing is dark
            assert all(shares[i][j] == 0 for i, row in enumerate(rows) if not np.isnan(row[j]))


@pytest.mark.parametrize(("kind", "base", "label"), [("loguniform", 0.0, "0"), ("uniform", None, "null")])
def test_an_axis_keeps_its_interval_if_the_base_value_lies_outside(kind: str, base: Any, label: str) -> None:
    """No weight decay in a search from 1e-6 to 1e-2, no clipping in one from 0.5 to 5."""
    ends = [1e-6, 1e-2]
    scale = draw.scale("x", [base, 1e-4, 1e-3], kind, ends)
    plain = draw.scale("x", [1e-4, 1e-3], kind, ends)
    assert (scale.kind, scale.low, scale.high) == (plain.kind, 1e-6, 1e-2) and scale.off == (label,)
    assert scale.place(base) == 0.0 and np.isnan(scale.at(base)) and plain.off == ()
    for value in (1e-6, 1e-4, 1e-2):
        assert scale.at(value) == value and scale.place(value) == pytest.approx(0.1 + 0.9 * plain.place(value))
    assert scale.ticks()[0] == (0.0, label) and len(scale.ticks()) == len(plain.ticks()) + 1


def test_scales_place_every_kind() -> None:
    log = draw.scale("lr", [1e-5, 1e-4], "loguniform", [1e-6, 1e-3])
    assert [log.place(v) for v in (1e-6, 1e-3)] == [0, 1] and log.place(10**-4.5) == pytest.approx(0.5)
    assert [t for _, t in log.ticks()] == ["1e-06", "1e-05", "0.0001", "0.001"]
    choice = draw.scale("u", ["ones", "zeros"], "choice", ["zeros", "ones", "ignore"])
    assert choice.choices == ("zeros", "ones", "ignore") and [choice.place(c) for c in choice.choices] == [0, 0.5, 1]
    counts = draw.scale("n", [500, 0], "choice", [0, 500, 50])
    assert counts.choices == ("0", "50", "500") and counts.at(500) == 2
    down = draw.scale("loss", [0.2, 0.6], "uniform", down=True)
    assert down.place(0.2) == 1 and down.place(0.6) == 0
    one = draw.scale("x", [3.0], "uniform")
    assert one.place(3.0) == 0.5 and one.ticks() == [(0.5, "3")]
    few, many = draw.scale("x", [1, 2, 2], "listed"), draw.scale("x", list(range(9)), "listed")
    assert few.kind == "choice" and many.kind == "linear"
    sizes = draw.scale("s", [[64, 64], None, [32, 32]], "choice")
    assert sizes.choices == ("[64, 64]", "null", "[32, 32]") and sizes.at(None) == 1


def test_shares_are_of_a_label_and_small_differences_stay_small() -> None:
    found = draw.shares([[0.9, 0.80, np.nan], [0.5, 0.81, np.nan], [np.nan, 0.805, np.nan]])
    assert found[:2, 0].tolist() == [1, 0] and np.isnan(found[2, 0]) and np.isnan(found[:, 2]).all()
    assert found[:, 1] == pytest.approx([0.8, 1.0, 0.9])  # 0.01 of 0.05
    assert np.isnan(draw.shares(np.full((2, 2), np.nan))).all()
