"""The figures of a sweep's page: which there are, and from which numbers; each is drawn once. How they look is sweep_plots.py."""
# T combinations, K knobs, L labels

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cxr_ray import config as cfg
from cxr_ray import runs
from cxr_ray.config.metric_names import split_name
from cxr_ray.report import plots, render
from cxr_ray.report import sweep_plots as draw
from cxr_ray.report.sweep_plots import Scale, text
from cxr_ray.report.sweep_sections import MAPS, MOST, Row, _front, _values, title, told
from cxr_ray.tuning import space
from cxr_ray.tuning.importance import Importance, importance
from cxr_ray.tuning.sweep import Sweep


def _heats(judged: Sequence[Row], labels: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """The maps as figures, for slides: on the page they are tables."""
    names, out = tuple(r.name for r in judged[:MOST]), {}
    for metric in MAPS:
        value_TL = _values(judged[:MOST], labels, metric)
        if np.isfinite(value_TL).any():
            plain = tuple(tuple(float(v) for v in row) for row in value_TL)
            out[f"map-{metric}"] = (draw.heat, names, tuple(labels), plain, render.NAMES[metric])
    return out


# -- figures -------------------------------------------------------------------------------------------------------


def _figures(
    sweep: Sweep, config: cfg.Config, info: Mapping[str, Any], judged: Sequence[Row], rows: Sequence[Row]
) -> dict[str, tuple[Any, ...]]:
    """Name to (what draws it, its arguments): nothing is drawn yet."""
    tune = config.tune
    out: dict[str, tuple[Any, ...]] = {}
    curves = _curves(sweep, rows, tune.metrics[0])
    if any(len(x) for x, _ in curves):
        shown = tuple(r.shown for r in rows)
        out["curves"] = (draw.curves, shown, tuple(curves), title(tune.metrics[0]))
    if not judged:
        return out
    shown = tuple(r.shown for r in judged)
    y = tuple(r.values[tune.metrics[0]] for r in judged)
    scales = _scales(judged, config, info)
    goal = draw.scale(told(tune.metrics[0]), y, "uniform", down=tune.modes[0] == "min")
    places = tuple(
        (*(s.place(r.hyperparameters[k]) for k, s in scales.items()), goal.place(v))
        for r, v in zip(judged, y, strict=True)
    )
    if len(judged) > 1 and scales:
        out["parallel"] = (draw.parallel, shown, places, (*scales.values(), goal))
    for hyperparameter, scale in scales.items():
        given = tuple(
            text(r.hyperparameters[hyperparameter]) if scale.kind == "choice" else r.hyperparameters[hyperparameter]
            for r in judged
        )
        out[f"knob-{hyperparameter}"] = (draw.hyperparameter, shown, scale, given, y, title(tune.metrics[0]))
    forest = _forest(judged, info, config)
    if forest is not None:
        out["importance"] = (draw.importance, tuple(scales), forest.mean, forest.deviation)
    if len(tune.metrics) > 1 and judged:
        points = tuple(tuple(r.values.get(m, math.nan) for m in tune.metrics[:2]) for r in judged)
        out["pareto"] = (
            draw.pareto,
            shown,
            points,
            tuple(_front(judged, tune)),
            tuple(title(m) for m in tune.metrics[:2]),
        )
    return out


def _scales(judged: Sequence[Row], config: cfg.Config, info: Mapping[str, Any]) -> dict[str, Scale]:
    """How each knob is laid out, by what the space says of it and what the trials had."""
    said = space.flat(config.tune.space)
    out = {}
    for hyperparameter in info["knobs"]:
        kind, declared = next(iter(said[hyperparameter].items())) if hyperparameter in said else ("listed", [])
        given = space.numbers(dict(enumerate(declared))).values()
        out[hyperparameter] = draw.scale(
            hyperparameter, [r.hyperparameters[hyperparameter] for r in judged], kind, list(given)
        )
    return out


def _forest(judged: Sequence[Row], info: Mapping[str, Any], config: cfg.Config) -> Importance | None:
    """See `importance.importance`, over knobs and the first objective."""
    scales = _scales(judged, config, info) if judged else {}
    x = tuple(tuple(s.place(r.hyperparameters[k]) for k, s in scales.items()) for r in judged)
    return _grown(x, tuple(r.ranked.values[0] for r in judged if r.ranked is not None))


@functools.lru_cache(maxsize=16)
def _grown(value_TK: tuple[tuple[float, ...], ...], objective_T: tuple[float, ...]) -> Importance | None:
    return importance(value_TK, objective_T)


def _curves(sweep: Sweep, rows: Sequence[Row], wanted: str) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    """(epochs, values) of the objective for each combination, the mean over the folds that have the epoch."""
    _, metric, label = split_name(wanted)
    out = []
    for row in rows:
        held: dict[int, list[float]] = {}
        for trial in row.trials:
            file = sweep.path / "trials" / trial.name / "metrics.csv"
            stamp = file.stat().st_mtime_ns if file.exists() else 0
            for epoch, value in _curve(file, stamp, metric, label):
                held.setdefault(epoch, []).append(value)
        epochs = sorted(held)
        out.append((tuple(epochs), tuple(float(np.mean(held[e])) for e in epochs)))
    return out


@functools.lru_cache(maxsize=1024)
def _curve(file: Path, stamp: int, metric: str, label: str) -> tuple[tuple[int, float], ...]:
    """(epoch, value) of a trial's val metric, read once for each time that the file was written."""
    if not stamp:
        return ()
    table = runs.Run(file.parent).metrics
    here = table[(table["part"] == "val") & (table["metric"] == metric) & (table["label"] == label)]
    return tuple((int(e), float(v)) for e, v in zip(here["epoch"], here["value"], strict=True))


@functools.lru_cache(maxsize=64)
def _svg(make: Callable[..., Figure], *given: Any) -> str:
    return draw.marked(make(*given))


@functools.lru_cache(maxsize=64)
def _png(make: Callable[..., Figure], *given: Any) -> bytes:
    return plots.png(make(*given))


def _save(folder: Path, figures: Mapping[str, bytes]) -> None:
    """Every figure as PNG; those that this sweep no longer has go."""
    folder.mkdir(exist_ok=True)
    names = {render.file_name(name): body for name, body in figures.items()}
    for old in folder.glob("*.png"):
        if old.name not in names:
            old.unlink()
    for name, body in names.items():
        file = folder / name
        if not file.exists() or file.read_bytes() != body:
            file.write_bytes(body)
