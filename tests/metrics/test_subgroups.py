"""Subgroups against the metrics of their rows alone; gaps and shortcuts that exist are found, others are not."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cxr_ray.metrics import compute_metrics
from cxr_ray.metrics.subgroups import age_bands, by_group, features, shortcut
from cxr_ray.metrics.table import Table, decide

LABELS = ["a", "b"]


def random_table(rows: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray, Table]:
    rng = np.random.default_rng(seed)
    truth = (rng.random((rows, 2)) < [0.4, 0.2]).astype(float)
    truth[rng.random(truth.shape) < 0.1] = np.nan
    prob = np.clip(rng.normal(0.4, 0.2, truth.shape) + 0.2 * np.nan_to_num(truth), 0, 1)
    return truth, prob, decide(truth, prob, labels=LABELS, task="multilabel", thresholds_L=[0.5, 0.4])


def test_a_group_has_the_metrics_of_its_rows_alone() -> None:
    truth, prob, table = random_table()
    category = np.array(["F", "M", None, "F"], dtype=object)[np.arange(400) % 4]
    result = by_group(table, category, np.arange(400) // 2, resamples=50, rng=np.random.default_rng(0))
    assert [g["category"] for g in result["groups"]] == ["F", "M"]
    assert [g["rows"] for g in result["groups"]] == [200, 100]
    for group in result["groups"]:
        inside = category == group["category"]
        expected = compute_metrics(
            truth[inside], prob[inside], labels=LABELS, task="multilabel", thresholds_L=[0.5, 0.4]
        )
        actual = {(v["metric"], v["label"]): v["value"] for v in group["values"]}
        assert actual == pytest.approx({(v.metric, v.label): v.value for v in expected}, abs=1e-12)
        assert all(
            v["low"] <= v["value"] <= v["high"] for v in group["values"] if "low" in v and v["metric"] == "recall"
        )


def test_a_metric_that_no_resample_changes_has_no_interval() -> None:
    """A group that the model predicts without an error has a recall of 1 in every resample."""
    truth = np.array([[1.0, 0.0], [0.0, 1.0]] * 20)
    prob = np.where(np.arange(40)[:, None] < 20, 0.1 + 0.8 * truth, np.random.default_rng(4).random(truth.shape))
    table = decide(truth, prob, labels=LABELS, task="multilabel", thresholds_L=[0.5, 0.5])
    category = np.where(np.arange(40) < 20, "exact", "noise").astype(object)
    result = by_group(table, category, np.arange(40), resamples=40, rng=np.random.default_rng(0))
    for group in result["groups"]:
        recall = next(v for v in group["values"] if (v["metric"], v["label"]) == ("recall", "a"))
        assert ("low" in recall) == ("high" in recall) == (group["category"] == "noise")
        assert recall["value"] == 1.0 or group["category"] == "noise"
    without = by_group(table, category, np.arange(40), resamples=0, rng=np.random.default_rng(0))
    assert not any("low" in v for group in without["groups"] for v in group["values"])
    assert without["gaps"] and not any("between" in gap or "p" in gap for gap in without["gaps"])


def test_a_gap_is_found_where_there_is_one() -> None:
    truth, prob, _ = random_table(2000)
    category = np.array(["AP", "PA"], dtype=object)[np.arange(2000) % 2]
    rng = np.random.default_rng(1)
    worse = prob.copy()
    worse[category == "PA", 0] = rng.random(1000)
    for scores, differs in ((prob, False), (worse, True)):
        table = decide(truth, scores, labels=LABELS, task="multilabel", thresholds_L=[0.5, 0.5])
        gaps = by_group(table, category, np.arange(2000), resamples=200, rng=rng)["gaps"]
        gap = next(g for g in gaps if (g["metric"], g["label"]) == ("auroc", "a"))
        assert (gap["p"] < 0.02) == differs and gap["between"][0] <= gap["value"] <= gap["between"][1]
        if differs:
            assert (gap["high"], gap["low"]) == ("AP", "PA") and gap["value"] > 0.15


def test_a_group_of_three_images_is_in_no_gap() -> None:
    _, _, table = random_table(200)
    category = np.array(["many"] * 197 + ["few"] * 3, dtype=object)
    result = by_group(table, category, np.arange(200), resamples=20, rng=np.random.default_rng(0))
    assert result["gaps"] == [] and result["groups"][0]["rows"] == 3


@pytest.mark.parametrize(
    ("positives", "negatives", "metrics"),
    [
        (10, 10, {"recall", "auroc", "precision"}),
        (10, 9, {"recall", "precision"}),
        (9, 10, set()),
        (9, 30, set()),
    ],
)
def test_a_gap_needs_ten_positives_and_for_auroc_ten_negatives(
    positives: int, negatives: int, metrics: set[str]
) -> None:
    truth = np.r_[np.ones(20), np.zeros(20), np.ones(positives), np.zeros(negatives)][:, None]
    prob = np.random.default_rng(5).uniform(0.4, 0.6, truth.shape)
    table = decide(truth, prob, labels=["a"], task="binary", thresholds_L=[0.5])
    category = np.where(np.arange(len(truth)) < 40, "enough", "maybe").astype(object)
    gaps = by_group(table, category, np.arange(len(truth)), resamples=0, rng=np.random.default_rng(0))["gaps"]
    assert {gap["metric"] for gap in gaps} == metrics


def test_features_are_columns_age_bands_and_unused_labels() -> None:
    assert age_bands(np.array([0, 0.5, 1, 17, 18, 39.5, 40, 60, 79.5, 80, 95, math.nan])).tolist() == [
        None, "0 to 17", "0 to 17", "0 to 17", "18 to 39", "18 to 39", "40 to 59", "60 to 79", "60 to 79", "80 and over",
        "80 and over", None,
    ]  # fmt: skip
    records = pd.DataFrame(
        {"sex": ["F", "M", None], "view": ["AP"] * 3, "age": [3, 50, 0], "Tube": [1.0, math.nan, -1.0]}
    )
    categories = features(records, unused=["Tube"])
    assert {k: v.tolist() for k, v in categories.items()} == {
        "sex": ["F", "M", None],
        "age": ["0 to 17", "40 to 59", None],
        "Tube": ["with Tube", "without Tube", None],
    }
    many = features(pd.DataFrame({"source": [f"s{i // (20 - i)}" for i in range(20)] + ["z"]}))["source"]
    assert "other" in many.tolist() and len(set(many)) == 9


def test_a_feature_that_predicts_a_label_is_a_shortcut() -> None:
    rng = np.random.default_rng(2)
    truth = (rng.random((600, 2)) < 0.3).astype(float)
    place = np.where(truth[:, 0] == 1, "hospital", np.where(rng.random(600) < 0.1, "hospital", "home")).astype(object)
    table = decide(truth[300:], np.full((300, 2), 0.5), labels=LABELS, task="multilabel", thresholds_L=[0.5, 0.5])
    result = shortcut(truth[:300], place[:300], table, place[300:])
    assert result["auroc"]["a"] > 0.9 and abs(result["auroc"]["b"] - 0.5) < 0.08
    assert set(result) == {"auroc"}  # an accuracy is only of classes
    classes = np.eye(2)[(truth[:, 0]).astype(int)]
    table = decide(classes[300:], np.full((300, 2), 0.5), labels=LABELS, task="multiclass", thresholds_L=[0.5, 0.5])
    result = shortcut(classes[:300], place[:300], table, place[300:])
    assert result["accuracy"] > result["majority"] + 0.1
    unknown = replace(table, known_NL=np.zeros_like(table.known_NL))
    assert shortcut(classes[:300], place[:300], unknown, place[300:]) == {"auroc": {}}


def test_a_category_that_train_does_not_have_gets_the_overall_share() -> None:
    truth = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [np.nan, 0.0]])
    category = np.array(["AP", "AP", "PA", "PA"], dtype=object)
    # Shares of label a: AP 1, PA 0, overall 2/3: LL is between them.
    table = decide(
        [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]],
        np.full((3, 2), 0.5),
        labels=LABELS,
        task="multilabel",
        thresholds_L=[0.5] * 2,
    )
    found = shortcut(truth, category, table, np.array(["AP", "LL", "PA"], dtype=object))
    assert found["auroc"]["a"] == 1.0
    found = shortcut(truth, category, table, np.array(["LL", "PA", "AP"], dtype=object))
    assert found["auroc"]["a"] == 0.0


def test_the_accuracy_of_a_shortcut_is_that_of_the_most_frequent_class_of_each_category() -> None:
    train = np.eye(2)[[0, 0, 0, 1, 1]]
    category = np.array(["AP", "AP", "PA", "PA", "PA"], dtype=object)
    table = decide(
        np.eye(2)[[0, 1, 1, 1]], np.full((4, 2), 0.5), labels=LABELS, task="multiclass", thresholds_L=[0.5] * 2
    )
    found = shortcut(train, category, table, np.array(["AP", "AP", "PA", "PA"], dtype=object))
    assert found["accuracy"] == 0.75 and found["majority"] == 0.25
    known = np.array([[True], [True], [False], [True]]) & np.ones((1, 2), bool)
    found = shortcut(train, category, replace(table, known_NL=known), np.array(["AP", "AP", "PA", "PA"], dtype=object))
    assert found["accuracy"] == pytest.approx(2 / 3) and found["majority"] == pytest.approx(1 / 3)
