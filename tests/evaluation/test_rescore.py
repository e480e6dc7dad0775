"""Metrics of saved predictions for other labels, thresholds and epochs, against the metrics of those columns."""

from pathlib import Path

import pandas as pd
import pytest

from cxr_ray.errors import UserError
from cxr_ray.evaluation import rescore
from cxr_ray.metrics import compute_metrics
from tests.evaluation.example_runs import LABELS, example_run, truth_and_prob
from tests.report.test_run_page import predictions


def test_other_labels_and_thresholds_give_the_metrics_of_those_columns(tmp_path: Path) -> None:
    run = example_run(tmp_path, "one")
    chosen = LABELS[:2]
    rescored = rescore.rescore(run, "test", labels=chosen, thresholds={chosen[0]: 0.2})
    truth, prob = truth_and_prob(run, chosen)
    assert rescored.values == compute_metrics(truth, prob, labels=chosen, task="multilabel", thresholds_L=[0.2, 0.5])
    val = run.predictions("val")
    by_rule = rescore.rescore(run, "test", thresholds={"recall": 0.8})
    threshold = by_rule.points[LABELS[0]].threshold
    positives = val.loc[val[f"true/{LABELS[0]}"] == 1, f"prob/{LABELS[0]}"]
    assert (positives >= threshold).mean() >= 0.8  # chosen on val, applied to test
    with pytest.raises(UserError, match="has no predictions of train"):
        rescore.rescore(run, "train")


def test_missing_and_duplicate_rows(tmp_path: Path) -> None:
    run = example_run(tmp_path, "one")
    run.write_predictions("test", run.predictions("test").iloc[:90])
    note = "30 of 120 rows of test are missing from the predictions of one"
    assert rescore.rescore(run, "test").notes[0].startswith(note) and rescore.rescore(run, "val").notes == ()
    run.write_predictions("test", pd.concat([run.predictions("test")] * 2))
    with pytest.raises(UserError, match="test in one have a duplicate row"):
        rescore.rescore(run, "test")


def test_a_label_group_selects_the_labels_that_the_run_has(tmp_path: Path) -> None:
    run = example_run(tmp_path, "one")
    run.update(store={**run.info["store"], "groups": {"pair": [LABELS[2], LABELS[0], "Mass"]}})
    assert rescore.chosen_labels(run, "pair") == [LABELS[0], LABELS[2]]
    assert rescore.chosen_labels(run, None) == LABELS
    with pytest.raises(UserError, match="did you mean 'Cardiomegaly'"):
        rescore.chosen_labels(run, ["Cardiomegally"])


def test_a_threshold_of_a_label_group_is_that_of_its_labels(tmp_path: Path) -> None:
    run = example_run(tmp_path, "one")
    run.update(groups={"pair": [LABELS[0], LABELS[2]]})
    rescored = rescore.rescore(run, "test", thresholds={"pair": 0.4})
    assert [p.threshold for p in rescored.points.values()] == [0.4, 0.5, 0.4]


def test_epochs_are_computed_from_their_saved_predictions(tmp_path: Path) -> None:
    run = example_run(tmp_path, "one")
    with pytest.raises(UserError, match="keep_predictions"):
        rescore.progress(run, thresholds=0.2)
    assert set(rescore.progress(run)["epoch"]) == set(range(5))  # as logged
    for epoch in range(2):
        for part in ("train", "val"):
            run.write_predictions(f"epochs/{epoch:04d}-{part}", predictions(LABELS, "multilabel", 60, epoch, epoch))
    by_epoch = rescore.progress(run, thresholds=0.2)
    truth, prob = truth_and_prob(run, LABELS, "epochs/0001-val")
    expected = {
        (v.metric, v.label): v.value
        for v in compute_metrics(truth, prob, labels=LABELS, task="multilabel", thresholds_L=[0.2] * 3)
    }
    rows = by_epoch[(by_epoch["epoch"] == 1) & (by_epoch["part"] == "val")]
    assert {(r.metric, r.label): r.value for r in rows.itertuples()} == expected


def test_a_rule_is_applied_to_val_of_each_epoch(tmp_path: Path) -> None:
    run = example_run(tmp_path, "one")
    for epoch in range(2):
        for seed, part in enumerate(("train", "val")):
            table = predictions(LABELS, "multilabel", 80, 1.0 + epoch, 10 * epoch + seed)
            run.write_predictions(f"epochs/{epoch:04d}-{part}", table)
    by_epoch = rescore.progress(run, thresholds={"recall": 0.8})
    recall = by_epoch[(by_epoch["metric"] == "recall") & (by_epoch["part"] == "val")]
    assert (recall.loc[recall["label"].isin(LABELS), "value"] >= 0.8).all() and len(recall) == 2 * (len(LABELS) + 3)
