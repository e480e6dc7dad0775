"""Curves of two parts side by side: each panel is the curve of its own part, and says so."""

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from cxr_ray.plotting import part_curves
from tests.plotting.standing import assert_stands_alone


def test_every_panel_is_named_and_has_its_own_area() -> None:
    rng = np.random.default_rng(0)
    parts = {}
    for part, skill in (("train", 2.0), ("val", 0.5)):
        truth = {"Edema": rng.random(80) < 0.3, "Hernia": np.zeros(80, bool) if part == "val" else rng.random(80) < 0.5}
        parts[part] = {label: (t, skill * t + rng.normal(size=80)) for label, t in truth.items()}
    figure = part_curves.side_by_side(parts, "a run: train and val side by side")
    assert_stands_alone(figure)
    panels = {axes.get_title("left"): axes for axes in figure.axes}
    assert len(panels) == 8
    for part, of in parts.items():
        for label, (true, score) in of.items():
            for kind, name, area in (
                ("ROC curve", "ROC AUC", roc_auc_score),
                ("precision-recall curve", "average precision", average_precision_score),
            ):
                axes = panels[f"{label}\n{kind}, {part}"]
                if not true.any():
                    assert [text.get_text() for text in axes.texts] == [f"no positives in {part}"] and not axes.lines
                    continue
                legend = axes.get_legend()
                assert legend and f"{name} {area(true, score):.3f}" in [text.get_text() for text in legend.get_texts()]
