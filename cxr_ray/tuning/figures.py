"""The figures of a sweep: which there are, and from which numbers. How they look is plotting/sweep_plots.py."""
# T combinations, K hyperparameters, L labels

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxr_ray import config as cfg
from cxr_ray import runs
from cxr_ray.config.metric_names import split_name
from cxr_ray.metrics.titles import NAMES, metric_text, metric_title
from cxr_ray.plotting import sweep_plots as draw
from cxr_ray.plotting.sweep_plots import Scale, Shown, text
from cxr_ray.tuning import space
from cxr_ray.tuning.combinations import MAPS, MOST, Row, label_values, on_front
from cxr_ray.tuning.importance import Importance, importance
from cxr_ray.tuning.trial import STOPPED


def heat_figures(evaluated: Sequence[Row], labels: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """The heat maps as figures, for slides: on the page they are tables."""
    names, out = tuple(r.name for r in evaluated[:MOST]), {}
    for metric in MAPS:
        value_TL = label_values(evaluated[:MOST], labels, metric)
        if np.isfinite(value_TL).any():
            plain = tuple(tuple(float(v) for v in row) for row in value_TL)
            out[f"map-{metric}"] = (draw.heat, names, tuple(labels), plain, NAMES[metric])
    return out


def figures_of(
    folder: Path, config: cfg.Config, info: Mapping[str, Any], evaluated: Sequence[Row], rows: Sequence[Row]
) -> dict[str, tuple[Any, ...]]:
    """Name to (plotting function, its arguments) for the sweep in `folder`: nothing is plotted yet."""
    tune = config.tune
    out: dict[str, tuple[Any, ...]] = {}
    curves = _curves(folder, rows, tune.metrics[0])
    if any(len(x) for x, _ in curves):
        shown = tuple(_shown(r) for r in rows)
        out["curves"] = (draw.curves, shown, tuple(curves), metric_title(tune.metrics[0]))
    if not evaluated:
        return out
    shown = tuple(_shown(r) for r in evaluated)
    y = tuple(r.values[tune.metrics[0]] for r in evaluated)
    scales = scales_of(evaluated, config, info)
    goal = draw.scale(metric_text(tune.metrics[0]), y, "uniform", down=tune.modes[0] == "min")
    places = tuple(
        (*(s.place(r.hyperparameters[k]) for k, s in scales.items()), goal.place(v))
        for r, v in zip(evaluated, y, strict=True)
    )
    if len(evaluated) > 1 and scales:
        out["parallel"] = (draw.parallel, shown, places, (*scales.values(), goal))
    for name, scale in scales.items():
        given = tuple(
            text(r.hyperparameters[name]) if scale.kind == "choice" else r.hyperparameters[name] for r in evaluated
        )
        out[f"knob-{name}"] = (draw.hyperparameter, shown, scale, given, y, metric_title(tune.metrics[0]))
    forest = importance_of(evaluated, info, config)
    if forest is not None:
        out["importance"] = (draw.importance, tuple(scales), forest.mean, forest.deviation)
    if len(tune.metrics) > 1 and evaluated:
        points = tuple(tuple(r.values.get(m, math.nan) for m in tune.metrics[:2]) for r in evaluated)
        out["pareto"] = (
            draw.pareto,
            shown,
            points,
            tuple(on_front(evaluated, tune)),
            tuple(metric_title(m) for m in tune.metrics[:2]),
        )
    return out


def _shown(row: Row) -> Shown:
    """How figures mark a combination."""
    return Shown(row.name, row.place == 1, row.base, row.status == STOPPED)


def scales_of(evaluated: Sequence[Row], config: cfg.Config, info: Mapping[str, Any]) -> dict[str, Scale]:
    """The axis of each hyperparameter, from its search range and the trials' values."""
    searched = space.flatten(config.tune.space)
    out = {}
    for name in info["knobs"]:
        kind, declared = next(iter(searched[name].items())) if name in searched else ("listed", [])
        given = space.parse_numbers(dict(enumerate(declared))).values()
        out[name] = draw.scale(name, [r.hyperparameters[name] for r in evaluated], kind, list(given))
    return out


def importance_of(evaluated: Sequence[Row], info: Mapping[str, Any], config: cfg.Config) -> Importance | None:
    """The importance of the hyperparameters for the first objective (see `importance.importance`)."""
    scales = scales_of(evaluated, config, info) if evaluated else {}
    x = tuple(tuple(s.place(r.hyperparameters[k]) for k, s in scales.items()) for r in evaluated)
    return cached_importance(x, tuple(r.ranked.values[0] for r in evaluated if r.ranked is not None))


@functools.lru_cache(maxsize=16)
def cached_importance(value_TK: tuple[tuple[float, ...], ...], objective_T: tuple[float, ...]) -> Importance | None:
    return importance(value_TK, objective_T)


def _curves(folder: Path, rows: Sequence[Row], wanted: str) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    """(epochs, values) of the objective for each combination, the mean over the folds that have the epoch."""
    _, metric, label = split_name(wanted)
    out = []
    for row in rows:
        values: dict[int, list[float]] = {}
        for trial in row.trials:
            file = folder / "trials" / trial.name / "metrics.csv"
            stamp = file.stat().st_mtime_ns if file.exists() else 0
            for epoch, value in _curve(file, stamp, metric, label):
                values.setdefault(epoch, []).append(value)
        epochs = sorted(values)
        out.append((tuple(epochs), tuple(float(np.mean(values[e])) for e in epochs)))
    return out


@functools.lru_cache(maxsize=1024)
def _curve(file: Path, stamp: int, metric: str, label: str) -> tuple[tuple[int, float], ...]:
    """(epoch, value) of a trial's val metric; read again only after the file changed (`stamp`)."""
    if not stamp:
        return ()
    table = runs.Run(file.parent).metrics
    here = table[(table["part"] == "val") & (table["metric"] == metric) & (table["label"] == label)]
    return tuple((int(e), float(v)) for e, v in zip(here["epoch"], here["value"], strict=True))
