"""The figures of a report as a reader sees them alone, and percent ticks."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, roc_auc_score

from cxr_ray.plotting import plots, run_figures
from tests.plotting.standing import assert_honest_ticks, assert_stands_alone

RNG = np.random.default_rng(0)
TRUE = RNG.random(200) < 0.2
SCORE = np.clip(0.3 * TRUE + 0.7 * RNG.random(200), 0, 1)


def legend_of(figure: Figure) -> str:
    legend = figure.axes[0].get_legend()
    assert legend is not None
    return "; ".join(text.get_text() for text in legend.get_texts())


def text_of(figure: Figure) -> str:
    axes = figure.axes[0]
    return " ".join(
        [axes.get_title("left"), *(t.get_text() for t in axes.texts), *(t.get_text() for t in figure.texts)]
    )


def test_curves_have_title_area_and_operating_point() -> None:
    roc = plots.roc(TRUE, SCORE, (0.3, 0.6), label="Edema", part="test")
    assert f"ROC AUC {roc_auc_score(TRUE, SCORE):.3f}" in legend_of(roc) and "operating point" in legend_of(roc)
    curve = plots.precision_recall(TRUE, SCORE, None, label="Edema", part="test")
    assert f"average precision {average_precision_score(TRUE, SCORE):.3f}" in legend_of(curve)
    assert f"prevalence {TRUE.mean():.3f}" in legend_of(curve) and "operating point" not in legend_of(curve)
    both = plots.reliability(TRUE, SCORE, SCORE / 2, label="Edema", part="test")
    assert legend_of(both) == "calibrated; as predicted; recalibrated"
    for figure in (roc, curve, both):
        assert "Edema" in text_of(figure) and "on test" in text_of(figure)
        assert_stands_alone(figure)


def test_the_confusion_matrix_states_its_part_and_its_shade() -> None:
    figure = plots.confusion([[61, 2], [13, 12]], ["Normal", "Viral Pneumonia"], part="val")
    assert "Confusion matrix on val" in text_of(figure) and "of the true class (shade)" in text_of(figure)
    assert_stands_alone(figure, colours_named_in="title")


def test_progress_names_both_parts_and_the_selected_epoch() -> None:
    table = pd.DataFrame(
        {"epoch": [0, 1, 2] * 2, "part": ["train"] * 3 + ["val"] * 3, "value": [0.2, 0.5, 0.6, 0.1, 0.4, 0.4]}
    )
    figure = plots.progress(table, chosen=1, title="Mean recall")
    assert legend_of(figure) == "train; val; selected: 1" and text_of(figure) == "Mean recall by epoch"
    assert_stands_alone(figure)


def test_prevalence_names_its_parts() -> None:
    cells = {"Edema": {"positives": 11, "known": 100}, "Mass": {"positives": 2, "known": 100}}
    figure = plots.prevalence({"train": {"labels": cells}, "test": {"labels": cells}}, ["Edema", "Mass"])
    assert legend_of(figure) == "train; test"
    assert_stands_alone(figure)


@settings(deadline=None, max_examples=25)
@given(st.floats(1e-4, 1.0), st.integers(3, 8))
def test_percent_ticks_state_their_place(high: float, count: int) -> None:
    figure = plots.Figure(figsize=(3, 2))
    axes = figure.add_subplot()
    axes.set_xlim(0, high)
    plots.percent_axis(axes.xaxis, count)
    assert_honest_ticks(axes)
    texts = [label.get_text() for label in axes.get_xticklabels()]
    steps = np.diff([float(text.removesuffix("%")) for text in texts])
    assert all(text.endswith("%") for text in texts) and np.allclose(steps, steps[0])


def metrics_table() -> pd.DataFrame:
    rows = [
        {
            "epoch": e,
            "part": part,
            "metric": metric,
            "label": label,
            "value": round(0.1 * e + 0.01 * (part == "val"), 3),
        }
        for e in range(3)
        for part in ("train", "val")
        for metric, label in (("recall", "Edema"), ("recall", "mean"), ("sample_f1", ""), ("confusion", "A > B"))
    ]
    return pd.DataFrame(rows)


def test_every_metric_and_label_by_epoch_can_be_chosen() -> None:
    table = metrics_table()
    draws = run_figures.by_epoch_and_label(table, chosen=1)
    assert list(draws) == ["epochs-recall-Edema", "epochs-recall-mean"]
    figure = draws["epochs-recall-Edema"]()
    assert text_of(figure) == "Recall, Edema by epoch"
    assert [np.asarray(line.get_ydata()).tolist() for line in figure.axes[0].lines[:2]] == [
        [0.0, 0.1, 0.2],
        [0.01, 0.11, 0.21],
    ]
    assert "sample_f1" in run_figures.by_epoch(table, chosen=1, task="multilabel")
    courses = run_figures.courses(table)
    assert list(courses) == ["Recall", "F1, averaged over images"]
    assert courses["Recall"]["Edema"] == {
        "train": [[0, 0.0], [1, 0.1], [2, 0.2]],
        "val": [[0, 0.01], [1, 0.11], [2, 0.21]],
    }
    assert list(courses["F1, averaged over images"]) == [run_figures.OVERALL]
    assert run_figures.courses(table[table["epoch"] == 0]) == {}


def test_the_whole_training_is_one_picture() -> None:
    table = metrics_table()
    draws = run_figures.training(table, chosen=1, task="multilabel", title="a run by epoch")
    figure = draws["training"]()
    assert_stands_alone(figure)
    assert [axes.get_title("left") for axes in figure.axes] == ["Mean recall by epoch", "F1, averaged over images"]
    alone = run_figures.by_epoch(table, chosen=1, task="multilabel")["recall"][1]()
    for one, other in zip(figure.axes[0].lines, alone.axes[0].lines, strict=True):
        assert np.array_equal(one.get_xydata(), other.get_xydata())
    assert run_figures.training(table[table["epoch"] == 0], chosen=0, task="multilabel", title="") == {}


@pytest.mark.parametrize("part", ["", "test"])
def test_a_title_without_a_part_has_no_loose_word(part: str) -> None:
    assert text_of(plots.roc(TRUE, SCORE, None, label="A", part=part)).endswith(
        "ROC curve on test" if part else "ROC curve"
    )
