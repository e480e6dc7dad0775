"""The page of a comparison: its verdict follows the interval, its figure shows every difference, undefined metrics are dashes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxr_ray.plotting.plots import DULL
from cxr_ray.report import comparison_page
from tests.report.pages import assert_menu_in_page_order
from tests.report.test_run_page import Page


def test_a_comparison_shows_undefined_metrics_as_dashes(tmp_path: Path) -> None:
    """A rare label leaves recall, ROC AUC and precision undefined in a run: the normal case of a short one."""
    values = [{"metric": "precision", "label": "mean", "value": 0.5, "positives": 1, "rows": 9}]
    found = {
        "runs": [{"name": "a", "values": values}, {"name": "b", "values": []}], "labels": ["Edema", "Mass"], "task": "multilabel",
        "rows": 9, "part": "test", "interval": {"resamples": 0, "by": "patient"}, "notes": [], "config": [], "data": [],
        "pairs": [], "shown": [], "seeds": [],
    }  # fmt: skip
    comparison_page.write(found, tmp_path / "compare.html")
    assert_menu_in_page_order((tmp_path / "compare.html").read_text(encoding="utf-8"))
    page = Page((tmp_path / "compare.html").read_text(encoding="utf-8"))
    assert page.text.count("–") == 3 * 2 * 5 - 1 and "0.500" in page.text


def row(metric: str, label: str, value: float, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"metric": metric, "label": label, "value": value} | (
        {} if low is None else {"low": low, "high": high, "p": 0.004}
    )


def compared(
    *rows: dict[str, Any], task: str = "multilabel", labels: tuple[str, ...] = ("Edema", "Mass")
) -> dict[str, Any]:
    return {
        "runs": [{"name": "a", "values": []}, {"name": "b", "values": []}], "labels": list(labels), "task": task, "rows": 90,
        "part": "test", "interval": {"resamples": 1000, "by": "patient"}, "notes": [], "config": [], "data": [], "shown": ["auroc"],
        "pairs": [{"first": "a", "second": "b", "rows": list(rows)}], "seeds": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([row("auroc", "mean", 0.05, 0.01, 0.09)], "b is better than a by 0.050 mean ROC AUC, more than chance explains (0.01 to 0.09, p 0.004)"),
        ([row("auroc", "mean", -0.05, -0.09, -0.01)], "a is better than b by 0.050 mean ROC AUC, more than chance"),
        ([row("auroc", "mean", 0.05, -0.01, 0.11)], "no difference in mean ROC AUC is shown: +0.050 (−0.01 to 0.11) is within what chance"),
        ([row("auroc", "mean", 0.05)], "mean ROC AUC differs by +0.050; no interval was computed"),
        ([row("auroc", "Mass", 0.05, 0.01, 0.09)], "b is better than a by 0.050 ROC AUC"),
        ([row("recall", "mean", 0.5, 0.4, 0.6)], "no metric is defined for both"),
    ],
)  # fmt: skip
def test_the_verdict_follows_the_interval(rows: list[dict[str, Any]], text: str) -> None:
    (line,) = comparison_page.verdicts(compared(*rows))
    assert line.startswith("b against a: ") and text in line


def test_the_verdict_names_labels_and_what_chance_would_give() -> None:
    rows = [
        row("auroc", "mean", 0.0, -0.1, 0.1),
        row("recall", "Edema", -0.2, -0.3, -0.1),
        row("recall", "Mass", 0.1, -0.1, 0.3),
    ]
    (line,) = comparison_page.verdicts(compared(*rows, row("f1", "Mass", 0.9, 0.8, 1.0)))
    assert (
        "excludes 0 for Edema −0.200 Recall (of 2 intervals by label, about 0.1 would exclude 0 by chance alone)"
        in line
    )
    (line,) = comparison_page.verdicts(compared(row("f1", "mean", 0.2, 0.1, 0.3), task="multiclass"))
    assert "b is better than a by 0.200 macro F1" in line.replace("Macro", "macro")


def test_the_figure_has_every_difference_on_one_zero(tmp_path: Path) -> None:
    rows = [
        row(m, k, 0.1 if k == "Edema" else -0.2, -0.05, 0.25)
        for m in ("recall", "auroc")
        for k in ("Edema", "Mass", "mean")
    ]
    rows[0] |= {"low": 0.02}
    found = compared(*rows)
    figure = comparison_page.difference_figures(found)["b-minus-a"]()
    assert [axes.get_xlabel() for axes in figure.axes] == ["Difference in recall", "Difference in ROC AUC"]
    assert "b minus a on test, 90 images" in figure.texts[0].get_text()
    for axes in figure.axes:
        dots = [line for line in axes.lines if line.get_marker() == "o"]
        assert [tuple(np.asarray(line.get_xydata()).ravel()) for line in dots] == [(0.1, 0), (-0.2, 1), (-0.2, 2)]
        low, high = axes.get_xlim()
        assert low == -high and high > 0.25
    clear = [line.get_color() != DULL for axes in figure.axes for line in axes.lines if line.get_marker() == "o"]
    assert clear == [True, *[False] * 5]
    comparison_page.write(found, tmp_path / "c.html")
    text = (tmp_path / "c.html").read_text(encoding="utf-8")
    assert_menu_in_page_order(text)
    body = text[text.index("</header>") :]
    assert body.index("b against a") < body.index("data:image/svg") < body.index("What differs")
    assert (tmp_path / "figures-c" / "b-minus-a.png").read_bytes().startswith(b"\x89PNG")
