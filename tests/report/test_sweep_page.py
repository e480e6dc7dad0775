"""The page of a sweep: what it says at every stage, what it must not hold, what it costs to write again, how it looks."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr_ray.report import plots, render, sweep_figures, sweep_page, sweep_sections
from cxr_ray.report import sweep_plots as draw
from cxr_ray.tuning import ranking
from cxr_ray.tuning.importance import FEWEST, importance
from cxr_ray.tuning.sweep import Sweep
from cxr_ray.tuning.trial import FAILED, FINISHED, RUNNING, STOPPED, WAITING, Trial
from tests.fakes.sweep import CHEXPERT, make_sweep, worth

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
THREE = ("Edema", "Mass", "Effusion")
CONSTRAINT = "val/recall/mean >= 0.4"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Sixteen trials on twelve labels, ended: seven early, one failed."""
    sweep = make_sweep(tmp_path_factory.mktemp("runs") / "lr-and-weights", worth=worth(), constraint=CONSTRAINT)
    sweep_page.write(sweep)
    return sweep


def text_of(sweep: Sweep) -> str:
    return (sweep.path / "sweep.html").read_text(encoding="utf-8")


def words(page: str) -> str:
    """What is read: no tags, scripts or styles, blanks single."""
    page = re.sub(r"<(style|script|svg).*?</\1>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", page)))


def section(page: str, name: str) -> str:
    found = re.search(rf'<section id="{name}">(.*?)</section>', page, re.DOTALL)
    assert found, name
    return found[1]


def table_rows(part: str, at: int = 0) -> list[list[str]]:
    """The cells of a section's table, as they are read."""
    table = re.findall(r"<table.*?</table>", part, re.DOTALL)[at]
    rows = re.findall(r"<tr.*?</tr>", table, re.DOTALL)
    return [[words(c).strip() for c in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)] for row in rows]


# What it says


