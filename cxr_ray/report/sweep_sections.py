"""What the page of a sweep shows, section by section, as plain values. No figure is drawn here."""
# T combinations, L labels

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cxr_ray import config as cfg
from cxr_ray import metrics
from cxr_ray.config.metric_names import join_name, sign_of
from cxr_ray.labels import PARTS
from cxr_ray.metrics.titles import metric_text, metric_title, p_text
from cxr_ray.plotting import sweep_plots as draw
from cxr_ray.plotting.sweep_plots import text
from cxr_ray.report import render
from cxr_ray.tuning import ranking, space
from cxr_ray.tuning.combinations import MAPS, MOST, Row, label_values
from cxr_ray.tuning.sweep import Sweep
from cxr_ray.tuning.trial import ENDED, FAILED, RUNNING, STOPPED, Trial


def trial_line(row: Row, tune: cfg.Tune) -> str:
    """A trial in one line: the tooltip of its marks."""
    hyperparameters = ", ".join(f"{k} {text(v)}" for k, v in row.hyperparameters.items())
    values = [f"{metric_text(m)} {row.values[m]:.3f}" for m in tune.metrics if m in row.values]
    what = "the base configuration" if row.base else hyperparameters
    return f"{row.name}: {what}; {', '.join(values) or 'not evaluated'}; {row.status}, {row.epochs} epochs"


def part_sizes(sweep: Sweep, info: Mapping[str, Any], trials: Sequence[Trial]) -> dict[str, int]:
    """Rows of each part; with folds, those of the first trial."""
    counts = pd.Series(info.get("rows", {}))
    for trial in trials:
        file = sweep.path / "trials" / trial.name / "plan.parquet"
        if file.exists():
            counts = pd.read_parquet(file, columns=["part"])["part"].value_counts()
            break
    return {part: int(counts[part]) for part in PARTS if counts.get(part)}


def search_rows(config: cfg.Config, info: Mapping[str, Any]) -> list[dict[str, str]]:
    """A line for each hyperparameter: its name, its range, and its value in the base configuration."""
    base, searched = config.model_dump(), space.flatten(config.tune.space)
    out = []
    for name in info["knobs"]:
        kind, values = next(iter(searched[name].items())) if name in searched else ("choice", [])
        if name not in searched:
            values = list(dict.fromkeys(text(c[name]) for c in config.tune.combinations if name in c))
        shown = [text(v) for v in space.parse_numbers(dict(enumerate(values))).values()]
        words = ", ".join(shown) if kind == "choice" else " to ".join(shown) + KIND_WORDS[kind]
        out.append({"name": name, "range": words, "base": text(cfg.value_at(base, name))})
    return out


KIND_WORDS = {"loguniform": ", log-uniform", "uniform": ", uniform", "integer": ", integers"}


def state_of(info: Mapping[str, Any], trials: Sequence[Trial], config: cfg.Config) -> dict[str, Any]:
    """Counts of trials (`ended`, `planned`, `running`, `failed`, `stopped`) and `left_s`, the seconds left as estimated from ended trials."""
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


def headline_cells(best: Row | None, evaluated: Sequence[Row], tune: cfg.Tune) -> list[dict[str, str]]:
    """The best trial's objectives and main metrics, each with the value of the base configuration."""
    if best is None or best.ranked is None:
        return []
    base = next((r for r in evaluated if r.base and r is not best), None)
    wanted = [*tune.metrics, *(f"val/{m}/{metrics.MEAN}" for m in MAPS)]
    cells: list[dict[str, str]] = []
    for name in dict.fromkeys(wanted):
        if name in best.values and len(cells) < 4:
            spread = best.ranked.deviation[tune.metrics.index(name)] if name in tune.metrics else math.nan
            about = [f"± {spread:.3f} between folds"] if not math.isnan(spread) else []
            about += [f"base {render.number(base.values[name])}"] if base is not None and name in base.values else []
            cells.append(
                {"name": metric_title(name), "value": render.number(best.values[name]), "about": ", ".join(about)}
            )
    return cells


def comparison_text(comparison: Mapping[str, Any], tune: cfg.Tune, labels: Sequence[str]) -> dict[str, Any]:
    """The comparison of `sweep.json` (key `worth`) as text: `test` cells, `lines`, `ensemble` cells and `members`, `note`."""
    ensemble = comparison.get("ensemble") or {}
    order = ranking.headline_metrics(tune.metrics, labels)
    return {"test": _test_cells(comparison.get("test"), order), "lines": [difference_text(row) for row in comparison.get("against", [])],
            "members": ensemble.get("members", []), "ensemble": _test_cells(ensemble.get("test"), order),
            "note": comparison.get("note")}  # fmt: skip


def folds_text(folds: Mapping[str, Any], tune: cfg.Tune, labels: Sequence[str]) -> dict[str, Any]:
    """The folds of `sweep.json` as text: their `count`, `lines`, and the `test` cells of their ensemble."""
    objectives = folds.get("objectives", {})
    lines = [
        f"{metric_title(name)} on val: {render.number(objectives[name]['mean'])} ± {render.number(objectives[name]['deviation'])} between folds"
        for name in tune.metrics
        if name in objectives
    ]
    order = ranking.headline_metrics(tune.metrics, labels)
    return {"count": len(folds.get("runs", [])), "lines": lines, "test": _test_cells(folds.get("test"), order)}


