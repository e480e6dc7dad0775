"""Which recalibration a page shows, and which features are reported as shortcuts."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import expit, logit

from cxr_ray.evaluation import analysis
from cxr_ray.evaluation.prediction_table import PredictionTable


def test_the_recalibration_of_a_page_depends_on_val() -> None:
    """Platt if val allows a fit; else the shift of the weights is subtracted, but not if that makes val worse."""
    rng = np.random.default_rng(9)

    def simulated(rows: int, shift: float) -> PredictionTable:
        prob = expit(rng.normal(-1, 1.5, rows))
        frame = pd.DataFrame({"patient": np.arange(rows).astype(str)})
        frame["true/l0"] = (rng.random(rows) < prob).astype(float)
        return PredictionTable(frame.assign(**{"prob/l0": expit(logit(prob) + shift)}), ["l0"], "binary")

    few = pd.DataFrame({"true/l0": [1.0] * 5 + [0.0] * 25, "patient": np.arange(30).astype(str)})  # too few for any fit
    for shift, shows, method_of_few in ((2.0, True, analysis.UNSHIFTED), (0.0, False, None)):
        test = simulated(500, shift)
        small = few.assign(**{"prob/l0": expit(np.where(few["true/l0"] == 1, 1.0, -1.5) + shift)})
        for val, method in (
            (simulated(4000, shift), "platt"),
            (PredictionTable(small, ["l0"], "binary"), method_of_few),
        ):
            results = analysis.calibration_results(test, val, [2.0])
            recalibrated = analysis.recalibrated(results, test.prob_NL, ["l0"])
            assert results["shift_shows"] is shows and (recalibrated and recalibrated[0]) == method


def entry(feature: str, auroc: dict[str, float], **accuracy: float) -> dict[str, Any]:
    return {"feature": feature, "shortcut": {"auroc": auroc, **accuracy}}


def test_shortcuts_are_reported_in_plain_sentences() -> None:
    results = [
        entry("view", {"Edema": 0.80, "Mass": 0.64}),
        entry("Tubes", {"Edema": 0.70}),
        {"feature": "sex", "shortcut": None},
        entry("sex", {"Rare": 1.0, "Common": 1.0}),
        entry("source", {}, accuracy=0.9, majority=0.5),
        entry("age", {}, accuracy=0.52, majority=0.5),
    ]
    model: dict[tuple[str, str], dict[str, Any]] = {
        ("auroc", "Edema"): {"value": 0.85},
        ("accuracy", ""): {"value": 0.95, "rows": 20},
        ("positives", "Edema"): {"positives": 10, "rows": 30},
        ("positives", "Rare"): {"positives": 9, "rows": 30},  # too few to state anything
        ("positives", "Common"): {"positives": 21, "rows": 30},
    }
    assert analysis.shortcut_messages(results, model) == [
        "view alone, without the image, predicts Edema with a ROC AUC of 0.80; the model has 0.85.",
        "'Tubes' (not trained on) alone, without the image, predicts Edema with a ROC AUC of 0.70; the model has 0.85.",
        "source alone, without the image, predicts the class with an accuracy of 90% (the most frequent class: 50%); "
        "the model has 95%: accuracy on these data is inflated.",
    ]
    few = model | {("accuracy", ""): {"value": 0.95, "rows": 18}}  # nine of another class than the most frequent
    assert len(analysis.shortcut_messages(results, few)) == 2


def test_the_largest_gap_is_over_labels_not_their_mean() -> None:
    gaps = [
        {"metric": "recall", "label": "mean", "value": 0.9},
        {"metric": "recall", "label": "Edema", "value": 0.2},
        {"metric": "recall", "label": "Mass", "value": 0.3},
        {"metric": "auroc", "label": "Mass", "value": 0.5},
    ]
    assert analysis.largest_gap({"gaps": gaps}, "recall") == gaps[2]
    assert analysis.largest_gap({"gaps": gaps}, "precision") is None


def test_a_label_that_excludes_all_findings_is_no_feature() -> None:
    """Rows with "No Finding" have no positives, so there is nothing to compare with the others."""
    from cxr_ray.evaluation.prediction_table import EvaluationSettings

    rng = np.random.default_rng(1)
    normal: npt.NDArray[np.bool_] = rng.random(400) < 0.4
    frame = pd.DataFrame({"patient": np.arange(400).astype(str)})
    frame["true/Edema"] = np.where(normal, 0.0, (rng.random(400) < 0.5).astype(float))
    frame["prob/Edema"] = rng.random(400)
    records = pd.DataFrame({"sex": np.where(rng.random(400) < 0.5, "F", "M"), "No Finding": normal.astype(float)})
    truth = frame[["true/Edema"]].to_numpy()
    results = analysis.subgroup_results(
        PredictionTable(frame, ["Edema"], "binary"),
        records,
        truth,
        records[["No Finding"]],
        EvaluationSettings(bootstrap=10),
        thresholds_L=np.array([0.5]),
        unused=["No Finding"],
    )
    assert [(r["feature"], r["shortcut"]) for r in results] == [("sex", None)]  # train has no column of the sex
