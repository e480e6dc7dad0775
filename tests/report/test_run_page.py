"""The report of a synthetic run: what it shows, what it must not contain, how a browser renders it."""

import base64
import functools
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import precision_recall_curve, roc_curve

from cxr_ray import config as cfg
from cxr_ray import runs
from cxr_ray.errors import UserError
from cxr_ray.evaluation import results
from cxr_ray.evaluation.prediction_table import EvaluationSettings, PredictionTable
from cxr_ray.metrics import compute_metrics, prevalence, thresholds
from cxr_ray.plotting import plots
from cxr_ray.report import run_page, sections
from tests.report.pages import assert_menu_in_page_order

MANY = ["Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture"]
CLASSES = ["Covid-19", "No_findings", "Pneumonia"]
NOTE = "class goes with source, so accuracy flatters"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def predictions(labels: list[str], task: str, rows: int, skill: float, seed: int = 0) -> pd.DataFrame:
    """A table of `rows` images, about two a patient, whose probabilities follow the truth by `skill`."""
    rng = np.random.default_rng(seed)
    if task == "multiclass":
        truth = np.eye(len(labels), dtype=np.float32)[rng.integers(0, len(labels), rows)]
        logits = skill * truth + rng.normal(size=truth.shape)
        prob = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    else:
        shares = np.linspace(0.45, 0.08, len(labels))
        truth = (rng.random((rows, len(labels))) < shares).astype(np.float32)
        if len(labels) == len(MANY):
            truth[:, -1] = 0.0  # Fracture: no positives
            truth[rng.random(truth.shape) < 0.1] = np.nan
        prob = 1 / (1 + np.exp(-(skill * (np.nan_to_num(truth) - 0.5) + rng.normal(size=truth.shape) - 0.4)))
    table = pd.DataFrame({"row": np.arange(rows) + 7000, "source_row": np.arange(rows)})
    table["patient"] = [f"patient-secret-{k}" for k in rng.integers(0, max(rows // 2, 1), rows)]
    table["study"] = "study-secret"
    truth_columns = pd.DataFrame(truth, columns=[f"true/{k}" for k in labels])
    prob_columns = pd.DataFrame(prob.astype(np.float32), columns=[f"prob/{k}" for k in labels])
    return pd.concat([table, truth_columns, prob_columns], axis=1)


def evaluation_of(
    table: pd.DataFrame, labels: list[str], task: str, *, bootstrap: int = 200, **changes: Any
) -> dict[str, Any]:
    baselines = {
        name: predictions(labels, task, len(table), 0.6, seed)[[f"prob/{k}" for k in labels]].to_numpy()
        for name, seed in (("thumbnail", 5), ("border", 6))
    }
    baselines = changes.pop("baselines", baselines)
    settings = EvaluationSettings(bootstrap=bootstrap, **changes)
    return results.evaluate_table(PredictionTable(table, labels, task), settings, baselines=baselines)


def make_run(
    folder: Path,
    labels: list[str],
    task: str,
    *,
    part: str = "test",
    rows: int = 240,
    skill: float = 2.0,
    **settings: Any,
) -> runs.Run:
    """The folder of a finished run with everything that a report reads, as `runs.create` and `evaluate` write it."""
    config = cfg.validate(
        {"name": folder.name, "output": str(folder.parent), "data": {"shards": "shards/x"}, **settings}
    )
    of_part = {"train": np.arange(rows * 3) + 200_000, "val": np.arange(rows) + 107_000, "test": np.arange(rows) + 7000}
    plan = pd.concat([pd.DataFrame({"row": part_rows, "part": p, "drawn": 1}) for p, part_rows in of_part.items()])
    store = {
        "path": "shards/x",
        "fingerprint": "ab12cd34ef56ab12",
        "rows": rows * 5,
        "source": "chexpert",
        "notes": [NOTE],
    }
    tables = {
        p: predictions(labels, task, n, skill, s)
        for p, n, s in (("train", rows * 3, 1), ("val", rows, 2), ("test", rows, 3))
    }
    about = {
        p: prevalence(t[[f"true/{k}" for k in labels]].to_numpy(), labels=labels, patients=t["patient"])
        for p, t in tables.items()
    }
    best = {"epoch": 3, "step": 30, "metric": "val/auroc/mean", "value": 0.9}
    run = runs.create(
        config, store=store, plan=plan,
        about={"labels": labels, "task": task, "best": best, "epochs": 4, "warnings": ["Edema: 12.0% in train, 15.5% in val"], "parameters": 2_226_434, "seconds": 81.5, "prevalence": about},
    )  # fmt: skip
    run.update(status="finished", test_looks=1)
    lines: list[dict[str, Any]] = []
    for epoch in range(5):
        for p in ("train", "val"):
            table = predictions(labels, task, 120, skill * epoch / (4 if p == "val" else 3), epoch + 10 * (p == "val"))
            truth, prob = (table[[f"{k}/{name}" for name in labels]].to_numpy() for k in ("true", "prob"))
            values = compute_metrics(truth, prob, labels=labels, task=task, thresholds_L=thresholds(0.5, labels))
            lines += [{"epoch": epoch, "step": epoch * 10, "part": p, **v._asdict()} for v in values]
            lines.append(
                {
                    "epoch": epoch,
                    "step": epoch * 10,
                    "part": p,
                    "metric": "loss",
                    "label": "",
                    "value": 0.7 / (epoch + 1 + (p == "train")),
                    "positives": 1,
                    "rows": 120,
                }
            )
    pd.DataFrame(lines)[runs.METRIC_COLUMNS].to_csv(run.path / "metrics.csv", index=False)
    run.write_predictions(part, tables[part])
    (run.path / f"evaluation-{part}.json").write_text(json.dumps(evaluation_of(tables[part], labels, task)))
    return run


def page_text(folder: Path) -> str:
    return (folder / "a-run" / "report.html").read_text(encoding="utf-8")


class Page(HTMLParser):
    """Text, figures and every address of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.hidden = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.hidden = tag in ("script", "style")
        self.loads += [value or "" for key, value in attrs if key in ("src", "href", "srcset", "data")]

    def handle_endtag(self, tag: str) -> None:
        self.hidden = False

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def figures(self) -> list[str]:
        return [
            base64.b64decode(a.partition(",")[2]).decode()
            for a in self.loads
            if a.startswith("data:image/svg+xml;base64,")
        ]


LABELS = {"multilabel": MANY, "multiclass": CLASSES, "binary": ["Covid"]}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], runs.Run]:
    """The finished run of a task, its report written once for all tests."""

    @functools.cache
    def of(task: str) -> runs.Run:
        run = make_run(tmp_path_factory.mktemp(task) / "a-run", LABELS[task], task)
        assert run_page.write(run, "test") == run.path / "report.html"
        return run

    return of


@pytest.mark.parametrize("task", list(LABELS))
def test_one_file_that_loads_nothing_and_names_no_patient(written: Callable[[str], runs.Run], task: str) -> None:
    path = written(task).path / "report.html"
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert len(text) < 3_000_000
    assert_menu_in_page_order(text)
    assert all(a.startswith(("data:image/svg+xml;base64,", "#")) for a in page.loads)
    assert not {"link", "iframe", "object", "form"} & set(page.tags)
    assert page.tags.count("script") == (
        2 if task == "multiclass" else 3
    )  # the page's own, inline; the data of the epochs' curves and of the explorer
    assert "fetch(" not in text and "XMLHttpRequest" not in text and "import(" not in text
    assert "http" not in text and "url(" not in text and "@import" not in text
    for figure in page.figures:
        assert figure.startswith("<svg") and "<image" not in figure
    everything = text + "".join(page.figures)
    assert "secret" not in everything and "patient-" not in everything
    assert "Not a medical device" in page.text and NOTE in page.text and "15.5% in val" in page.text
    assert "Evaluated on the test part, 240 images" in page.text and "has been evaluated once" in page.text
    assert "2,226,434 parameters" in page.text and "pos_weight_power: 0.0" in page.text


def test_the_label_table_has_the_computed_metrics(written: Callable[[str], runs.Run]) -> None:
    run = written("multilabel")
    page = Page((run.path / "report.html").read_text(encoding="utf-8"))
    table = run.predictions("test")
    truth, prob = (table[[f"{k}/{name}" for name in MANY]].to_numpy() for k in ("true", "prob"))
    for value in compute_metrics(truth, prob, labels=MANY, task="multilabel", thresholds_L=thresholds(0.5, MANY)):
        if value.metric in ("recall", "precision", "f1", "auroc", "ap", "exact_match", "hamming"):
            assert f"{value.value:.3f}" in page.text, value
    rows = {
        row["label"]: row
        for row in run_page.label_table(
            run.evaluation("test"), {(v["metric"], v["label"]): v for v in run.evaluation("test")["values"]}
        )
    }
    true = truth[:, 0] == 1
    assert rows["Atelectasis"]["counts"] == [
        true.sum(),
        (prob[:, 0] >= 0.5)[~np.isnan(truth[:, 0])].sum(),
        ((prob[:, 0] >= 0.5) & true).sum(),
    ]
    assert "Fracture: Recall, ROC AUC, Average precision (no positives in test)" in page.text.replace("F1, ", "")
    assert "Fewer than 10 positives in test:" in page.text and "Fracture (none)" in page.text


def test_equal_runs_give_equal_bytes(written: Callable[[str], runs.Run]) -> None:
    run = written("multiclass")
    first = (run.path / "report.html").read_bytes()
    assert run_page.write(run, "test").read_bytes() == first


def test_names_of_labels_cannot_break_the_page(tmp_path: Path) -> None:
    bad = ["<script>alert(1)</script>", "a & b $x^2$", "c"]
    page = Page(run_page.write(make_run(tmp_path / "a-run", bad, "multilabel", rows=80), "test").read_text())
    assert page.tags.count("script") == 3 and bad[0] in page.text and "a & b $x^2$" in page.text
    assert "<script>alert" not in page_text(tmp_path) and r"\u003cscript\u003ealert" in page_text(tmp_path)


def test_a_part_that_was_not_evaluated_is_refused(written: Callable[[str], runs.Run]) -> None:
    with pytest.raises(UserError, match="evaluate"):
        run_page.write(written("multiclass"), "val")


# The evaluation as data.


# Figures.


def test_curves_are_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    true, score = rng.random(60) < 0.4, rng.integers(0, 12, 60) / 11
    away, recall, _ = roc_curve(true, score, drop_intermediate=False)
    curve = plots.roc(true, score, None).axes[0].lines[1].get_xydata()
    np.testing.assert_allclose(np.asarray(curve), np.stack([away, recall], axis=1))
    precision, recall, _ = precision_recall_curve(true, score)
    curve = plots.precision_recall(true, score, None).axes[0].lines[1].get_xydata()
    np.testing.assert_allclose(np.asarray(curve), np.stack([recall, precision], axis=1)[-2::-1])


def test_thinned_curves_keep_their_shape() -> None:
    x = np.linspace(0, 1, 20_001)
    y = np.sqrt(x)
    thin_x, thin_y = plots.thin(x, y)
    assert len(thin_x) <= plots.POINTS and thin_x[0] == 0 and thin_x[-1] == 1
    assert np.abs(np.interp(x, thin_x, thin_y) - y).max() < 0.005


def test_long_curves_stay_small() -> None:
    rng = np.random.default_rng(0)
    true, score = rng.random(100_000) < 0.1, rng.random(100_000)
    assert len(plots.svg(plots.roc(true, score, (0.5, 0.5)))) < 40_000
    assert len(plots.svg(plots.precision_recall(true, score, None))) < 40_000


def test_confusion_writes_every_count_and_name() -> None:
    plot = plots.confusion([[61, 2], [13, 1204]], ["Normal", "Viral Pneumonia"])
    assert plots.png(plot).startswith(b"\x89PNG")
    figure = plots.svg(plot)
    for text in ("61", "13", "1,204", "97%", "Normal"):
        assert f">{text}</text>" in figure


# In a browser.


def probed(run: runs.Run, probe: str, folder: Path) -> Any:
    """What the script `probe` writes as JSON into `<pre id="out">` of the run's report, in headless Chromium."""
    page = folder / "probe.html"
    text = (run.path / "report.html").read_text(encoding="utf-8")
    page.write_text(text.replace("</head>", probe + "</head>"), encoding="utf-8")
    shown = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", f"--user-data-dir={folder / 'profile'}",
         "--virtual-time-budget=4000", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    found = re.search(r'<pre id="out">(.*?)</pre>', shown, re.DOTALL)
    assert found, shown[-500:]
    return json.loads(unescape(found.group(1)))


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [1280, 390])
def test_page_fits_its_width(written: Callable[[str], runs.Run], tmp_path: Path, width: int) -> None:
    """Headless Chromium lays the page out in a frame of `width`: nothing overflows, tables scroll in their own box."""
    report = written("multilabel").path / "report.html"
    probe = (
        "<script>onload = () => { const d = document.documentElement; document.title = JSON.stringify({width: d.clientWidth,"
        " needs: d.scrollWidth, broken: [...document.images].filter(i => !i.naturalWidth).length}) }</script>"
    )
    page = tmp_path / "probe.html"
    page.write_text(report.read_text(encoding="utf-8").replace("</head>", probe + "</head>"), encoding="utf-8")
    outer = tmp_path / "outer.html"
    outer.write_text(
        f'<iframe id="f" src="probe.html" style="width:{width}px;height:900px;border:0"></iframe><pre id="out"></pre>'
        "<script>const f = document.getElementById('f'); f.onload = () => setTimeout(() => {"
        " document.getElementById('out').textContent = f.contentDocument.title }, 300)</script>"
    )
    shown = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--allow-file-access-from-files",
         f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=4000", "--dump-dom", outer.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    found = re.search(r'<pre id="out">(.*?)</pre>', shown, re.DOTALL)
    assert found and found.group(1), shown[-500:]
    size = json.loads(found.group(1))
    assert size["broken"] == 0
    assert size["needs"] <= size["width"] <= width


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_course_of_a_chosen_metric_and_label_is_drawn(written: Callable[[str], runs.Run], tmp_path: Path) -> None:
    """Recall of Edema chosen in headless Chromium: a line per part through the values of metrics.csv, and ticks at their places."""
    run = written("multilabel")
    probe = """<script>addEventListener("load", () => {
      const box = document.getElementById("courses"), [metric, label] = box.querySelectorAll("select");
      const first = [metric.value, label.value];
      metric.value = "Recall"; metric.dispatchEvent(new Event("input"));
      label.value = "Edema"; label.dispatchEvent(new Event("input"));
      const lines = Object.fromEntries([...box.querySelectorAll("polyline")].map(l => [l.dataset.part, l.getAttribute("points")]));
      const ticks = [...box.querySelectorAll("text[text-anchor=end]")].map(t => [Number(t.textContent), Number(t.getAttribute("y")) - 4]);
      const out = document.createElement("pre"); out.id = "out";
      out.textContent = JSON.stringify({first, lines, ticks, metrics: metric.options.length});
      document.body.append(out);
    })</script>"""
    out = probed(run, probe, tmp_path)
    assert out["first"] == ["Loss", "all labels together"] and out["metrics"] > 10
    (low, low_y), (high, high_y) = out["ticks"][0], out["ticks"][-1]
    table = run.metrics[(run.metrics["metric"] == "recall") & (run.metrics["label"] == "Edema")]
    for part in ("train", "val"):
        points = [tuple(map(float, point.split(","))) for point in out["lines"][part].split()]
        values = [low + (high - low) * (y - low_y) / (high_y - low_y) for _, y in points]
        want = table[table["part"] == part].sort_values("epoch")["value"]
        np.testing.assert_allclose(values, want, atol=2e-3)
        assert np.allclose(np.diff([x for x, _ in points], 2), 0)  # epochs at equal steps


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_explorer_moves_and_tables_sort(written: Callable[[str], runs.Run], tmp_path: Path) -> None:
    """The slider moved, another label selected and a header clicked in headless Chromium: the page shows the computed metrics."""
    run = written("multilabel")
    probe = """<script>addEventListener("load", () => {
      const box = document.getElementById("explorer"), pick = box.querySelector("select"), slide = box.querySelector("input");
      const shown = () => Object.fromEntries([...box.querySelectorAll("[data-value]")].map(o => [o.dataset.value, o.textContent]));
      const first = shown();
      pick.value = "1"; pick.dispatchEvent(new Event("change"));
      const other = shown();
      slide.value = 100; slide.dispatchEvent(new Event("input"));
      const moved = shown();
      const table = document.querySelector("#labels table.sortable"), head = table.tHead.rows[0].cells[4];
      head.click();
      const names = () => [...table.tBodies[0].rows].map(r => r.cells[0].firstChild.textContent);
      const down = names(); head.click(); const up = names();
      const out = document.createElement("pre"); out.id = "out";
      out.textContent = JSON.stringify({first, other, moved, down, up, pick: pick.options[1].text});
      document.body.append(out);
    })</script>"""
    out = probed(run, probe, tmp_path)
    table = run.predictions("test")

    def metrics_at(label: str, limit: float) -> dict[str, float]:
        truth, prob = table[[f"true/{label}"]].to_numpy(), table[[f"prob/{label}"]].to_numpy()
        values = compute_metrics(truth, prob, labels=[label], task="binary", thresholds_L=[limit])
        return {v.metric: v.value for v in values if v.label == label}

    assert out["pick"] == MANY[1]
    # The page starts at the operating point: the lowest score that is positive there.
    for text, label, limit in ((out["first"], MANY[0], 0.5), (out["other"], MANY[1], 0.5)):
        want = metrics_at(label, limit)
        assert text["recall"] == f"{want['recall']:.3f}" and text["precision"] == f"{want['precision']:.3f}"
    want = metrics_at(MANY[1], float(out["moved"]["threshold"]) - 1e-4)  # shown with four digits
    assert float(out["moved"]["recall"]) == pytest.approx(want["recall"], abs=0.02)
    assert float(out["moved"]["recall"]) > float(out["other"]["recall"])
    recall = {v["label"]: v["value"] for v in run.evaluation("test")["values"] if v["metric"] == "recall"}
    order = sorted((k for k in MANY if k in recall), key=recall.__getitem__, reverse=True)
    assert [k for k in out["down"] if k in recall] == order
    assert [k for k in out["up"] if k in recall] == order[::-1]
    assert out["down"][-3:] == ["Mean", "Micro average", "Weighted mean"]


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_the_worst_errors_are_those_of_the_decision(task: str) -> None:
    labels = LABELS[task]
    table = predictions(labels, task, 200, 1.0)
    shown = sections.worst(
        table,
        evaluation_of(table, labels, task, bootstrap=0),
        lambda rows: np.stack([np.full((20, 20), r % 251, np.uint8) for r in rows]),
    )
    truth, prob = (table[[f"{k}/{name}" for name in labels]].to_numpy() for k in ("true", "prob"))
    positive = prob >= 0.5 if task == "multilabel" else prob == prob.max(axis=1, keepdims=True)
    for entry in shown:
        i = labels.index(entry["label"])
        missed = np.sort(prob[(truth[:, i] == 1) & ~positive[:, i], i])[:4]
        alarms = np.sort(prob[(truth[:, i] == 0) & positive[:, i], i])[::-1][:4]
        assert [one["prob"] for one in entry["missed"]] == pytest.approx(missed.tolist())
        assert [one["prob"] for one in entry["alarms"]] == pytest.approx(alarms.tolist())
        assert all(one["src"].startswith("data:image/jpeg;base64,") for one in entry["missed"] + entry["alarms"])
    assert shown


def test_the_page_of_a_head_names_the_network_of_its_features(
    written: Callable[[str], runs.Run], tmp_path: Path
) -> None:
    run = written("multiclass")
    run.update(embedder={"model": "mobilenet_v2", "weights": "0ddba11"})
    try:
        text = run_page.write(run, "test", path=tmp_path / "page.html").read_text(encoding="utf-8")
    finally:
        run.update(embedder=None)
    assert "on features of mobilenet_v2" in text
    assert "pooled, of mobilenet_v2; sha256 of its weights without the head: 0ddba11" in text
