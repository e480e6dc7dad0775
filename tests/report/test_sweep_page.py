"""The page of a sweep: what it shows at every stage, what it must not contain, what a rewrite costs, how a browser renders it."""

import json
import re
import shutil
import subprocess
import time
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr_ray.plotting import sweep_plots as draw
from cxr_ray.report import render, sweep_figures, sweep_page
from cxr_ray.tuning.importance import MIN_TRIALS
from cxr_ray.tuning.sweep import Sweep
from cxr_ray.tuning.trial import FAILED
from tests.fakes.sweep import CHEXPERT, comparison, make_sweep
from tests.report.pages import assert_menu_in_page_order

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
THREE = ("Edema", "Mass", "Effusion")
CONSTRAINT = "val/recall/mean >= 0.4"


@pytest.fixture(scope="module")
def sweep16(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """A finished sweep of sixteen trials on twelve labels: seven stopped early, one failed."""
    sweep = make_sweep(
        tmp_path_factory.mktemp("runs") / "lr-and-weights", comparison=comparison(), constraint=CONSTRAINT
    )
    sweep_page.write(sweep)
    return sweep


def text_of(sweep: Sweep) -> str:
    return (sweep.path / "sweep.html").read_text(encoding="utf-8")


def words(page: str) -> str:
    """The visible text: no tags, scripts or styles, single blanks."""
    page = re.sub(r"<(style|script|svg).*?</\1>", " ", page.replace("<wbr>", ""), flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", page)))


def section(page: str, name: str) -> str:
    found = re.search(rf'<section id="{name}">(.*?)</section>', page, re.DOTALL)
    assert found, name
    return found[1]


def table_rows(part: str, at: int = 0) -> list[list[str]]:
    """The visible cells of a section's table."""
    table = re.findall(r"<table.*?</table>", part, re.DOTALL)[at]
    rows = re.findall(r"<tr.*?</tr>", table, re.DOTALL)
    return [[words(c).strip() for c in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)] for row in rows]


# Content


def test_the_page_is_one_file_that_loads_nothing(sweep16: Sweep) -> None:
    page = text_of(sweep16)
    assert_menu_in_page_order(page)
    loaded = re.findall(r'(?:src|href|xlink:href)="([^"]*)"', page)
    assert loaded and all(a.startswith(("#", "data:")) for a in loaded)
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]+"', "", page)
    assert not re.search(r"/(tmp|root|home)/", words(re.sub(r"<pre>.*?</pre>", "", page, flags=re.DOTALL)))
    ids = re.findall(r'\sid="([^"]+)"', re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL))
    assert len(ids) == len(set(ids))
    # Within the figures an id may appear twice only for the same thing: matplotlib names marks and clips by content.
    defined: dict[str, str] = {}
    for tag, name in re.findall(r'(<\w+ id="([^"]+)".*?>)', "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))):
        assert defined.setdefault(name, tag) == tag


def test_best_trial_state_and_constraint_are_shown(sweep16: Sweep) -> None:
    text = words(section(text_of(sweep16), "result"))
    best = sweep16.ranked()[0]
    assert f"The best of 15 on val: trial {best.trials[0].name}" in text
    assert f"{best.values[0]:.3f}" in text
    assert "16 of 16 trials ended" in text and "1 failed" in text
    met = sum(t.values.get("val/recall/mean", 0) >= 0.4 for t in sweep16.trial_records if t.status != FAILED)
    assert f"{CONSTRAINT}: met by {met} of the 15 evaluated trials" in text
    for name, value in best.hyperparameters.items():
        assert name in text and draw.text(value) in text


def test_no_trial_meets_the_constraint(tmp_path: Path) -> None:
    sweep = make_sweep(
        tmp_path / "s", trials=3, labels=THREE, failed=(), epochs=2, constraint="val/recall/mean >= 0.99"
    )
    text = words(section(sweep_page.write(sweep).read_text(encoding="utf-8"), "result"))
    assert "No trial meets val/recall/mean >= 0.99, so the best trial by mean ROC AUC alone is shown" in text
    assert "met by 0 of the 3" in text


def test_the_search_space_and_the_data_are_shown(sweep16: Sweep) -> None:
    text = words(section(text_of(sweep16), "searched"))
    for piece in (
        "1e-06 to 0.001, log-uniform",
        "0, 50, 150, 500",
        "train 3,600, val 400, test 1,000 rows",
        "zeros, ones, ignore",
    ):
        assert piece in text
    assert all(label in text for label in CHEXPERT)


def test_the_heat_map_has_every_value_and_marks_the_best_of_each_label(sweep16: Sweep) -> None:
    """Against the trials themselves, cell by cell."""
    maps = section(text_of(sweep16), "maps")
    evaluated = [r.trials[0] for r in sweep16.ranked()]
    for at, metric in enumerate(("recall", "auroc", "ap")):
        head, *rows = table_rows(maps, at)
        assert head == ["Trial", "Mean", *CHEXPERT]
        assert [r[0].strip("◆ ") for r in rows] == [t.name for t in evaluated]
        for row, trial in zip(rows, evaluated, strict=True):
            want = [trial.values[f"val/{metric}/{k}"] for k in ("mean", *CHEXPERT)]
            assert row[1:] == [f"{v:.3f}" for v in want]
        table = re.findall(r"<table.*?</table>", maps, re.DOTALL)[at]
        assert table.count('class="best"') >= len(CHEXPERT)


def test_the_best_of_each_label_is_the_largest(sweep16: Sweep) -> None:
    _, *rows = table_rows(section(text_of(sweep16), "labels"))
    best = sweep16.ranked()[0].trials[0]
    trials = {t.name: t for t in sweep16.trial_records if t.status != FAILED}
    for row in rows:
        label = row[0]
        for (value, name, winner), metric in zip(
            (row[1:4], row[4:7], row[7:10]), ("recall", "auroc", "ap"), strict=True
        ):
            key = f"val/{metric}/{label}"
            top = max(t.values[key] for t in trials.values())
            assert value.split()[0] == f"{top:.3f}" and trials[name].values[key] == top
            assert winner == f"{best.values[key]:.3f}"


def test_the_comparison_states_what_is_noise(sweep16: Sweep) -> None:
    text = words(section(text_of(sweep16), "comparison"))
    assert re.search(
        r"Against the second-best trial \(0003\): \+0\.007 mean ROC AUC on val \(−0\.015 to \+0\.036, p 0\.310\)\. Within noise",
        text,
    )
    assert re.search(r"Against the base configuration \(0000\): \+0\.021 .*? More than chance explains", text)
    assert "Ensemble of trials 0003, 0007 on test" in text and "0.842" in text
    # The objective first, then the main metrics in order.
    assert text.index("Mean ROC AUC") < text.index("Mean recall") < text.index("Mean precision")


def test_the_folds_of_the_best_trial_are_shown(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", trials=2, labels=THREE, failed=(), epochs=1, comparison=comparison())
    objective = {"mean": 0.8123, "deviation": 0.0312, "values": [0.79, 0.83]}
    test = {"auroc": {"label": "mean", "value": 0.801, "low": 0.77, "high": 0.83}}
    sweep.update(folds={"runs": ["fold-0", "fold-1"], "objectives": {"val/auroc/mean": objective}, "test": test})
    text = words(section(sweep_page.write(sweep).read_text(encoding="utf-8"), "comparison"))
    assert (
        "The best trial's hyperparameters on 2 folds" in text
        and "Mean ROC AUC on val: 0.812 ± 0.031 between folds" in text
    )
    assert "The ensemble of the folds on test: Mean ROC AUC 0.801" in text


def test_a_failed_trial_is_listed_with_its_reason_and_not_evaluated(sweep16: Sweep) -> None:
    page = text_of(sweep16)
    assert table_rows(section(page, "failed"))[1] == [
        "0005", "the loss of step 41 (epoch 1) is not a number: the training has diverged: lower optim.lr",
    ]  # fmt: skip
    assert "0005" not in section(page, "maps") and "0005" not in section(page, "labels")


def test_the_table_has_every_trial(sweep16: Sweep) -> None:
    head, *rows = table_rows(section(text_of(sweep16), "trials"))
    assert {r[0].strip("◆ ") for r in rows} == {t.name for t in sweep16.trial_records}
    assert head[:3] == ["Trial", "State", "Mean ROC AUC"] and "Meets" in head and head[-2:] == ["Epochs", "Seconds"]
    by = {t.name: t for t in sweep16.trial_records}
    for row in rows:
        assert row[1] == by[row[0].strip("◆ ")].status


def test_the_csv_has_a_row_for_each_trial_and_a_column_for_each_metric_and_label(sweep16: Sweep) -> None:
    table = pd.read_csv(sweep16.path / "sweep.csv", dtype={"trial": str})
    assert list(table.columns[:5]) == ["trial", "status", "epochs", "epoch", "seconds"]
    for trial in sweep16.trial_records:
        row = table[table["trial"] == trial.name].iloc[0]
        assert row["status"] == trial.status and row["optim.lr"] == trial.hyperparameters.get("optim.lr", 1e-4)
        for name, value in trial.values.items():
            assert row[name.removeprefix("val/")] == pytest.approx(value)


# At every stage


def test_nothing_is_evaluated_yet(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", trials=4, waiting=range(4), failed=(), status="started", labels=THREE)
    page = sweep_page.write(sweep).read_text(encoding="utf-8")
    assert "No trial has been evaluated yet" in page and "0 of 4 trials ended" in words(page)
    assert len(pd.read_csv(sweep.path / "sweep.csv")) == 4
    assert not (sweep.path / "figures").exists()


def test_a_sweep_without_a_single_trial(tmp_path: Path) -> None:
    """As a sweep with optuna begins: it proposes one trial after another."""
    sweep = make_sweep(tmp_path / "s", trials=1, waiting=(0,), failed=(), status="started", labels=THREE)
    (sweep.path / "trials.json").unlink()
    assert "No trial has been evaluated yet" in sweep_page.write(sweep).read_text(encoding="utf-8")


def test_all_failed(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", trials=2, failed=(0, 1), labels=THREE)
    text = words(sweep_page.write(sweep).read_text(encoding="utf-8"))
    assert "No trial has been evaluated yet" in text and "2 failed" in text


def test_while_trials_run(tmp_path: Path) -> None:
    sweep = make_sweep(
        tmp_path / "s", trials=6, status="started", running=(3, 4), waiting=(5,), failed=(2,), labels=THREE
    )
    text = words(sweep_page.write(sweep).read_text(encoding="utf-8"))
    assert (
        "so far" in text
        and "3 of 6 trials ended" in text
        and "2 running" in text
        and re.search(r"about \d+ (s|min) left", text)
    )
    assert not (sweep.path / "figures").exists()  # PNGs come at the end
    sweep.update(status="finished")
    sweep_page.write(sweep)
    assert (sweep.path / "figures" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_few_trials_give_no_importance(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", trials=3, failed=(), labels=THREE, epochs=2)
    page = sweep_page.write(sweep).read_text(encoding="utf-8")
    assert f"Too few trials: 3 evaluated, and the importance needs {MIN_TRIALS} different ones" in words(page)


def test_folds_are_one_row_with_their_deviation(tmp_path: Path) -> None:
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
    """A loop over models: hyperparameters that are names, and one that some combinations leave at its base value."""
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


def test_several_objectives_show_the_pareto_front(tmp_path: Path) -> None:
    metric = ["val/auroc/mean", "val/precision/mean", "val/loss"]
    sweep = make_sweep(tmp_path / "s", trials=8, failed=(), labels=THREE, metric=metric, mode=["max", "max", "min"])
    page = sweep_page.write(sweep).read_text(encoding="utf-8")
    _, *rows = table_rows(section(page, "front"))
    values = {r.trials[0].name: r.values for r in sweep.ranked()}

    def dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
        gain = [x - y for x, y in zip(a[:2], b[:2], strict=True)] + [b[2] - a[2]]
        return min(gain) >= 0 and max(gain) > 0

    front = {n for n, v in values.items() if not any(dominates(w, v) for w in values.values())}
    table = pd.read_csv(sweep.path / "sweep.csv", dtype={"trial": str})
    assert set(table.loc[table["pareto"], "trial"]) == front and 0 < len(front) < len(table)
    assert {r[0] for r in rows} == front and "at least as good in all" in words(page)


def test_a_base_value_outside_the_interval_is_plotted(tmp_path: Path) -> None:
    space = {"optim.weight_decay": {"loguniform": [1e-6, 1e-2]}, "optim.clip_norm": {"uniform": [0.5, 5.0]}}
    sweep = make_sweep(tmp_path / "s", trials=4, labels=THREE, failed=(), epochs=1, space=space)
    assert sweep.config.optim.weight_decay == 0 and sweep.config.optim.clip_norm is None
    sweep_page.write(sweep)
    assert {"knob-optim_weight_decay.png", "parallel.png"} <= {p.name for p in (sweep.path / "figures").iterdir()}


def test_lower_is_better(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", trials=4, failed=(), labels=THREE, metric="val/loss", mode="min", epochs=2)
    page = sweep_page.write(sweep).read_text(encoding="utf-8")
    losses = [r.values[0] for r in sweep.ranked()]
    assert losses == sorted(losses) and f"{losses[0]:.3f}" in words(section(page, "result"))
    assert "loss on val (lower is better)" in words(page)


def test_foreign_text_is_escaped(tmp_path: Path) -> None:
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


# Rewriting


# Figures and numbers


def test_durations_in_words() -> None:
    assert [render.lasting(s) for s in (12, 89.4, 90, 3600, 12_000)] == [
        "12 s",
        "89 s",
        "2 min",
        "60 min",
        "3 h 20 min",
    ]


def test_every_figure_names_its_trials(sweep16: Sweep) -> None:
    page = text_of(sweep16)
    evaluated = {r.trials[0].name for r in sweep16.ranked()}
    figures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(figures) == 7
    named = [set(re.findall(r'data-trial="(\d+)"', f)) for f in figures]
    assert (
        sum(names == evaluated for names in named) == 5
    )  # parallel coordinates and four hyperparameters; importance names none
    assert {t.name for t in sweep16.trial_records} in named  # curves include the failed one
    best = sweep16.ranked()[0].trials[0].name
    assert re.search(
        rf'data-trial="{best}"><title>{best}: optim.lr [^<]*; mean ROC AUC 0\.\d+; finished, 6 epochs</title>', page
    )


def test_a_sweep_of_sixteen_is_rewritten_quickly(sweep16: Sweep) -> None:
    """Processor time of a page whose figures are all new and whose imports are done."""
    sweep_figures.svg_of.cache_clear()
    sweep16.update(status="started")
    began = time.process_time()
    sweep_page.write(sweep16)
    cpu_s = time.process_time() - began
    sweep16.update(status="finished")
    assert cpu_s < 2.5


# In a browser


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
def test_the_page_fits_its_width(sweep16: Sweep, tmp_path: Path, width: int) -> None:
    probed(
        sweep16,
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
def test_tables_sort_and_a_trial_is_highlighted_everywhere(sweep16: Sweep, tmp_path: Path) -> None:
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
    found = re.search(r'<pre id="out">(.*?)</pre>', browse(probed(sweep16, tmp_path, script), tmp_path), re.DOTALL)
    assert found
    out: dict[str, Any] = json.loads(unescape(found[1]))
    assert [float(s) for s in out["seconds"]] == sorted((float(s) for s in out["seconds"]), reverse=True)
    assert out["states"] == sorted(out["states"]) and out["policies"] == sorted(out["policies"])
    assert set(out["lit"]) == {out["name"]} and len(out["lit"]) == out["all"] > 8 and out["after"] == 0
