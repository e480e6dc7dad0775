"""The page of a sweep, written anew as trials report: what was searched, what won and what that is worth, label by label."""
# T combinations, K knobs, L labels

import math
from pathlib import Path

from cxr_ray.report import render
from cxr_ray.report import sweep_plots as draw
from cxr_ray.report.sweep_figures import _figures, _forest, _heats, _png, _save, _svg
from cxr_ray.report.sweep_plots import text
from cxr_ray.report.sweep_sections import (
    _best_of_each,
    _columns,
    _costs,
    _folds,
    _front,
    _headline,
    _line,
    _maps,
    _parts,
    _rows,
    _searched,
    _state,
    _worth,
    title,
    told,
)
from cxr_ray.storage.atomic import write_atomic
from cxr_ray.tuning import ranking
from cxr_ray.tuning.importance import FEWEST
from cxr_ray.tuning.sweep import Sweep
from cxr_ray.tuning.trial import FAILED


def write(sweep: Sweep) -> Path:
    """Write `sweep.html` and `sweep.csv` into the sweep's folder, whole; once it does not run, its figures as PNG. Gives the page.

    Called again and again while trials run: with none judged, with running and with failed ones. A figure whose numbers did
    not change is not drawn again. One file that loads nothing and names no patient."""
    info, config, trials = sweep.info, sweep.config, sweep.trials
    tune, limits = config.tune, ranking.constraints(config.tune)
    rows = _rows(trials, config, info, ranking.ranked(trials, tune, limits))
    judged = [r for r in rows if r.ranked is not None and not math.isnan(r.ranked.values[0])]
    best = next((r for r in judged if r.place == 1), None)
    figures = _figures(sweep, config, info, judged, rows)
    lines = {r.name: _line(r, tune) for r in rows}
    page = render.jinja().get_template("sweep.html").render(
        name=sweep.path.name,
        info=info,
        config=config,
        tune=tune,
        grace=sweep.grace,
        parts=_parts(sweep, info, trials),
        space=_searched(config, info),
        state=_state(info, trials, config),
        rows=rows,
        judged=judged,
        best=best,
        base=next((r for r in judged if r.base), None),
        cells=_headline(best, judged, tune),
        worth=_worth(info.get("worth") or {}, tune, info["labels"]),
        folds=_folds(info.get("folds") or {}, tune, info["labels"]),
        each=_best_of_each(judged, info["labels"], best),
        maps=_maps(judged, info["labels"]),
        constraints=[{"said": str(c), "met": [r for r in judged if c.met(r.values)]} for c in limits],
        front=[r for r, on in zip(judged, _front(judged, tune), strict=True) if on] if len(tune.metrics) > 1 else [],
        figures={name: draw.titled(_svg(*figure), lines) for name, figure in figures.items()},
        forest=_forest(judged, info, config),
        few=FEWEST,
        costs=_costs(trials, config, info),
        failed=[t for t in trials if t.status == FAILED],
        names=render.NAMES,
        text=text,
        told=told,
        title=title,
        columns=_columns(judged, tune),
        yaml=config.to_yaml(),
    )  # fmt: skip
    write_atomic(sweep.path / "sweep.csv", sweep.table(trials).to_csv(index=False))
    write_atomic(sweep.path / "sweep.html", page)
    if info["status"] != "started":
        figures |= _heats(judged, info["labels"])
        _save(sweep.path / "figures", {name: _png(*figure) for name, figure in figures.items()})
    return sweep.path / "sweep.html"
