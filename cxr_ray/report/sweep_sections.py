"""What the page of a sweep shows, section by section, as plain values. No figure is drawn here."""
# T combinations, K knobs, L labels

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cxr_ray import config as cfg
from cxr_ray import metrics
from cxr_ray.config.metric_names import join_name, sign_of, split_name
from cxr_ray.labels import PARTS
from cxr_ray.report import render
from cxr_ray.report import sweep_plots as draw
from cxr_ray.report.sweep_plots import Shown, text
from cxr_ray.tuning import ranking, space
from cxr_ray.tuning.ranking import Ranked
from cxr_ray.tuning.sweep import Sweep
from cxr_ray.tuning.trial import ENDED, FAILED, FINISHED, RUNNING, STOPPED, WAITING, Trial

MAPS = ("recall", "auroc", "ap")
"""Metrics of the maps of trials and labels, in the order of worth."""

MOST = 60
"""Trials of a map on the page, the best first; all stand in sweep.csv."""


@dataclass(frozen=True)
class Row:
    """A combination as the page shows it: its trial, or its folds together."""

    name: str
    number: int
    trials: tuple[Trial, ...]
    hyperparameters: dict[str, Any]
    """Every knob of the sweep: the config's own where the combination does not say it."""
    status: str
    values: dict[str, float]
    """By metric name, the mean over the folds judged."""
    ranked: Ranked | None
    place: int | None
    """1: the best."""

    @property
    def base(self) -> bool:
        """Whether it is the config as written."""
        return self.trials[0].base

    @property
    def epochs(self) -> int:
        """Done, over its folds."""
        return sum(t.epochs for t in self.trials)

    @property
    def seconds(self) -> float:
        """Of training, over its folds."""
        return sum(t.seconds for t in self.trials)

    @property
    def shown(self) -> Shown:
        """How figures mark it."""
        return Shown(self.name, self.place == 1, self.base, self.status == STOPPED)


# -- what is shown -------------------------------------------------------------------------------------------------


def _rows(trials: Sequence[Trial], config: cfg.Config, info: Mapping[str, Any], order: Sequence[Ranked]) -> list[Row]:
    """The combinations, the best first, then those that are not judged, by number."""
    written = config.model_dump()
    places = {r.number: (at, r) for at, r in enumerate(order, start=1)}
    out = []
    for number in sorted({t.number for t in trials}):
        here = tuple(t for t in trials if t.number == number)
        place, ranked = places.get(number, (None, None))
        named = {name for t in here for name in t.values}
        values = {n: float(np.mean([t.values[n] for t in here if n in t.values])) for n in named}
        hyperparameters = {k: here[0].hyperparameters.get(k, cfg.value_at(written, k)) for k in info["knobs"]}
        name = here[0].name if here[0].fold is None else f"{number:04d}"
        out.append(Row(name, number, here, hyperparameters, _status(here), values, ranked, place))
    return sorted(out, key=lambda r: (r.place is None, r.place or r.number))


def _status(folds: Sequence[Trial]) -> str:
    """Of a combination: what its folds are, the least done first."""
    held = {t.status for t in folds}
    if len(folds) > 1 and WAITING in held and held != {WAITING}:
        return FAILED if FAILED in held else RUNNING
    return next(s for s in (FAILED, RUNNING, WAITING, STOPPED, FINISHED) if s in held)


def told(name: str) -> str:
    """A metric in words: `val/auroc/mean` is mean ROC AUC, `val/recall/Edema` recall of Edema."""
    _, metric, label = split_name(name)
    said = render.NAMES[metric]
    said = said if said.startswith(("ROC", "F1")) else said[0].lower() + said[1:]
    return f"{label} {said}" if label in metrics.AVERAGES else f"{said} of {label}" if label else said


def title(name: str) -> str:
    """As `told`, to begin a line with."""
    said = told(name)
    return said[0].upper() + said[1:]


def _line(row: Row, tune: cfg.Tune) -> str:
    """A trial in a line, as its marks tell it."""
    hyperparameters = ", ".join(f"{k} {text(v)}" for k, v in row.hyperparameters.items())
    values = [f"{told(m)} {row.values[m]:.3f}" for m in tune.metrics if m in row.values]
    what = "the config as written" if row.base else hyperparameters
    return f"{row.name}: {what}; {', '.join(values) or 'not judged'}; {row.status}, {row.epochs} epochs"


def _parts(sweep: Sweep, info: Mapping[str, Any], trials: Sequence[Trial]) -> dict[str, int]:
    """Rows of each part; folds move between train and val, so those are the first trial's."""
    counts = pd.Series(info.get("rows", {}))
    for trial in trials:
        file = sweep.path / "trials" / trial.name / "plan.parquet"
        if file.exists():
            counts = pd.read_parquet(file, columns=["part"])["part"].value_counts()
            break
    return {part: int(counts[part]) for part in PARTS if counts.get(part)}


