"""Runs compared: rows matched, differences and their intervals against the judge of each, what cannot be compared said."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr_ray import runs
from cxr_ray.cli.commands.show import show
from cxr_ray.data.split import groups_of
from cxr_ray.errors import UserError
from cxr_ray.evaluation import rescore
from cxr_ray.evaluation.compare import compare
from cxr_ray.metrics import RATES, WHOLE_METRICS, compute_metrics
from cxr_ray.metrics.intervals import bca, bootstrap, jackknife
from cxr_ray.metrics.table import decide
from cxr_ray.report import run_page
from tests.report.test_run_page import MANY, make_run, predictions

LABELS = MANY[:3]


def made(
    folder: Path, name: str, *, skill: float = 2.0, labels: list[str] | None = None, **hyperparameters: Any
) -> runs.Run:
    labels = labels or LABELS
    hyperparameters = {"report": {"bootstrap": 100}, **hyperparameters}
    run = make_run(folder / name, labels, "multilabel", rows=120, skill=skill, **hyperparameters)
    # make_run gives every part its own rows; val and test must lie apart, as a store's do.
    val = predictions(labels, "multilabel", 120, skill, 2)
    run.write_predictions("val", val.assign(row=val["row"] + 100_000))
    return run


def test_a_difference_is_that_of_the_two_judges(tmp_path: Path) -> None:
    one, two = made(tmp_path, "one", skill=1.0), made(tmp_path, "two", skill=3.0)
    found = compare([one, two])
    assert found["part"] == "test" and found["rows"] == 120 and found["notes"] == []
    values = []
    for run in (one, two):
        table = run.predictions("test")
        truth, prob = (table[[f"{k}/{name}" for name in LABELS]].to_numpy() for k in ("true", "prob"))
        judged = compute_metrics(truth, prob, labels=LABELS, task="multilabel", thresholds_L=[0.5] * 3)
        values.append({(v.metric, v.label): v.value for v in judged})
    (pair,) = found["pairs"]
    assert (pair["first"], pair["second"]) == ("one", "two")
    for row in pair["rows"]:
        key = row["metric"], row["label"]
        assert row["value"] == pytest.approx(values[1][key] - values[0][key], abs=1e-12), key
        assert row["low"] <= row["value"] <= row["high"] and 0 < row["p"] <= 1
    better = next(r for r in pair["rows"] if (r["metric"], r["label"]) == ("auroc", LABELS[0]))
    assert better["low"] > 0 and better["p"] < 0.05 and better["delong_p"] < 0.05
    assert found["seeds"] is not None  # nothing but their names differs
    page = tmp_path / "compare.html"
    run_page.write_comparison(found, page)
    text = page.read_text()
    assert "two less one" in text and "Not a medical device" in text and "secret" not in text


def test_rows_that_not_all_have_are_left_out_and_truth_that_differs_too(tmp_path: Path) -> None:
    one, two = made(tmp_path, "one"), made(tmp_path, "two")
    table = two.predictions("test").iloc[::-1].iloc[20:].copy()  # another order, twenty rows less
    table.iloc[0, table.columns.get_loc(f"true/{LABELS[0]}")] = np.nan
    two.write_predictions("test", table)
    found = compare([one, two])
    assert found["rows"] == 100
    assert any("one: 20 of 120 rows of test" in note for note in found["notes"])
    assert any("1 cells of the truth differ" in note for note in found["notes"])
    assert all(row["value"] == 0.0 for row in found["pairs"][0]["rows"])  # the same model on the same rows


def test_what_differs_is_listed_and_seeds_are_summed_up(tmp_path: Path) -> None:
    three = [made(tmp_path, f"s{k}", skill=2 + 0.1 * k, seed=k) for k in range(3)]
    found = compare(three)
    assert [c["differs"] for c in found["config"]] == [["seed: 0 -> 1"], ["seed: 0 -> 2"]]
    row = next(r for r in found["seeds"] if (r["metric"], r["label"]) == ("auroc", "mean"))
    held = [
        v["value"] for run in found["runs"] for v in run["values"] if (v["metric"], v["label"]) == ("auroc", "mean")
    ]
    assert row["mean"] == pytest.approx(np.mean(held)) and row["deviation"] == pytest.approx(np.std(held, ddof=1))
    assert row["between"][0] < row["mean"] < row["between"][1]
    other = made(tmp_path, "lr", optim={"lr": 0.5})
    assert compare([three[0], other])["seeds"] is None
    assert compare([three[0], other])["config"][0]["differs"] == ["optim.lr: 0.0001 -> 0.5"]


def test_what_cannot_be_compared_is_one_line(tmp_path: Path) -> None:
    one = made(tmp_path, "one")
    with pytest.raises(UserError, match="given twice"):
        compare([one, one])
    with pytest.raises(UserError, match="two runs or more"):
        compare([one])
    with pytest.raises(UserError, match="share no label"):
        compare([one, made(tmp_path, "others", labels=["Mass", "Nodule"])])
    with pytest.raises(UserError, match="tasks differ"):
        compare([one, make_run(tmp_path / "bin", ["Edema"], "binary", rows=30)])
    apart = made(tmp_path, "apart")
    apart.write_predictions("test", apart.predictions("test").assign(row=lambda t: t["row"] + 10_000))
    with pytest.raises(UserError, match="no rows of test in common"):
        compare([one, apart])
    twice = made(tmp_path, "twice")
    twice.write_predictions("test", pd.concat([twice.predictions("test")] * 2))
    with pytest.raises(UserError, match="hold a row twice"):
        compare([one, twice])
    other = made(tmp_path, "other")
    other.update(store={**other.info["store"], "fingerprint": "ff", "source": "nih"})
    with pytest.raises(UserError, match="no rows in common: their data are chexpert, nih"):
        compare([one, other])


def test_every_metric_is_compared_and_bca_is_taken_where_it_was_asked_for(tmp_path: Path) -> None:
    asked = {"report": {"bootstrap": 100, "interval": "bca"}}
    one, two = made(tmp_path, "one", skill=1.0, **asked), made(tmp_path, "two", skill=3.0, **asked)
    found = compare([one, two])
    (pair,) = found["pairs"]
    held = {(r["metric"], r["label"]): r for r in pair["rows"]}
    assert {m for m, _ in held} == {*RATES, *WHOLE_METRICS["multilabel"]}
    tables = []
    for run in (one, two):
        frame = run.predictions("test")
        truth, prob = (frame[[f"{k}/{name}" for name in LABELS]].to_numpy() for k in ("true", "prob"))
        tables.append(decide(truth, prob, labels=LABELS, task="multilabel", thresholds_L=[0.5] * 3))
    group = groups_of(one.predictions("test")["patient"], 120)
    both = dict(zip(("a", "b"), tables, strict=True))
    drawn, left = bootstrap(both, group, resamples=100, rng=np.random.default_rng(0)), jackknife(both, group)
    for key in (("brier", LABELS[1]), ("npv", "mean"), ("hamming", "")):
        gap_R, gap_J = drawn["b"][key] - drawn["a"][key], left["b"][key] - left["a"][key]
        want = bca(gap_R, held[key]["value"], gap_J)
        assert want is not None and (held[key]["low"], held[key]["high"]) == pytest.approx((want.low, want.high)), key


def test_rows_that_no_run_predicted_are_said(tmp_path: Path) -> None:
    """Both lack the same rows: no row is in one alone, and still the table is smaller than the part."""
    one, two = made(tmp_path, "one"), made(tmp_path, "two")
    for run in (one, two):
        run.write_predictions("test", run.predictions("test").iloc[:90])
    said = "30 of 120 rows of test are missing from the predictions of one"
    assert compare([one, two])["notes"][0].startswith(said)
    assert rescore.rescore(one, "test").notes[0].startswith(said) and rescore.rescore(one, "val").notes == ()
    one.write_predictions("test", pd.concat([one.predictions("test")] * 2))
    with pytest.raises(UserError, match="test in one hold a row twice"):
        rescore.rescore(one, "test")


# A run drawn again.


def test_other_labels_and_thresholds_are_the_judge_of_those_columns(tmp_path: Path) -> None:
    run = made(tmp_path, "one")
    chosen = LABELS[:2]
    drawn = rescore.rescore(run, "test", labels=chosen, thresholds={chosen[0]: 0.2})
    table = run.predictions("test")
    truth, prob = (table[[f"{k}/{name}" for name in chosen]].to_numpy() for k in ("true", "prob"))
    assert drawn.values == compute_metrics(truth, prob, labels=chosen, task="multilabel", thresholds_L=[0.2, 0.5])
    val = run.predictions("val")
    by_rule = rescore.rescore(run, "test", thresholds={"recall": 0.8})
    at = by_rule.points[LABELS[0]].threshold
    positives = val.loc[val[f"true/{LABELS[0]}"] == 1, f"prob/{LABELS[0]}"]
    assert (positives >= at).mean() >= 0.8  # chosen on val, applied to test
    with pytest.raises(UserError, match="has no predictions of train"):
        rescore.rescore(run, "train")


def test_both_is_train_and_val_and_says_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made(tmp_path, "one")
    show(run.path, split="both", thresholds=["0.2"])
    said = capsys.readouterr().out
    assert "val of one" in said and "test of one" not in said and "--split train makes them" in said
    assert run.info["test_looks"] == 1  # test was not looked at
    run.write_predictions("train", predictions(LABELS, "multilabel", 60, 2.0, 1))
    show(run.path, split="both", thresholds=["0.2"])
    assert "train of one" in capsys.readouterr().out


def test_groups_of_labels_are_those_the_run_has(tmp_path: Path) -> None:
    run = made(tmp_path, "one")
    run.update(store={**run.info["store"], "groups": {"pair": [LABELS[2], LABELS[0], "Mass"]}})
    assert rescore.chosen_labels(run, "pair") == [LABELS[0], LABELS[2]]
    assert rescore.chosen_labels(run, None) == LABELS
    with pytest.raises(UserError, match="did you mean 'Cardiomegaly'"):
        rescore.chosen_labels(run, ["Cardiomegally"])


def test_thresholds_by_group_of_labels_are_those_of_its_labels(tmp_path: Path) -> None:
    """The run's own, of which a comparison wants those of the shared labels alone; and one that is asked for."""
    one = made(tmp_path, "one", report={"bootstrap": 10, "thresholds": {"pair": 0.2, LABELS[1]: 0.3}})
    two = made(tmp_path, "two", labels=LABELS[:2])
    for run in (one, two):
        run.update(groups={"pair": [LABELS[0], *([LABELS[2]] if run is one else [])]})
    told = compare([one, two])["runs"]
    assert told[0]["thresholds"] == {LABELS[0]: 0.2, LABELS[1]: 0.3}
    assert told[1]["thresholds"] == dict.fromkeys(LABELS[:2], 0.5)
    asked = compare([one, two], thresholds={"pair": 0.4})["runs"]
    assert [t["thresholds"] for t in asked] == [{LABELS[0]: 0.4, LABELS[1]: 0.5}] * 2
    drawn = rescore.rescore(one, "test", thresholds={"pair": 0.4})
    assert [p.threshold for p in drawn.points.values()] == [0.4, 0.5, 0.4]
    with pytest.raises(UserError, match="did you mean 'pair'"):
        compare([one, two], thresholds={"pairs": 0.4})


