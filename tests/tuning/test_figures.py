"""Which figures a sweep has, and that their arguments can be cached."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cxr_ray.plotting import plots
from cxr_ray.plotting import sweep_plots as draw
from cxr_ray.tuning import figures
from cxr_ray.tuning.combinations import combination_rows
from tests.fakes.sweep import make_sweep


@pytest.mark.parametrize(
    "make", [draw.curves, draw.parallel, draw.hyperparameter, draw.importance, draw.pareto, draw.heat]
)
def test_arguments_of_figures_can_be_cached(make: Callable[..., Any], tmp_path: Path) -> None:
    """Every argument of a figure must be hashable, or the figure would be plotted each time."""
    sweep = make_sweep(tmp_path / "s", labels=("Edema", "Mass"), epochs=2)
    info, config = sweep.info, sweep.config
    rows = combination_rows(sweep.trial_records, config, info, sweep.ranked())
    evaluated = [r for r in rows if r.ranked is not None]
    two = config.model_copy(
        update={"tune": config.tune.model_copy(update={"metric": ["val/auroc/mean", "val/recall/mean"]})}
    )
    evaluated_two = [
        replace(r, ranked=replace(r.ranked, values=(r.ranked.values[0], r.values["val/recall/mean"])))
        for r in rows
        if r.ranked is not None
    ]
    every = {
        **figures.figures_of(sweep.path, two, info, evaluated_two, rows),
        **figures.heat_figures(evaluated, info["labels"]),
    }
    chosen = [f for f in every.values() if f[0] is make]
    assert chosen
    for figure in chosen:
        hash(figure)
        assert plots.png(figure[0](*figure[1:])).startswith(b"\x89PNG")
