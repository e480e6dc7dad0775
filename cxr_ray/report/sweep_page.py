"""The page of a sweep, rewritten as trials report. The values are sweep_sections.py, the figures tuning/figures.py."""

from pathlib import Path

from cxr_ray.metrics.titles import NAMES, metric_text, metric_title
from cxr_ray.plotting import sweep_plots as plots
from cxr_ray.plotting.sweep_plots import text
from cxr_ray.report import render, sweep_answers, sweep_figures
from cxr_ray.report import sweep_sections as sections
from cxr_ray.storage.atomic import write_atomic
from cxr_ray.tuning import combinations, ranking
from cxr_ray.tuning import figures as figures_of_sweep
from cxr_ray.tuning.importance import MIN_TRIALS
from cxr_ray.tuning.sweep import Sweep
from cxr_ray.tuning.trial import FAILED


def write(sweep: Sweep) -> Path:
    """Write `sweep.html` and `sweep.csv` into the sweep's folder and, when the sweep is not running, its figures as PNG. Returns the
    page's path.

    May be called at any time: before a trial is evaluated, and with running or failed trials. A figure whose numbers did not
    change is not rendered again. The page is one file, loads nothing and names no patient."""
    info, config, trials = sweep.info, sweep.config, sweep.trial_records
    tune, limits = config.tune, ranking.constraints(config.tune)
    rows = combinations.combination_rows(trials, config, info, ranking.rank(trials, tune, limits))
    evaluated = combinations.evaluated(rows)
    best = next((r for r in evaluated if r.place == 1), None)
    figures = figures_of_sweep.figures_of(sweep.path, config, info, evaluated, rows)
    lines = {r.name: sections.trial_line(r, tune) for r in rows}
    page = render.jinja().get_template("sweep.html").render(
        name=sweep.path.name,
        info=info,
        config=config,
        tune=tune,
        grace=sweep.grace_epochs,
        parts=sections.part_sizes(sweep, info, trials),
        space=sections.search_rows(config, info),
        state=sections.state_of(info, trials, config),
        rows=rows,
        evaluated=evaluated,
        best=best,
        answers=sweep_answers.answers(evaluated, config, info),
        base=next((r for r in evaluated if r.base), None),
        cells=sections.headline_cells(best, evaluated, tune),
        comparison=sections.comparison_text(info.get("worth") or {}, tune, info["labels"]),
        folds=sections.folds_text(info.get("folds") or {}, tune, info["labels"]),
        silent=sections.silent_labels(best, info["labels"]),
        each=sections.best_by_label(evaluated, info["labels"], best),
        maps=sections.heat_maps(evaluated, info["labels"]),
        constraints=[{"text": str(c), "met": [r for r in evaluated if c.met(r.values)]} for c in limits],
        front=[r for r, on in zip(evaluated, combinations.on_front(evaluated, tune), strict=True) if on] if len(tune.metrics) > 1 else [],
        figures={name: plots.titled(sweep_figures.svg_of(*figure), lines) for name, figure in figures.items()},
        forest=figures_of_sweep.importance_of(evaluated, info, config),
        few=MIN_TRIALS,
        costs=sections.training_costs(trials, config, info),
        failed=[t for t in trials if t.status == FAILED],
        names=NAMES,
        text=text,
        metric_text=metric_text,
        metric_title=metric_title,
        columns=sections.trial_columns(evaluated, tune),
        yaml=config.to_yaml(),
    )  # fmt: skip
    write_atomic(sweep.path / "sweep.csv", sweep.trial_table(trials).to_csv(index=False))
    write_atomic(sweep.path / "sweep.html", page)
    if info["status"] != "started":
        figures |= figures_of_sweep.heat_figures(evaluated, info["labels"])
        sweep_figures.save_figures(
            sweep.path / "figures", {name: sweep_figures.png_of(*figure) for name, figure in figures.items()}
        )
    return sweep.path / "sweep.html"
