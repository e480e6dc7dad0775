"""Groups are the judge of their rows; studies are what a loop over their images gives; a shortcut is found."""

import math

import numpy as np
import pandas as pd
import pytest

from cxr_ray.metrics import compute_metrics
from cxr_ray.metrics.studies import combine
from cxr_ray.metrics.subgroups import age_bands, by_group, features, shortcut
from cxr_ray.metrics.table import Table, decide

LABELS = ["a", "b"]


def made(rows: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray, Table]:
    rng = np.random.default_rng(seed)
    truth = (rng.random((rows, 2)) < [0.4, 0.2]).astype(float)
    truth[rng.random(truth.shape) < 0.1] = np.nan
    prob = np.clip(rng.normal(0.4, 0.2, truth.shape) + 0.2 * np.nan_to_num(truth), 0, 1)
    return truth, prob, decide(truth, prob, labels=LABELS, task="multilabel", thresholds_L=[0.5, 0.4])


def test_a_group_is_judged_as_its_rows_alone_would_be() -> None:
    truth, prob, table = made()
    category = np.array(["F", "M", None, "F"], dtype=object)[np.arange(400) % 4]
    found = by_group(table, category, np.arange(400) // 2, resamples=50, rng=np.random.default_rng(0))
    assert [g["category"] for g in found["groups"]] == ["F", "M"] and [g["rows"] for g in found["groups"]] == [200, 100]
    for group in found["groups"]:
        here = category == group["category"]
        want = compute_metrics(truth[here], prob[here], labels=LABELS, task="multilabel", thresholds_L=[0.5, 0.4])
        got = {(v["metric"], v["label"]): v["value"] for v in group["values"]}
        assert got == pytest.approx({(v.metric, v.label): v.value for v in want}, abs=1e-12)
        assert all(
            v["low"] <= v["value"] <= v["high"] for v in group["values"] if "low" in v and v["metric"] == "recall"
        )


def test_a_gap_that_is_there_is_found_and_one_that_is_not_is_not() -> None:
    truth, prob, _ = made(2000)
    category = np.array(["AP", "PA"], dtype=object)[np.arange(2000) % 2]
    rng = np.random.default_rng(1)
    worse = prob.copy()
    worse[category == "PA", 0] = rng.random(1000)
    for p, differs in ((prob, False), (worse, True)):
        table = decide(truth, p, labels=LABELS, task="multilabel", thresholds_L=[0.5, 0.5])
        gaps = by_group(table, category, np.arange(2000), resamples=200, rng=rng)["gaps"]
        gap = next(g for g in gaps if (g["metric"], g["label"]) == ("auroc", "a"))
        assert (gap["p"] < 0.02) == differs and gap["between"][0] <= gap["value"] <= gap["between"][1]
        if differs:
            assert (gap["high"], gap["low"]) == ("AP", "PA") and gap["value"] > 0.15


def test_a_group_of_three_images_enters_no_gap() -> None:
    _, _, table = made(200)
    category = np.array(["many"] * 197 + ["few"] * 3, dtype=object)
    found = by_group(table, category, np.arange(200), resamples=20, rng=np.random.default_rng(0))
    assert found["gaps"] == [] and found["groups"][0]["rows"] == 3


def test_features_are_bands_columns_and_unused_labels() -> None:
    assert age_bands(np.array([0, 17, 18, 39.5, 60, 95, math.nan])).tolist() == [
        None, "0 to 17", "18 to 39", "18 to 39", "60 to 79", "80 and over", None,
    ]  # fmt: skip
    records = pd.DataFrame(
        {"sex": ["F", "M", None], "view": ["AP"] * 3, "age": [3, 50, 0], "Tube": [1.0, math.nan, -1.0]}
    )
    found = features(records, unused=["Tube"])
    assert {k: v.tolist() for k, v in found.items()} == {
        "sex": ["F", "M", None],
        "age": ["0 to 17", "40 to 59", None],
        "Tube": ["with Tube", "without Tube", None],
    }
    many = features(pd.DataFrame({"source": [f"s{i // (20 - i)}" for i in range(20)] + ["z"]}))["source"]
    assert "other" in many.tolist() and len(set(many)) == 9


def test_a_feature_that_tells_the_label_is_found_out() -> None:
    rng = np.random.default_rng(2)
    truth = (rng.random((600, 2)) < 0.3).astype(float)
    told = np.where(truth[:, 0] == 1, "hospital", np.where(rng.random(600) < 0.1, "hospital", "home")).astype(object)
    table = decide(truth[300:], np.full((300, 2), 0.5), labels=LABELS, task="multilabel", thresholds_L=[0.5, 0.5])
    found = shortcut(truth[:300], told[:300], table, told[300:])
    assert found["auroc"]["a"] > 0.9 and abs(found["auroc"]["b"] - 0.5) < 0.08
    classes = np.eye(2)[(truth[:, 0]).astype(int)]
    table = decide(classes[300:], np.full((300, 2), 0.5), labels=LABELS, task="multiclass", thresholds_L=[0.5, 0.5])
    found = shortcut(classes[:300], told[:300], table, told[300:])
    assert found["accuracy"] > found["majority"] + 0.1


def test_a_study_is_its_images_together() -> None:
    rng = np.random.default_rng(3)
    rows = 60
    frame = pd.DataFrame({"row": np.arange(rows) + 5, "source_row": np.arange(rows)})
    frame["patient"] = [f"p{i}" if i != 9 else None for i in rng.integers(0, 12, rows)]
    frame["study"] = [f"s{i}" for i in rng.integers(0, 2, rows)]
    for label in LABELS:
        frame[f"true/{label}"] = rng.choice([0.0, 1.0, math.nan], rows)
        frame[f"prob/{label}"] = rng.random(rows).astype(np.float32)
        frame[f"border:prob/{label}"] = rng.random(rows)
    for how in ("max", "mean"):
        found = combine(frame, LABELS, how=how, task="multilabel")
        assert found["images"].sum() == rows
        assert (found["patient"].isna()).sum() == frame["patient"].isna().sum()  # each stands for itself
        for _, study in found.iterrows():
            same = (frame["patient"] == study["patient"]) & (frame["study"] == study["study"])
            images = frame[same] if same.any() else frame[frame["row"] == study["row"]]
            assert len(images) == study["images"] and study["row"] == images["row"].iloc[0]
            for label in LABELS:
                for column in (f"prob/{label}", f"border:prob/{label}"):
                    assert study[column] == pytest.approx(getattr(np, how)(images[column]), abs=1e-6)
                known = images[f"true/{label}"].dropna()
                want = max(known) if len(known) else math.nan
                assert study[f"true/{label}"] == pytest.approx(want, nan_ok=True)


def test_a_study_of_two_classes_has_none() -> None:
    frame = pd.DataFrame({"row": [1, 2, 3], "source_row": [1, 2, 3], "patient": "p", "study": ["s", "s", "t"]})
    frame[["true/a", "true/b"]] = [[1.0, 0], [0, 1], [0, 1]]
    frame[["prob/a", "prob/b"]] = [[0.7, 0.3], [0.4, 0.6], [0.1, 0.9]]
    found = combine(frame, LABELS, how="mean", task="multiclass")
    assert found[["true/a", "true/b"]].isna().all(axis=1).tolist() == [True, False]
    assert found["prob/a"].tolist() == pytest.approx([0.55, 0.1])