def test_the_page_is_one_file_that_loads_nothing(whole: Sweep) -> None:
    page = text_of(whole)
    loaded = re.findall(r'(?:src|href|xlink:href)="([^"]*)"', page)
    assert loaded and all(a.startswith(("#", "data:")) for a in loaded)
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]+"', "", page)
    assert not re.search(r"/(tmp|root|home)/", words(re.sub(r"<pre>.*?</pre>", "", page, flags=re.DOTALL)))
    ids = re.findall(r'\sid="([^"]+)"', re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL))
    assert len(ids) == len(set(ids))
    # Within the figures an id may stand twice only for the very same thing: matplotlib names marks and clips by content.
    defined: dict[str, str] = {}
    for tag, name in re.findall(r'(<\w+ id="([^"]+)".*?>)', "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))):
        assert defined.setdefault(name, tag) == tag


def test_winner_state_and_constraint_are_told(whole: Sweep) -> None:
    said = words(section(text_of(whole), "result"))
    best = whole.ranked()[0]
    assert f"The best of 15 on val: trial {best.trials[0].name}" in said
    assert f"{best.values[0]:.3f}" in said
    assert "16 of 16 trials ended" in said and "1 failed" in said
    met = sum(t.values.get("val/recall/mean", 0) >= 0.4 for t in whole.trials if t.status != FAILED)
    assert f"{CONSTRAINT}: met by {met} of the 15 judged" in said
    for hyperparameter, value in best.hyperparameters.items():
        assert hyperparameter in said and draw.text(value) in said


def test_no_trial_meeting_the_constraint_is_said(tmp_path: Path) -> None:
    sweep = make_sweep(
        tmp_path / "s", trials=3, labels=THREE, failed=(), epochs=2, constraint="val/recall/mean >= 0.99"
    )
    said = words(section(sweep_page.write(sweep).read_text(encoding="utf-8"), "result"))
    assert "No trial meets val/recall/mean >= 0.99, so the best by mean ROC AUC alone stands here" in said
    assert "met by 0 of the 3" in said


def test_what_was_searched_on_what(whole: Sweep) -> None:
    said = words(section(text_of(whole), "searched"))
    for piece in (
        "1e-06 to 0.001, even in the logarithm",
        "0, 50, 150, 500",
        "train 3,600, val 400, test 1,000 rows",
        "zeros, ones, ignore",
    ):
        assert piece in said
    assert all(label in said for label in CHEXPERT)


def test_the_map_holds_every_value_and_marks_the_best_of_each_label(whole: Sweep) -> None:
    """Against the trials themselves, cell by cell."""
    maps = section(text_of(whole), "maps")
    judged = [r.trials[0] for r in whole.ranked()]
    for at, metric in enumerate(("recall", "auroc", "ap")):
        head, *rows = table_rows(maps, at)
        assert head == ["Trial", "Mean", *CHEXPERT]
        assert [r[0].strip("◆ ") for r in rows] == [t.name for t in judged]
        for row, trial in zip(rows, judged, strict=True):
            want = [trial.values[f"val/{metric}/{k}"] for k in ("mean", *CHEXPERT)]
            assert row[1:] == [f"{v:.3f}" for v in want]
        table = re.findall(r"<table.*?</table>", maps, re.DOTALL)[at]
        assert table.count('class="best"') >= len(CHEXPERT)


def test_the_best_of_each_label_is_the_largest(whole: Sweep) -> None:
    _, *rows = table_rows(section(text_of(whole), "labels"))
    best = whole.ranked()[0].trials[0]
    trials = {t.name: t for t in whole.trials if t.status != FAILED}
    for row in rows:
        label = row[0]
        for (value, name, winner), metric in zip(
            (row[1:4], row[4:7], row[7:10]), ("recall", "auroc", "ap"), strict=True
        ):
            key = f"val/{metric}/{label}"
            top = max(t.values[key] for t in trials.values())
            assert value.split()[0] == f"{top:.3f}" and trials[name].values[key] == top
            assert winner == f"{best.values[key]:.3f}"


def test_worth_says_what_is_noise(whole: Sweep) -> None:
    said = words(section(text_of(whole), "worth"))
    assert re.search(
        r"Against the second \(0003\): \+0\.007 mean ROC AUC on val \(−0\.015 to \+0\.036, p 0\.310\)\. Within noise",
        said,
    )
    assert re.search(r"Against the config as written \(0000\): \+0\.021 .*? More than chance gives", said)
    assert "Trials 0003, 0007 together" in said and "0.842" in said
    # The objective first, then the order of worth.
    assert said.index("Mean ROC AUC") < said.index("Mean recall") < said.index("Mean precision")


def test_a_loss_against_the_config_as_written_is_not_called_a_win() -> None:
    one = {
        "what": "the config as written",
        "metric": "auroc",
        "part": "val",
        "value": -0.02,
        "low": -0.03,
        "high": -0.01,
        "p": 0.01,
    }
    assert sweep_sections._lead(one).endswith("It is worse.")
    assert sweep_sections._lead({**one, "mode": "min", "metric": "brier"}).endswith("More than chance gives.")
    assert "no interval" in sweep_sections._lead({**one, "low": None, "high": None, "p": None})


def test_a_lead_is_of_its_own_label_and_says_what_the_folds_say() -> None:
    one = {"what": "the second", "trial": "0003", "metric": "auroc", "label": "Edema", "part": "val", "value": 0.02,
           "low": 0.01, "high": 0.03, "p": 0.01, "folds": 5, "folds_better": 4, "by_fold": 0.018}  # fmt: skip
    assert sweep_sections._lead(one) == (
        "Against the second (0003): +0.020 ROC AUC of Edema on val (+0.010 to +0.030, p 0.010). More than chance gives. "
        "Better on 4 of 5 folds, the means over folds differ by +0.018."
    )


def test_the_winner_s_folds_are_told(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", trials=2, labels=THREE, failed=(), epochs=1, worth=worth())
    held = {"mean": 0.8123, "deviation": 0.0312, "values": [0.79, 0.83]}
    test = {"auroc": {"label": "mean", "value": 0.801, "low": 0.77, "high": 0.83}}
    sweep.update(folds={"runs": ["fold-0", "fold-1"], "objectives": {"val/auroc/mean": held}, "test": test})
    said = words(section(sweep_page.write(sweep).read_text(encoding="utf-8"), "worth"))
    assert "The best trial's knobs on 2 folds" in said and "Mean ROC AUC on val: 0.812 ± 0.031 between folds" in said
    assert "Their ensemble, judged on test: Mean ROC AUC 0.801" in said


def test_a_trial_that_failed_is_listed_with_its_reason_and_nowhere_judged(whole: Sweep) -> None:
    page = text_of(whole)
    assert table_rows(section(page, "failed"))[1] == [
        "0005", "the loss of step 41 (epoch 1) is not a number: the training has diverged: lower optim.lr",
    ]  # fmt: skip
    assert "0005" not in section(page, "maps") and "0005" not in section(page, "labels")


def test_the_table_holds_every_trial(whole: Sweep) -> None:
    head, *rows = table_rows(section(text_of(whole), "trials"))
    assert {r[0].strip("◆ ") for r in rows} == {t.name for t in whole.trials}
    assert head[:3] == ["Trial", "State", "Mean ROC AUC"] and "Meets" in head and head[-2:] == ["Epochs", "Seconds"]
    by = {t.name: t for t in whole.trials}
    for row in rows:
        assert row[1] == by[row[0].strip("◆ ")].status


def test_csv_holds_a_row_a_trial_and_a_column_a_metric_and_label(whole: Sweep) -> None:
    table = pd.read_csv(whole.path / "sweep.csv", dtype={"trial": str})
    assert list(table.columns[:5]) == ["trial", "status", "epochs", "epoch", "seconds"]
    for trial in whole.trials:
        row = table[table["trial"] == trial.name].iloc[0]
        assert row["status"] == trial.status and row["optim.lr"] == trial.hyperparameters.get("optim.lr", 1e-4)
        for name, value in trial.values.items():
            assert row[name.removeprefix("val/")] == pytest.approx(value)


def test_cost_counts_what_early_ends_saved() -> None:
    """By hand: two trials to their 4 epochs, one of 2 that took 10 s: 2 epochs of 5 s saved of 20 + 20 + 20."""

    class Config:
        class train:
            epochs = 4

    base = Trial("0000", 0, {}, status=FINISHED, epochs=4, seconds=20.0)
    trials = [base, replace(base, name="0001"), replace(base, name="0002", status=STOPPED, epochs=2, seconds=10.0),
              Trial("0003", 3, {}, status=WAITING)]  # fmt: skip
    found = sweep_sections._costs(trials, Config, {"seconds": 25.0, "status": "finished"})  # type: ignore[arg-type]
    assert found is not None
    assert (found["seconds"], found["epochs"], found["full"], found["saved"]) == (50.0, 10, 12, 10.0)
    assert found["share"] == pytest.approx(1 / 6) and found["at_once"] == 2.0


def test_time_left_comes_from_the_trials_that_ended() -> None:
    """Two ended at 4 epochs of 5 s; one of two running has 3, six wait: (1 + 4 + 6 x 4) epochs by two at a time."""
    done = Trial("0000", 0, {}, status=FINISHED, epochs=4, seconds=20.0)
    running = [Trial("a", 1, {}, status=RUNNING, epochs=3), Trial("b", 2, {}, status=RUNNING, epochs=0)]
    waiting = [Trial(str(i), i, {}, status=WAITING) for i in range(6)]
    info = {"status": "started", "planned": 10}
    found = sweep_sections._state(info, [done, done, *running, *waiting], None)  # type: ignore[arg-type]
    assert found["left_s"] == pytest.approx((1 + 4 + 24) * 5 / 2)
    assert (found["ended"], found["running"], found["planned"]) == (2, 2, 10)
    assert sweep_sections._state({**info, "status": "stopped"}, [done, *running], None)["left_s"] is None  # type: ignore[arg-type]
    assert sweep_sections._state(info, [*running, *waiting], None)["left_s"] is None  # type: ignore[arg-type]


# At every stage


def test_nothing_judged_yet(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", trials=4, waiting=range(4), failed=(), status="started", labels=THREE)
    page = sweep_page.write(sweep).read_text(encoding="utf-8")
    assert "No trial has been judged yet" in page and "0 of 4 trials ended" in words(page)
    assert len(pd.read_csv(sweep.path / "sweep.csv")) == 4
    assert not (sweep.path / "figures").exists()


def test_a_sweep_without_a_single_trial(tmp_path: Path) -> None:
    """As optuna's begins: trials are made one after another."""
    sweep = make_sweep(tmp_path / "s", trials=1, waiting=(0,), failed=(), status="started", labels=THREE)
    (sweep.path / "trials.json").unlink()
    assert "No trial has been judged yet" in sweep_page.write(sweep).read_text(encoding="utf-8")


def test_all_failed(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", trials=2, failed=(0, 1), labels=THREE)
    said = words(sweep_page.write(sweep).read_text(encoding="utf-8"))
    assert "No trial has been judged yet" in said and "2 failed" in said


def test_while_trials_run(tmp_path: Path) -> None:
    sweep = make_sweep(
        tmp_path / "s", trials=6, status="started", running=(3, 4), waiting=(5,), failed=(2,), labels=THREE
    )
    said = words(sweep_page.write(sweep).read_text(encoding="utf-8"))
    assert (
        "so far" in said
        and "3 of 6 trials ended" in said
        and "2 running" in said
        and re.search(r"about \d+ (s|min) left", said)
    )
    assert not (sweep.path / "figures").exists()  # PNGs come at the end
    sweep.update(status="finished")
    sweep_page.write(sweep)
    assert (sweep.path / "figures" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_few_trials_give_no_importance(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", trials=3, failed=(), labels=THREE, epochs=2)
    page = sweep_page.write(sweep).read_text(encoding="utf-8")
    assert f"Too few trials to say: 3 judged, and a forest over the knobs needs {FEWEST} that differ" in words(page)


def test_folds_stand_as_one_with_their_spread(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", trials=3, folds=3, scheduler="none", failed=(), labels=THREE, epochs=2)
    page = sweep_page.write(sweep).read_text(encoding="utf-8")
    best = sweep.ranked()[0]
    assert f"± {best.deviation[0]:.3f} between folds" in words(page)
    _, *rows = table_rows(section(page, "trials"))
    assert [r[0].strip("◆ ") for r in rows] == [f"{r.number:04d}" for r in sweep.ranked()]
    values = [t.values["val/auroc/mean"] for t in best.trials]
    assert rows[0][2] == f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"
    assert len(pd.read_csv(sweep.path / "sweep.csv")) == 9


def test_a_list_of_combinations_and_one_label(tmp_path: Path) -> None:
    """The framework's loop over models: knobs that are words, and a knob that some combinations leave as written."""
    combinations = [
        {"model.name": "lenet"},
        {"model.name": "resnet18", "optim.lr": 1e-3},
        {"model.name": "mobilenet_v2"},
    ]
    sweep = make_sweep(
        tmp_path / "s", trials=4, search="list", space={}, combinations=combinations, failed=(), labels=("Edema",), epochs=2,
        scheduler="none", base=False,
    )  # fmt: skip
    page = sweep_page.write(sweep).read_text(encoding="utf-8")
    assert "lenet, resnet18, mobilenet_v2" in words(section(page, "searched"))
    assert "knob-model_name.png" in {p.name for p in (sweep.path / "figures").iterdir()}


def test_several_objectives_show_what_no_trial_beats(tmp_path: Path) -> None:
    metric = ["val/auroc/mean", "val/precision/mean", "val/loss"]
    sweep = make_sweep(tmp_path / "s", trials=8, failed=(), labels=THREE, metric=metric, mode=["max", "max", "min"])
    page = sweep_page.write(sweep).read_text(encoding="utf-8")
    _, *rows = table_rows(section(page, "front"))
    values = {r.trials[0].name: r.values for r in sweep.ranked()}

    def beats(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
        gain = [x - y for x, y in zip(a[:2], b[:2], strict=True)] + [b[2] - a[2]]
        return min(gain) >= 0 and max(gain) > 0

    front = {n for n, v in values.items() if not any(beats(w, v) for w in values.values())}
    table = pd.read_csv(sweep.path / "sweep.csv", dtype={"trial": str})
    assert set(table.loc[table["pareto"], "trial"]) == front and 0 < len(front) < len(table)
    assert {r[0] for r in rows} == front and "at least as good in all" in words(page)


@pytest.mark.parametrize(("kind", "written", "said"), [("loguniform", 0.0, "0"), ("uniform", None, "null")])
def test_an_interval_keeps_its_axis_where_the_config_as_written_lies_off_it(kind: str, written: Any, said: str) -> None:
    """No weight decay beside 1e-6 to 1e-2, no clipping beside 0.5 to 5."""
    ends = [1e-6, 1e-2]
    scale = draw.scale("x", [written, 1e-4, 1e-3], kind, ends)
    plain = draw.scale("x", [1e-4, 1e-3], kind, ends)
    assert (scale.kind, scale.low, scale.high) == (plain.kind, 1e-6, 1e-2) and scale.off == (said,)
    assert scale.place(written) == 0.0 and np.isnan(scale.at(written)) and plain.off == ()
    for value in (1e-6, 1e-4, 1e-2):
        assert scale.at(value) == value and scale.place(value) == pytest.approx(0.1 + 0.9 * plain.place(value))
    assert scale.ticks()[0] == (0.0, said) and len(scale.ticks()) == len(plain.ticks()) + 1


def test_a_base_off_the_axis_is_drawn(tmp_path: Path) -> None:
    space = {"optim.weight_decay": {"loguniform": [1e-6, 1e-2]}, "optim.clip_norm": {"uniform": [0.5, 5.0]}}
    sweep = make_sweep(tmp_path / "s", trials=4, labels=THREE, failed=(), epochs=1, space=space)
    assert sweep.config.optim.weight_decay == 0 and sweep.config.optim.clip_norm is None
    sweep_page.write(sweep)
    assert {"knob-optim_weight_decay.png", "parallel.png"} <= {p.name for p in (sweep.path / "figures").iterdir()}


def test_less_is_better(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", trials=4, failed=(), labels=THREE, metric="val/loss", mode="min", epochs=2)
    page = sweep_page.write(sweep).read_text(encoding="utf-8")
    losses = [r.values[0] for r in sweep.ranked()]
    assert losses == sorted(losses) and f"{losses[0]:.3f}" in words(section(page, "result"))
    assert "loss on val (less is better)" in words(page)


def test_text_of_others_is_text(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", trials=3, labels=("Edema", "<b>Mass</b>"), failed=(2,), epochs=2)
    sweep.run("0002").update(error="<script>alert(1)</script>")
    sweep.update(warnings=["a < b & c"])
    page = sweep_page.write(sweep).read_text(encoding="utf-8")
    assert (
        "<script>alert" not in page
        and "&lt;script&gt;alert(1)" in page
        and "<b>Mass" not in page
        and "a &lt; b &amp; c" in page
    )


# Written again


def test_figures_whose_numbers_stay_are_not_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = make_sweep(tmp_path / "s", trials=12, failed=(), labels=THREE, status="started", running=(11,))
    sweep_page.write(sweep)
    drawn: list[str] = []
    real = draw.marked
    monkeypatch.setattr(draw, "marked", lambda figure: drawn.append("x") or real(figure))
    before = text_of(sweep)
    began = time.process_time()
    sweep_page.write(sweep)
    again = time.process_time() - began
    assert drawn == [] and text_of(sweep) == before
    assert again < 1.0
    trial = next(t for t in sweep.trials if t.name == "0011")
    file = sweep.path / "trials" / trial.name / "metrics.csv"
    table = pd.read_csv(file)
    more = table[table["epoch"] == table["epoch"].max()].assign(epoch=table["epoch"].max() + 1)
    pd.concat([table, more.assign(value=more["value"] * 0.9)]).to_csv(file, index=False)
    sweep_page.write(sweep)
    assert drawn == ["x"]  # its learning curve; its best epoch is what it was


def test_equal_sweeps_give_equal_bytes(tmp_path: Path) -> None:
    pages = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        sweep = make_sweep(tmp_path / folder / "s", trials=3, failed=(), labels=THREE, epochs=2)
        sweep_figures._svg.cache_clear()
        sweep_figures._png.cache_clear()
        page = sweep_page.write(sweep).read_text(encoding="utf-8").replace(str(tmp_path / folder), "")
        pages.append(
            (
                page,
                (sweep.path / "sweep.csv").read_bytes(),
                {p.name: p.read_bytes() for p in (sweep.path / "figures").iterdir()},
            )
        )
    assert pages[0] == pages[1]


def test_figures_that_are_gone_do_not_stay(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", trials=3, failed=(), labels=THREE, epochs=2)
    (sweep.path / "figures").mkdir()
    (sweep.path / "figures" / "old.png").write_bytes(b"")
    sweep_page.write(sweep)
    names = {p.name for p in (sweep.path / "figures").iterdir()}
    assert (
        "old.png" not in names
        and {"curves.png", "parallel.png", "map-recall.png", "map-auroc.png", "map-ap.png"} <= names
    )


# Figures and numbers


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


def test_importance_finds_the_knob_that_matters() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((40, 3))
    found = importance(x, np.sin(3 * x[:, 1]))
    assert found is not None and int(np.argmax(found.mean)) == 1 and found.unseen > 0.5
    assert found.mean[1] > 5 * max(found.mean[0], found.mean[2])
    noise = importance(x, rng.random(40))
    assert noise is not None and noise.unseen < 0.3
    assert importance(x[: FEWEST - 1], x[: FEWEST - 1, 0]) is None
    assert importance(x, np.ones(40)) is None and importance(np.empty((40, 0)), x[:, 0]) is None


def test_metrics_in_words() -> None:
    assert sweep_sections.told("val/auroc/mean") == "mean ROC AUC"
    assert (
        sweep_sections.told("val/recall/Edema") == "recall of Edema"
        and sweep_sections.told("val/accuracy") == "accuracy"
    )
    assert sweep_sections.title("val/f1/micro") == "Micro F1" and sweep_sections.title("val/loss") == "Loss"
    assert [render.lasting(s) for s in (12, 89.4, 90, 3600, 12_000)] == [
        "12 s",
        "89 s",
        "2 min",
        "60 min",
        "3 h 20 min",
    ]


def test_every_figure_names_its_trials(whole: Sweep) -> None:
    page = text_of(whole)
    judged = {r.trials[0].name for r in whole.ranked()}
    figures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(figures) == 7
    named = [set(re.findall(r'data-trial="(\d+)"', f)) for f in figures]
    assert sum(names == judged for names in named) == 5  # parallel coordinates and four knobs; importance names none
    assert {t.name for t in whole.trials} in named  # curves show the failed one's too
    best = whole.ranked()[0].trials[0].name
    assert re.search(
        rf'data-trial="{best}"><title>{best}: optim.lr [^<]*; mean ROC AUC 0\.\d+; finished, 6 epochs</title>', page
    )


def test_a_sweep_of_sixteen_is_written_again_in_about_a_second(whole: Sweep) -> None:
    """Processor time of a page of which every trial's figure is new but whose imports are there."""
    sweep_figures._svg.cache_clear()
    whole.update(status="started")
    began = time.process_time()
    sweep_page.write(whole)
    took = time.process_time() - began
    whole.update(status="finished")
    assert took < 2.5


# Looked at


def browse(page: Path, folder: Path, *flags: str) -> str:
    return subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--allow-file-access-from-files",
         f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=4000", *flags, "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip


def probed(sweep: Sweep, folder: Path, script: str) -> Path:
    page = folder / "probe.html"
    page.write_text(text_of(sweep).replace("</head>", f"<script>{script}</script></head>"), encoding="utf-8")
    return page


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_its_width(whole: Sweep, tmp_path: Path, width: int) -> None:
    probed(
        whole,
        tmp_path,
        "onload = () => { const d = document.documentElement; document.title = JSON.stringify({width: d.clientWidth, needs: d.scrollWidth}) }",
    )
    outer = tmp_path / "outer.html"
    outer.write_text(
        f'<iframe id="f" src="probe.html" style="width:{width}px;height:900px;border:0"></iframe><pre id="out"></pre>'
        "<script>const f = document.getElementById('f'); f.onload = () => setTimeout(() => {"
        " document.getElementById('out').textContent = f.contentDocument.title }, 300)</script>"
    )
    found = re.search(r'<pre id="out">(.*?)</pre>', browse(outer, tmp_path), re.DOTALL)
    assert found and found[1]
    size = json.loads(found[1])
    assert size["needs"] <= size["width"] <= width


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_tables_sort_and_a_trial_lights_up_everywhere(whole: Sweep, tmp_path: Path) -> None:
    script = """addEventListener("load", () => {
      const table = document.querySelector("#trials table"), heads = [...table.tHead.rows[0].cells];
      const column = (name) => { const at = heads.findIndex(h => h.textContent === name); heads[at].click();
        return [...table.tBodies[0].rows].map(r => r.cells[at].textContent); };
      const seconds = column("Seconds"), states = column("State"), policies = column("data.uncertain.Edema");
      const mark = document.querySelector("svg .trial"), name = mark.dataset.trial;
      mark.dispatchEvent(new MouseEvent("mouseover", {bubbles: true}));
      const lit = [...document.querySelectorAll(".lit")].map(e => e.dataset.trial), all = document.querySelectorAll(`[data-trial="${name}"]`).length;
      mark.dispatchEvent(new MouseEvent("mouseout", {bubbles: true}));
      const out = document.createElement("pre"); out.id = "out";
      out.textContent = JSON.stringify({seconds, states, policies, name, lit, all, after: document.querySelectorAll(".lit").length});
      document.body.append(out);
    })"""
    found = re.search(r'<pre id="out">(.*?)</pre>', browse(probed(whole, tmp_path, script), tmp_path), re.DOTALL)
    assert found
    out: dict[str, Any] = json.loads(unescape(found[1]))
    assert [float(s) for s in out["seconds"]] == sorted((float(s) for s in out["seconds"]), reverse=True)
    assert out["states"] == sorted(out["states"]) and out["policies"] == sorted(out["policies"])
    assert set(out["lit"]) == {out["name"]} and len(out["lit"]) == out["all"] > 8 and out["after"] == 0


@pytest.mark.parametrize(
    "make", [draw.curves, draw.parallel, draw.hyperparameter, draw.importance, draw.pareto, draw.heat]
)
def test_figures_take_what_can_be_kept(make: Callable[..., Any], whole: Sweep) -> None:
    """Every argument of a figure must hash, or it would be drawn again each time."""
    info, config = whole.info, whole.config
    rows = sweep_sections._rows(whole.trials, config, info, whole.ranked())
    judged = [r for r in rows if r.ranked is not None]
    two = config.model_copy(
        update={"tune": config.tune.model_copy(update={"metric": ["val/auroc/mean", "val/recall/mean"]})}
    )
    judged_two = [
        replace(r, ranked=replace(r.ranked, values=(r.ranked.values[0], r.values["val/recall/mean"]))) for r in judged
    ]  # type: ignore[type-var]
    figures = {
        **sweep_figures._figures(whole, two, info, judged_two, rows),
        **sweep_figures._heats(judged, info["labels"]),
    }
    held = [f for f in figures.values() if f[0] is make]
    assert held
    for figure in held:
        hash(figure)
        assert plots.png(figure[0](*figure[1:])).startswith(b"\x89PNG")


def test_constraints_and_order_agree_with_the_sweep(whole: Sweep) -> None:
    rows = sweep_sections._rows(whole.trials, whole.config, whole.info, whole.ranked())
    assert [r.place for r in rows if r.place] == list(range(1, 16))
    limits = ranking.constraints(whole.config.tune)
    assert [all(c.met(r.values) for c in limits) for r in rows if r.place] == [r.feasible for r in whole.ranked()]