def difference_text(one: Mapping[str, Any]) -> str:
    """The best trial's difference to another trial in one metric, and whether chance explains it."""
    other = ranking.compared_to(one["what"])
    what = f"{other} ({one['trial']})" if one.get("trial") else other
    metric = metric_text(join_name(one["part"], one["metric"], one.get("label", metrics.MEAN)))
    line = f"Against {what}: {render.signed(one['value'])} {metric} on {one['part']}"
    folds = ""
    if one.get("folds"):
        by_fold = (
            "" if one.get("by_fold") is None else f", the means over folds differ by {render.signed(one['by_fold'])}"
        )
        folds = f" Better on {one['folds_better']} of {one['folds']} folds{by_fold}."
    if one.get("low") is None:
        return f"{line}; no interval could be computed.{folds}"
    p = "" if one.get("p") is None else f", p {p_text(one)}"
    better = sign_of(one.get("mode", "max")) * one["value"] > 0
    verdict = "More than chance explains." if better else "It is worse."
    if one["low"] <= 0 <= one["high"]:
        verdict = "Within noise: chance alone may explain it."
    return f"{line} ({render.signed(one['low'])} to {render.signed(one['high'])}{p}). {verdict}{folds}"


def _test_cells(found: Mapping[str, Any] | None, order: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Metrics of test in the order of `ranking.headline_metrics`."""
    cells = [(key.partition("/")[0], one.get("label", metrics.MEAN), one) for key, one in (found or {}).items()]
    place = {pair: at for at, pair in enumerate(order)}
    cells.sort(key=lambda cell: place.get(cell[:2], len(place)))
    return [{"name": metric_title(join_name("test", metric, label)), **one} for metric, label, one in cells]


def best_by_label(evaluated: Sequence[Row], labels: Sequence[str], best: Row | None) -> list[dict[str, Any]]:
    """A row for each label: for each metric of the heat maps the best trial, its value, and the value of the sweep's best trial."""
    out = []
    for label in labels:
        cells = []
        for metric in MAPS:
            name = join_name("val", metric, label)
            defined = [r for r in evaluated if name in r.values]
            top = max(defined, key=lambda r: r.values[name], default=None)
            if top and not top.values[name]:  # all are 0, so none is the best
                top = None
            precision = top and top.values.get(join_name("val", "precision", label))
            cells.append({
                "metric": metric, "row": top, "value": top and top.values[name], "precision": precision,
                "winner": best.values.get(name) if best else None,
            })  # fmt: skip
        out.append({"label": label, "cells": cells})
    return out


def heat_maps(evaluated: Sequence[Row], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Trial x label for each metric; a cell's shade shows how close it is to the label's best trial."""
    rows, out = evaluated[:MOST], []
    for metric in MAPS:
        value_TL = label_values(rows, labels, metric)
        if not np.isfinite(value_TL).any():
            continue
        share_TL, wins_TL = draw.shares(value_TL), draw.winners(value_TL)
        lines = []
        for row, value_L, share_L, wins_L in zip(rows, value_TL, share_TL, wins_TL, strict=True):
            cells = [
                {"value": None} if np.isnan(v) else {"value": v, "best": w, "colours": draw.shade_of(float(s))}
                for v, s, w in zip(value_L, share_L, wins_L, strict=True)
            ]
            lines.append({"row": row, "cells": cells, "mean": row.values.get(join_name("val", metric, metrics.MEAN))})
        out.append({"metric": metric, "lines": lines, "more": len(evaluated) - len(rows)})
    return out


def silent_labels(row: Row | None, labels: Sequence[str]) -> list[str]:
    """The labels of which a trial finds no positive on val: its recall is 0."""
    return [label for label in labels if row and row.values.get(join_name("val", "recall", label)) == 0.0]


def trial_columns(evaluated: Sequence[Row], tune: cfg.Tune) -> list[str]:
    """Metrics of the table of all trials: the objectives, then means, the most important first."""
    wanted = [
        *tune.metrics,
        *(f"val/{m}/mean" for m in (*metrics.MAIN_METRICS, "ap")),
        "val/accuracy",
        "val/loss",
    ]
    defined = {name for r in evaluated for name in r.values}
    return [n for n in dict.fromkeys(wanted) if n in defined]


def training_costs(trials: Sequence[Trial], config: cfg.Config, info: Mapping[str, Any]) -> dict[str, Any] | None:
    """Seconds and epochs of all trials, and what early stopping saved: the epochs not run, at each trial's own speed."""
    timed = [t for t in trials if t.epochs and t.seconds]
    if not timed:
        return None
    longest = {t.name: int(t.hyperparameters.get("train.epochs", config.train.epochs)) for t in timed}
    cut = [t for t in timed if t.status == STOPPED]
    saved = sum((longest[t.name] - t.epochs) * t.seconds / t.epochs for t in cut)
    seconds = sum(t.seconds for t in timed)
    wall = float(info.get("seconds") or 0.0)
    return {
        "seconds": seconds, "epochs": sum(t.epochs for t in timed), "trials": len(timed), "each": seconds / len(timed),
        "shortest": min(t.epochs for t in timed), "longest": max(t.epochs for t in timed), "wall": wall,
        "at_once": seconds / wall if wall and info["status"] != "started" else None,
        "stopped": len(cut), "saved": saved, "share": saved / (seconds + saved), "full": sum(longest.values()),
    }  # fmt: skip
