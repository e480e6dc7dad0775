"""Comparisons: matched rows, differences and their intervals against the metrics of each run, and runs that cannot be compared."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr_ray.data.split import groups_of
from cxr_ray.errors import UserError
from cxr_ray.evaluation.compare import compare, compare_tables
from cxr_ray.evaluation.prediction_table import EvaluationSettings, PredictionTable
from cxr_ray.metrics import OVERALL_METRICS, RATES, compute_metrics
from cxr_ray.metrics.intervals import bca, bootstrap, jackknife
from cxr_ray.metrics.table import decide
from cxr_ray.report import comparison_page
from tests.evaluation.example_runs import LABELS, example_run, truth_and_prob
from tests.report.test_run_page import make_run


def test_a_difference_is_that_of_the_metrics_of_both_runs(tmp_path: Path) -> None:
    one, two = example_run(tmp_path, "one", skill=1.0), example_run(tmp_path, "two", skill=3.0)
    comparison = compare([one, two])
    assert comparison["part"] == "test" and comparison["rows"] == 120 and comparison["notes"] == []
    values = []
    for run in (one, two):
        truth, prob = truth_and_prob(run, LABELS)
        metrics = compute_metrics(truth, prob, labels=LABELS, task="multilabel", thresholds_L=[0.5] * 3)
        values.append({(v.metric, v.label): v.value for v in metrics})
    (pair,) = comparison["pairs"]
    assert (pair["first"], pair["second"]) == ("one", "two")
    for row in pair["rows"]:
        key = row["metric"], row["label"]
        assert row["value"] == pytest.approx(values[1][key] - values[0][key], abs=1e-12), key
        assert row["low"] <= row["value"] <= row["high"] and 0 < row["p"] <= 1
    better = next(r for r in pair["rows"] if (r["metric"], r["label"]) == ("auroc", LABELS[0]))
    assert better["low"] > 0 and better["p"] < 0.05 and better["delong_p"] < 0.05
    assert comparison["seeds"] is None  # nothing but their names differs, so not the seed
    page = tmp_path / "compare.html"
    comparison_page.write(comparison, page)
    text = page.read_text()
    assert "two minus one" in text and "Not a medical device" in text and "secret" not in text


def test_rows_and_truth_that_runs_do_not_share_are_left_out(tmp_path: Path) -> None:
    one, two = example_run(tmp_path, "one"), example_run(tmp_path, "two")
    table = two.predictions("test").iloc[::-1].iloc[20:].copy()  # in another order, twenty rows fewer
    table.loc[table.index[0], f"true/{LABELS[0]}"] = np.nan
    two.write_predictions("test", table)
    comparison = compare([one, two])
    assert comparison["rows"] == 100 and [run["rows"] for run in comparison["runs"]] == [120, 100]
    assert any("one: 20 of 120 rows of test" in note for note in comparison["notes"])
    assert any("1 cells have different truth" in note for note in comparison["notes"])
    assert all(row["value"] == 0.0 for row in comparison["pairs"][0]["rows"])  # the same model on the same rows


def test_labels_that_not_every_run_has_are_listed(tmp_path: Path) -> None:
    comparison = compare([example_run(tmp_path, "one"), example_run(tmp_path, "two", labels=LABELS[:2])])
    assert comparison["labels"] == LABELS[:2]
    assert f"one: labels that not every run has are not compared ({LABELS[2]})" in comparison["notes"]


def test_differing_settings_are_listed_and_seeds_are_summarised(tmp_path: Path) -> None:
    three = [example_run(tmp_path, f"s{k}", skill=2 + 0.1 * k, seed=k) for k in range(3)]
    comparison = compare(three)
    assert [c["differs"] for c in comparison["config"]] == [["seed: 0 -> 1"], ["seed: 0 -> 2"]]
    row = next(r for r in comparison["seeds"] if (r["metric"], r["label"]) == ("auroc", "mean"))
    values = [
        v["value"]
        for run in comparison["runs"]
        for v in run["values"]
        if (v["metric"], v["label"]) == ("auroc", "mean")
    ]
    assert row["mean"] == pytest.approx(np.mean(values)) and row["deviation"] == pytest.approx(np.std(values, ddof=1))
    assert (row["low"], row["high"]) == (min(values), max(values))
    assert row["between"][0] < row["mean"] < row["between"][1]
    other = example_run(tmp_path, "lr", optim={"lr": 0.5})
    assert compare([three[0], other])["seeds"] is None
    assert compare([three[0], other])["config"][0]["differs"] == ["optim.lr: 0.0001 -> 0.5"]


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    one = example_run(tmp_path, "one")
    with pytest.raises(UserError, match="given twice"):
        compare([one, one])
    with pytest.raises(UserError, match="two runs or more"):
        compare([one])
    with pytest.raises(UserError, match=r"no common label \(one: .*; others: Mass, Nodule\)"):
        compare([one, example_run(tmp_path, "others", labels=["Mass", "Nodule"])])
    with pytest.raises(UserError, match="tasks differ"):
        compare([one, make_run(tmp_path / "bin", ["Edema"], "binary", rows=30)])
    apart = example_run(tmp_path, "apart")
    apart.write_predictions("test", apart.predictions("test").assign(row=lambda t: t["row"] + 10_000))
    with pytest.raises(UserError, match="no common rows of test"):
        compare([one, apart])
    twice = example_run(tmp_path, "twice")
    twice.write_predictions("test", pd.concat([twice.predictions("test")] * 2))
    with pytest.raises(UserError, match="have a duplicate row"):
        compare([one, twice])
    other = example_run(tmp_path, "other")
    other.update(store={**other.info["store"], "fingerprint": "ff", "source": "nih"})
    with pytest.raises(UserError, match="no common rows: their sources are chexpert, nih"):
        compare([one, other])
    unevaluated = example_run(tmp_path, "unevaluated")
    for part in ("test", "val"):
        (unevaluated.path / "predictions" / f"{part}.parquet").unlink()
    with pytest.raises(UserError, match="no common part with predictions"):
        compare([one, unevaluated])


def test_rows_of_two_stores_of_one_source_are_matched_by_the_row_of_its_table(tmp_path: Path) -> None:
    one, two = example_run(tmp_path, "one"), example_run(tmp_path, "two", skill=3.0)
    expected = compare([one, two])["pairs"]
    table = two.predictions("test")
    two.write_predictions("test", table.assign(row=table["row"] + 5000).sample(frac=1.0, random_state=0))
    two.update(store={**two.info["store"], "fingerprint": "ff"})
    comparison = compare([one, two])
    assert comparison["pairs"] == expected and comparison["data"][1]["train_shared"] is None
    assert any("different stores of one source" in note for note in comparison["notes"])


def test_every_metric_is_compared_with_bca_intervals_if_set(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"report": {"bootstrap": 100, "interval": "bca"}}
    one, two = example_run(tmp_path, "one", skill=1.0, **settings), example_run(tmp_path, "two", skill=3.0, **settings)
    (pair,) = compare([one, two])["pairs"]
    rows = {(r["metric"], r["label"]): r for r in pair["rows"]}
    assert {m for m, _ in rows} == {*RATES, *OVERALL_METRICS["multilabel"]}
    both = {}
    for name, run in (("a", one), ("b", two)):
        truth, prob = truth_and_prob(run, LABELS)
        both[name] = decide(truth, prob, labels=LABELS, task="multilabel", thresholds_L=[0.5] * 3)
    group = groups_of(one.predictions("test")["patient"], 120)
    samples = bootstrap(both, group, resamples=100, rng=np.random.default_rng(0))
    left_out = jackknife(both, group)
    for key in (("brier", LABELS[1]), ("npv", "mean"), ("hamming", "")):
        gap_R, gap_J = samples["b"][key] - samples["a"][key], left_out["b"][key] - left_out["a"][key]
        expected = bca(gap_R, rows[key]["value"], gap_J)
        assert expected is not None
        assert (rows[key]["low"], rows[key]["high"]) == pytest.approx((expected.low, expected.high)), key


def test_two_tables_are_compared_as_two_runs_and_by_their_averages(tmp_path: Path) -> None:
    one, two = example_run(tmp_path, "one", skill=1.0), example_run(tmp_path, "two", skill=3.0)
    first, second = (PredictionTable(run.predictions("test"), LABELS, "multilabel") for run in (one, two))
    rows = compare_tables(first, second, EvaluationSettings(bootstrap=100))
    averages = [row for row in rows if row["label"] in ("micro", "weighted")]
    assert [row for row in rows if row not in averages] == compare([one, two])["pairs"][0]["rows"]
    values = []
    for run in (one, two):
        truth, prob = truth_and_prob(run, LABELS)
        metrics = compute_metrics(truth, prob, labels=LABELS, task="multilabel", thresholds_L=[0.5] * 3)
        values.append({(v.metric, v.label): v.value for v in metrics})
    assert {(row["metric"], row["label"]) for row in averages} == {
        k for k in values[0] if k[1] in ("micro", "weighted")
    }
    for row in averages:
        key = row["metric"], row["label"]
        assert row["value"] == pytest.approx(values[1][key] - values[0][key], abs=1e-12), key
        assert row["low"] <= row["value"] <= row["high"]
    with pytest.raises(UserError, match="different rows"):
        compare_tables(first, PredictionTable(two.predictions("val"), LABELS, "multilabel"), EvaluationSettings())


def test_rows_without_predictions_are_in_the_notes(tmp_path: Path) -> None:
    """Both runs lack the same rows, so no row is in only one of them, but the table is smaller than the part."""
    one, two = example_run(tmp_path, "one"), example_run(tmp_path, "two")
    for run in (one, two):
        run.write_predictions("test", run.predictions("test").iloc[:90])
    note = "30 of 120 rows of test are missing from the predictions of one"
    assert compare([one, two])["notes"][0].startswith(note)


def test_thresholds_of_a_label_group_are_those_of_its_labels(tmp_path: Path) -> None:
    """Of the run's own thresholds a comparison uses those of the common labels; given ones apply to all runs."""
    one = example_run(tmp_path, "one", report={"bootstrap": 10, "thresholds": {"pair": 0.2, LABELS[1]: 0.3}})
    two = example_run(tmp_path, "two", labels=LABELS[:2])
    for run in (one, two):
        run.update(groups={"pair": [LABELS[0], *([LABELS[2]] if run is one else [])]})
    entries = compare([one, two])["runs"]
    assert entries[0]["thresholds"] == {LABELS[0]: 0.2, LABELS[1]: 0.3}
    assert entries[1]["thresholds"] == dict.fromkeys(LABELS[:2], 0.5)
    given = compare([one, two], thresholds={"pair": 0.4})["runs"]
    assert [entry["thresholds"] for entry in given] == [{LABELS[0]: 0.4, LABELS[1]: 0.5}] * 2
    with pytest.raises(UserError, match="did you mean 'pair'"):
        compare([one, two], thresholds={"pairs": 0.4})