def test_epochs_are_judged_anew_where_their_predictions_were_kept(tmp_path: Path) -> None:
    run = made(tmp_path, "one")
    with pytest.raises(UserError, match="keep_predictions"):
        rescore.progress(run, thresholds=0.2)
    assert set(rescore.progress(run)["epoch"]) == set(range(5))  # as they were written
    for epoch in range(2):
        for part in ("train", "val"):
            run.write_predictions(f"epochs/{epoch:04d}-{part}", predictions(LABELS, "multilabel", 60, epoch, epoch))
    restart = rescore.progress(run, thresholds=0.2)
    table = pd.read_parquet(run.path / "predictions" / "epochs" / "0001-val.parquet")
    truth, prob = (table[[f"{k}/{name}" for name in LABELS]].to_numpy() for k in ("true", "prob"))
    want = {
        (v.metric, v.label): v.value
        for v in compute_metrics(truth, prob, labels=LABELS, task="multilabel", thresholds_L=[0.2] * 3)
    }
    here = restart[(restart["epoch"] == 1) & (restart["part"] == "val")]
    assert {(r.metric, r.label): r.value for r in here.itertuples()} == want


def test_runs_are_listed_with_what_they_reach(tmp_path: Path) -> None:
    made(tmp_path, "a")
    part, values = runs.list_runs(tmp_path)[0].headline()
    assert part == "test" and 0.5 < values["auroc"] <= 1
    shutil.rmtree(tmp_path / "a" / "predictions")
    (tmp_path / "a" / "evaluation-test.json").unlink()
    assert runs.list_runs(tmp_path)[0].headline() == ("", {})
    with pytest.raises(UserError, match="no folder"):
        runs.list_runs(tmp_path / "none")