def _searched(config: cfg.Config, info: Mapping[str, Any]) -> list[dict[str, str]]:
    """A line a knob: what it may be, and what the config as written says."""
    written, said = config.model_dump(), space.flat(config.tune.space)
    out = []
    for hyperparameter in info["knobs"]:
        kind, values = next(iter(said[hyperparameter].items())) if hyperparameter in said else ("choice", [])
        if hyperparameter not in said:
            values = list(
                dict.fromkeys(text(c[hyperparameter]) for c in config.tune.combinations if hyperparameter in c)
            )
        shown = [text(v) for v in space.numbers(dict(enumerate(values))).values()]
        words = ", ".join(shown) if kind == "choice" else " to ".join(shown) + KIND_WORDS[kind]
        out.append({"knob": hyperparameter, "words": words, "base": text(cfg.value_at(written, hyperparameter))})
    return out


KIND_WORDS = {"loguniform": ", even in the logarithm", "uniform": "", "integer": ", whole numbers"}


def _state(info: Mapping[str, Any], trials: Sequence[Trial], config: cfg.Config) -> dict[str, Any]:
    """How far it is, and the minutes left by what the ended trials took: `ended` of `planned`, `running`, `failed`, `left_s`."""
    ended = [t for t in trials if t.status in ENDED]
    running = [t for t in trials if t.status == RUNNING]
    planned = max(int(info.get("planned") or 0), len(trials))
    out: dict[str, Any] = {
        "ended": len(ended), "planned": planned, "running": len(running), "failed": sum(t.status == FAILED for t in ended),
        "stopped": sum(t.status == STOPPED for t in ended), "left_s": None,
    }  # fmt: skip
    timed = [t for t in ended if t.seconds and t.epochs]
    if info["status"] == "started" and timed and running:
        each = sum(t.seconds for t in timed) / sum(t.epochs for t in timed)
        usual = sum(t.epochs for t in timed) / len(timed)
        left = sum(max(usual - t.epochs, 0.5) for t in running) + usual * (planned - len(ended) - len(running))
        out["left_s"] = each * left / len(running)
    return out


def _headline(best: Row | None, judged: Sequence[Row], tune: cfg.Tune) -> list[dict[str, str]]:
    """The winner's objectives and what else is asked first, each with what the config as written reaches."""
    if best is None or best.ranked is None:
        return []
    base = next((r for r in judged if r.base and r is not best), None)
    wanted = [*tune.metrics, *(f"val/{m}/{metrics.MEAN}" for m in MAPS)]
    cells: list[dict[str, str]] = []
    for name in dict.fromkeys(wanted):
        if name in best.values and len(cells) < 4:
            spread = best.ranked.deviation[tune.metrics.index(name)] if name in tune.metrics else math.nan
            about = [f"± {spread:.3f} between folds"] if not math.isnan(spread) else []
            about += (
                [f"as written {render.number(base.values[name])}"] if base is not None and name in base.values else []
            )
            cells.append({"name": title(name), "value": render.number(best.values[name]), "about": ", ".join(about)})
    return cells


def _worth(said: Mapping[str, Any], tune: cfg.Tune, labels: Sequence[str]) -> dict[str, Any]:
    """`sweep.json`'s worth in words: `test` cells, `lines`, `ensemble` cells and its members, `note`."""
    ensemble = said.get("ensemble") or {}
    order = ranking.headline(tune.metrics, labels)
    return {"test": _test_cells(said.get("test"), order), "lines": [_lead(one) for one in said.get("against", [])],
            "members": ensemble.get("members", []), "ensemble": _test_cells(ensemble.get("test"), order),
            "note": said.get("note")}  # fmt: skip


def _folds(said: Mapping[str, Any], tune: cfg.Tune, labels: Sequence[str]) -> dict[str, Any]:
    """`sweep.json`'s folds in words: their `count`, `lines`, and `test` cells of their ensemble."""
    held = said.get("objectives", {})
    lines = [
        f"{title(name)} on val: {render.number(held[name]['mean'])} ± {render.number(held[name]['deviation'])} between folds"
        for name in tune.metrics
        if name in held
    ]
    order = ranking.headline(tune.metrics, labels)
    return {"count": len(said.get("runs", [])), "lines": lines, "test": _test_cells(said.get("test"), order)}