def test_perfect_runs_have_no_intervals_of_no_width(tmp_path: Path) -> None:
    """All resamples are equal: a share has Wilson's interval, as in a report, and other metrics have none."""
    two = [example_run(tmp_path, f"seed-{i}", seed=i, skill=200.0) for i in range(2)]
    comparison = compare(two)
    for run in comparison["runs"]:
        values = {(v["metric"], v["label"]): v for v in run["values"]}
        assert values["recall", LABELS[0]]["value"] == 1.0 and values["recall", LABELS[0]]["method"] == "wilson"
        assert values["auroc", LABELS[0]]["no_interval"] == "every resample gives the same value"
        assert all(v["low"] < v["high"] for v in run["values"] if "low" in v)
    assert comparison["seeds"] and not any("between" in row for row in comparison["seeds"])
    assert all(
        row["value"] == 0.0 and row["p"] == 1.0 for row in comparison["pairs"][0]["rows"] if row["metric"] == "recall"
    )
    better = compare([example_run(tmp_path, "weak", skill=0.3), two[0]])["pairs"][0]["rows"]
    bounded = next(r for r in better if (r["metric"], r["label"]) == ("auroc", LABELS[0]))
    assert bounded["p_is_bound"] and bounded["p"] == pytest.approx(2 / 101)


def test_labels_that_the_interval_of_a_mean_leaves_out_are_named(tmp_path: Path) -> None:
    """One positive is missing from 37% of the resamples: the mean of these is over the other labels, its value over all."""
    two = [example_run(tmp_path, name, skill=skill) for name, skill in (("one", 1.0), ("two", 2.0))]
    assert not any("over the other labels" in line for line in compare(two)["notes"])
    for run in two:
        table = run.predictions("test")
        run.write_predictions("test", table.assign(**{f"true/{LABELS[1]}": (np.arange(len(table)) == 3) * 1.0}))
    found = compare(two)
    (note,) = (line for line in found["notes"] if "over the other labels" in line)
    assert f"no negative of {LABELS[1]}, and" in note
    rows = {(row["metric"], row["label"]): row for row in found["pairs"][0]["rows"]}
    gaps = [rows["auroc", label]["value"] for label in LABELS]
    assert rows["auroc", "mean"]["value"] == pytest.approx(np.mean(gaps)) and "low" not in rows["auroc", LABELS[1]]
