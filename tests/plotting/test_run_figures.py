"""Figures by name: which there are, that none is drawn before it is asked for, and unknown names."""

import numpy as np
import pandas as pd
import pytest

from cxr_ray.errors import UserError
from cxr_ray.plotting import plots, run_figures

PREDICTIONS = pd.DataFrame({
    "true/Edema": [1.0, 0.0, 1.0, 0.0, np.nan], "prob/Edema": [0.9, 0.2, 0.4, 0.6, 0.5],
    "true/Mass": [0.0, 0.0, 0.0, 0.0, 0.0], "prob/Mass": [0.1, 0.2, 0.3, 0.4, 0.5],
})  # fmt: skip
VALUES = [
    {"metric": "recall", "label": "Edema", "value": 0.5},
    {"metric": "specificity", "label": "Edema", "value": 0.5},
]


def test_a_label_without_positives_has_no_curves() -> None:
    found = run_figures.by_label(PREDICTIONS, ["Edema", "Mass"], VALUES)
    assert list(found) == ["Edema"] and list(found["Edema"]) == ["roc", "pr", "reliability"]
    roc = found["Edema"]["roc"]()
    assert np.asarray(roc.axes[0].lines[-1].get_xydata()).tolist() == [[0.5, 0.5]]  # the operating point
    assert len(found["Edema"]["pr"]().axes[0].lines) == 2  # without a precision: no point
    assert roc._repr_png_().startswith(b"\x89PNG")


def test_epochs_need_two_epochs() -> None:
    row = {"part": "val", "metric": "auroc", "label": "mean", "value": 0.7}
    one = pd.DataFrame([{"epoch": 1, **row}])
    assert run_figures.by_epoch(one, chosen=1, task="multilabel") == {}
    assert run_figures.by_epoch(one.iloc[:0], chosen=None, task="multilabel") == {}
    found = run_figures.by_epoch(pd.concat([one, one.assign(epoch=2)]), chosen=2, task="multilabel")
    assert {metric: label for metric, (label, _) in found.items()} == {"auroc": "mean"}


def test_an_unknown_figure_names_the_nearest() -> None:
    evaluation = {
        "labels": ["Edema"],
        "values": VALUES,
        "confusion": [[1, 1], [1, 1]],
        "classes": ["not Edema", "Edema"],
    }
    figures = run_figures.named(evaluation, PREDICTIONS)
    assert list(figures) == ["confusion", "roc-Edema", "pr-Edema", "reliability-Edema"]
    with pytest.raises(
        UserError, match=r"unknown figure 'rock-Edema' of this; did you mean 'roc-Edema'.*Known: confusion"
    ):
        run_figures.pick(figures, "rock-Edema", where=" of this")
    page = run_figures.images(figures, ["confusion", "roc-Mass"])
    assert page.count("<img") == 1 and "confusion" in page


def test_only_the_figure_asked_for_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    monkeypatch.setattr(plots, "roc", lambda *given, **named: drawn.append(named["label"]))
    monkeypatch.setattr(plots, "reliability", lambda *given, **named: drawn.append("reliability"))
    figures = run_figures.named({"labels": ["Edema"], "values": VALUES}, PREDICTIONS)
    assert drawn == []
    run_figures.pick(figures, "roc-Edema", where="")
    assert drawn == ["Edema"]