def _lead(one: Mapping[str, Any]) -> str:
    """The winner's lead in one metric over another trial, and what chance has to say of it."""
    what = f"{one['what']} ({one['trial']})" if one.get("trial") else one["what"]
    metric = told(join_name(one["part"], one["metric"], one.get("label", metrics.MEAN)))
    line = f"Against {what}: {render.signed(one['value'])} {metric} on {one['part']}"
    folds = ""
    if one.get("folds"):
        by_fold = (
            "" if one.get("by_fold") is None else f", the means over folds differ by {render.signed(one['by_fold'])}"
        )
        folds = f" Better on {one['folds_better']} of {one['folds']} folds{by_fold}."
    if one.get("low") is None:
        return f"{line}; no interval could be found.{folds}"
    p = "" if one.get("p") is None else f", p {render.number(one['p'])}"
    better = sign_of(one.get("mode", "max")) * one["value"] > 0
    verdict = "More than chance gives." if better else "It is worse."
    if one["low"] <= 0 <= one["high"]:
        verdict = "Within noise: chance alone may give as much."
    return f"{line} ({render.signed(one['low'])} to {render.signed(one['high'])}{p}). {verdict}{folds}"


def _test_cells(said: Mapping[str, Any] | None, order: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Metrics of test in the order of `sweeps.headline`."""
    cells = [(key.partition("/")[0], one.get("label", metrics.MEAN), one) for key, one in (said or {}).items()]
    place = {pair: at for at, pair in enumerate(order)}
    cells.sort(key=lambda cell: place.get(cell[:2], len(place)))
    return [{"name": title(join_name("test", metric, label)), **one} for metric, label, one in cells]


def _best_of_each(judged: Sequence[Row], labels: Sequence[str], best: Row | None) -> list[dict[str, Any]]:
    """A row a label: for each metric of the maps the best trial, its value, and the winner's."""
    out = []
    for label in labels:
        cells = []
        for metric in MAPS:
            name = join_name("val", metric, label)
            held = [r for r in judged if name in r.values]
            top = max(held, key=lambda r: r.values[name], default=None)
            precision = top and top.values.get(join_name("val", "precision", label))
            cells.append({
                "metric": metric, "row": top, "value": top and top.values[name], "precision": precision,
                "winner": best.values.get(name) if best else None,
            })  # fmt: skip
        out.append({"label": label, "cells": cells})
    return out


def _maps(judged: Sequence[Row], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Trial x label of each metric, a cell's shade by how near it comes to the label's best trial."""
    rows, out = judged[:MOST], []
    for metric in MAPS:
        value_TL = _values(rows, labels, metric)
        if not np.isfinite(value_TL).any():
            continue
        share_TL = draw.shares(value_TL)
        lines = []
        for row, value_L, share_L in zip(rows, value_TL, share_TL, strict=True):
            cells = [
                {"value": None}
                if np.isnan(v)
                else {"value": v, "best": s >= 1 - 1e-9, "colours": draw.shade_of(float(s))}
                for v, s in zip(value_L, share_L, strict=True)
            ]
            lines.append({"row": row, "cells": cells, "mean": row.values.get(join_name("val", metric, metrics.MEAN))})
        out.append({"metric": metric, "lines": lines, "more": len(judged) - len(rows)})
    return out


def _values(rows: Sequence[Row], labels: Sequence[str], metric: str) -> Any:
    return np.array([[r.values.get(join_name("val", metric, k), math.nan) for k in labels] for r in rows], float)


def _front(judged: Sequence[Row], tune: cfg.Tune) -> list[bool]:
    """Which combinations stand on `sweeps.front`."""
    on = ranking.front([r.ranked for r in judged if r.ranked is not None], tune.modes)
    return [r.number in on for r in judged]


def _columns(judged: Sequence[Row], tune: cfg.Tune) -> list[str]:
    """Metrics of the table of all trials: the objectives, then means in the order of worth."""
    wanted = [
        *tune.metrics,
        *(f"val/{m}/mean" for m in (*metrics.MAIN_METRICS, "ap")),
        "val/accuracy",
        "val/loss",
    ]
    held = {name for r in judged for name in r.values}
    return [n for n in dict.fromkeys(wanted) if n in held]


def _costs(trials: Sequence[Trial], config: cfg.Config, info: Mapping[str, Any]) -> dict[str, Any] | None:
    """Seconds and epochs of all trials, and what ending some early saved: their epochs to the end at their own pace."""
    held = [t for t in trials if t.epochs and t.seconds]
    if not held:
        return None
    longest = {t.name: int(t.hyperparameters.get("train.epochs", config.train.epochs)) for t in held}
    cut = [t for t in held if t.status == STOPPED]
    saved = sum((longest[t.name] - t.epochs) * t.seconds / t.epochs for t in cut)
    seconds = sum(t.seconds for t in held)
    wall = float(info.get("seconds") or 0.0)
    return {
        "seconds": seconds, "epochs": sum(t.epochs for t in held), "trials": len(held), "each": seconds / len(held),
        "shortest": min(t.epochs for t in held), "longest": max(t.epochs for t in held), "wall": wall,
        "at_once": seconds / wall if wall and info["status"] != "started" else None,
        "stopped": len(cut), "saved": saved, "share": saved / (seconds + saved), "full": sum(longest.values()),
    }  # fmt: skip
