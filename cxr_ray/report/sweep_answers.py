"""The first screen of a sweep's page: which value of each hyperparameter is best, for which label, and how sure that is."""
# T trials, K hyperparameters

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from cxr_ray import config as cfg
from cxr_ray.config.metric_names import join_name, split_name
from cxr_ray.metrics import MAIN_METRICS, MEAN, RATES
from cxr_ray.metrics.titles import NAMES, metric_text
from cxr_ray.plotting.sweep_plots import Scale, text
from cxr_ray.report import render
from cxr_ray.tuning import effects as main_effects
from cxr_ray.tuning import figures
from cxr_ray.tuning.combinations import Row
from cxr_ray.tuning.effects import Effect

TITLES = {
    "optim.lr": "Learning rate",
    "loss.pos_weight_power": "Positive weights",
    "data.oversample_min_count": "Oversampling threshold",
    "optim.weight_decay": "Weight decay",
    "model.dropout": "Dropout",
    "train.batch_size": "Batch size",
}
"""Plain names of the settings that most sweeps search."""
FEW = 10
"""With fewer positives on val a label's metrics say little (the rule of ten)."""


def answers(evaluated: Sequence[Row], config: cfg.Config, info: Mapping[str, Any]) -> dict[str, Any] | None:
    """`factors` (name, title, levels), `sentences`, and `tables`: metric and rows of label, positives, cells. None without a
    hyperparameter of two levels, `needed` is how many trials the answers need if there are too few."""
    scales = figures.scales_of(evaluated, config, info) if evaluated else {}
    factors = [_factor(name, scale, evaluated) for name, scale in scales.items()]
    factors = [factor for factor in factors if len(factor["levels"]) > 1]
    if not factors:
        return None
    objective = config.tune.metrics[0]
    lower = config.tune.modes[0] == "min"
    metric = split_name(objective)[1]
    by_label = metric if metric in RATES else "auroc"
    wanted = list(dict.fromkeys((by_label, *MAIN_METRICS)))
    tables = [
        _table(evaluated, factors, m, objective if m == by_label else None, lower, info["labels"]) for m in wanted
    ]
    needed = 1 + sum(len(factor["levels"]) - 1 for factor in factors) + main_effects.FREE
    return {
        "factors": factors,
        "tables": [t for t in tables if any(cell for row in t["rows"] for cell in row["cells"])],
        "sentences": [_sentence(factor, cell, objective) for factor, cell in zip(factors, tables[0]["rows"][0]["cells"], strict=True)]
        if tables[0]["rows"]
        else [],
        "needed": None if len(evaluated) >= needed else needed,
        "few": FEW,
    }  # fmt: skip


def _factor(name: str, scale: Scale, evaluated: Sequence[Row]) -> dict[str, Any]:
    """A hyperparameter: its levels that trials have (text and number of trials), and the level of each trial."""
    given = [row.hyperparameters[name] for row in evaluated]
    if scale.kind == "choice":
        names = list(scale.choices)
        level_T = [scale.choices.index(text(value)) for value in given]
    else:
        inside = [text(value) not in scale.off for value in given]
        edges = [text(float(edge)) for edge in scale.edges(3)]
        names = [*(f"{low} to {high}" for low, high in pairwise(edges)), *scale.off]
        share_T = [scale.share(value) if ok else 0.0 for value, ok in zip(given, inside, strict=True)]
        level_T = [
            third if ok else 3 + scale.off.index(text(value))
            for third, ok, value in zip(main_effects.thirds(share_T), inside, given, strict=True)
        ]
    used = sorted(set(level_T))
    levels = [{"text": names[level], "trials": level_T.count(level)} for level in used]
    return {
        "name": name,
        "title": TITLES.get(name, name),
        "levels": levels,
        "at": [used.index(level) for level in level_T],
    }


def _table(
    evaluated: Sequence[Row],
    factors: Sequence[Mapping[str, Any]],
    metric: str,
    objective: str | None,
    lower: bool,
    labels: Sequence[str],
) -> dict[str, Any]:
    """The effects on one metric: of the objective or the mean first, then label by label, with p adjusted over all of them."""
    first = objective or join_name("val", metric, MEAN)
    same = objective is not None and split_name(objective)[1] == metric
    wanted = dict.fromkeys([first, *(join_name("val", metric, label) for label in labels)])
    names = [name for name in wanted if any(name in row.values for row in evaluated)]
    value_TM = np.array([[row.values.get(name, np.nan) for name in names] for row in evaluated], float)
    value_TM = value_TM.reshape(len(evaluated), len(names))
    level_TK = np.array([factor["at"] for factor in factors]).T
    found = main_effects.effects(level_TK, value_TM, lower=[lower and (name == objective or same) for name in names])
    tested = [effect for row in found for effect in row if effect is not None]
    p_of = dict(zip(map(id, tested), main_effects.adjusted([effect.p for effect in tested]), strict=True))
    rows = []
    for name, effects_K in zip(names, found, strict=True):
        label = split_name(name)[2]
        positives = next(
            (r.values[key] for r in evaluated if (key := join_name("val", "positives", label)) in r.values), None
        )
        few = positives is not None and positives < FEW and name != first
        cells = [
            None if effect is None else _cell(effect, factor, p_of[id(effect)], few=few)
            for factor, effect in zip(factors, effects_K, strict=True)
        ]
        rows.append({"label": label if name != first else metric_text(name), "first": name == first,
                     "positives": None if positives is None or name == first else int(positives), "few": few, "cells": cells})  # fmt: skip
    return {"metric": NAMES[metric], "rows": rows, "tests": len(tested)}


def _cell(effect: Effect, factor: Mapping[str, Any], p: float, *, few: bool) -> dict[str, Any]:
    """What one hyperparameter did to one metric: the best level, the difference, p, a verdict, and a bar for each level."""
    verdict = "too few positives" if few else main_effects.verdict(p)
    span = abs(effect.difference) or 1.0
    bars = [
        {"height": 25 + 75 * (1 - abs(mean - effect.means[effect.best]) / span), "value": render.number(mean), **level,
         "best": at == effect.best, "behind": behind < main_effects.LIKELY}
        for at, (mean, level, behind) in enumerate(zip(effect.means, factor["levels"], effect.behind, strict=True))
    ]  # fmt: skip
    shown = verdict in ("sure", "likely")
    equal = [bar["text"] for bar in bars if not bar["behind"] and not bar["best"]] if shown else []
    return {"best": bars[effect.best]["text"], "worst": bars[effect.worst]["text"], "difference": render.signed(effect.difference),
            "p": render.number(p), "verdict": verdict, "shown": shown, "bars": bars, "equal": equal}  # fmt: skip


def _sentence(factor: Mapping[str, Any], cell: Mapping[str, Any] | None, objective: str) -> dict[str, str]:
    """The answer for one hyperparameter over all labels."""
    if cell is None:
        return {"title": factor["title"], "answer": "no answer", "about": "too few trials, or all have the same value"}
    if not cell["shown"]:
        about = f"its levels differ by {cell['difference'].lstrip('+−')} in {metric_text(objective)}, as chance alone may (p {cell['p']})"
        return {"title": factor["title"], "answer": "none is shown to be better", "about": about}
    also = f"; {' and '.join(cell['equal'])} may be as good" if cell["equal"] else ""
    about = f"{cell['difference']} {metric_text(objective)} against {cell['worst']}, {cell['verdict']} (p {cell['p']}){also}"
    return {"title": factor["title"], "answer": cell["best"], "about": about}
