"""Figures of a sweep's page: plotted once for equal numbers, the same bytes for equal sweeps, and deleted with what they show."""

import time
from pathlib import Path

import pandas as pd
import pytest

from cxr_ray.plotting import sweep_plots as draw
from cxr_ray.report import sweep_figures, sweep_page
from tests.fakes.sweep import make_sweep
from tests.report.test_sweep_page import text_of

THREE = ("Edema", "Mass", "Effusion")


def test_figures_with_equal_numbers_are_not_plotted_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = make_sweep(tmp_path / "s", trials=12, failed=(), labels=THREE, status="started", running=(11,))
    sweep_page.write(sweep)
    plotted: list[str] = []
    real = draw.marked
    monkeypatch.setattr(draw, "marked", lambda figure: plotted.append("x") or real(figure))
    before = text_of(sweep)
    began = time.process_time()
    sweep_page.write(sweep)
    again = time.process_time() - began
    assert plotted == [] and text_of(sweep) == before
    assert again < 1.0
    trial = next(t for t in sweep.trial_records if t.name == "0011")
    file = sweep.path / "trials" / trial.name / "metrics.csv"
    table = pd.read_csv(file)
    more = table[table["epoch"] == table["epoch"].max()].assign(epoch=table["epoch"].max() + 1)
    pd.concat([table, more.assign(value=more["value"] * 0.9)]).to_csv(file, index=False)
    sweep_page.write(sweep)
    assert plotted == ["x"]  # its learning curve; its best epoch is unchanged


def test_equal_sweeps_give_equal_bytes(tmp_path: Path) -> None:
    pages = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        sweep = make_sweep(tmp_path / folder / "s", trials=3, failed=(), labels=THREE, epochs=2)
        sweep_figures.svg_of.cache_clear()
        sweep_figures.png_of.cache_clear()
        page = sweep_page.write(sweep).read_text(encoding="utf-8").replace(str(tmp_path / folder), "")
        pages.append(
            (
                page,
                (sweep.path / "sweep.csv").read_bytes(),
                {p.name: p.read_bytes() for p in (sweep.path / "figures").iterdir()},
            )
        )
    assert pages[0] == pages[1]


def test_figures_that_no_longer_exist_are_deleted(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", trials=3, failed=(), labels=THREE, epochs=2)
    (sweep.path / "figures").mkdir()
    (sweep.path / "figures" / "old.png").write_bytes(b"")
    sweep_page.write(sweep)
    names = {p.name for p in (sweep.path / "figures").iterdir()}
    assert (
        "old.png" not in names
        and {"curves.png", "parallel.png", "map-recall.png", "map-auroc.png", "map-ap.png"} <= names
    )
