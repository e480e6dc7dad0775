"""The combinations of a sweep as rows, for its page and its figures: ranked, with the mean values over folds. It reads no files."""
# T combinations, L labels

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxr_ray import config as cfg
from cxr_ray.config.metric_names import join_name
from cxr_ray.tuning import ranking
from cxr_ray.tuning.ranking import RankedCombination
from cxr_ray.tuning.trial import FAILED, FINISHED, RUNNING, STOPPED, WAITING, Trial

MAPS = ("recall", "auroc", "ap")
"""Metrics of the heat maps of trials and labels, the most important first."""

MOST = 60
"""Trials of a heat map on the page, the best first; sweep.csv has all."""


@dataclass(frozen=True)
class Row:
    """A combination of hyperparameters: its trial, or its trials on all folds."""

    name: str
    number: int
    trials: tuple[Trial, ...]
    hyperparameters: dict[str, Any]
    """Every hyperparameter of the sweep; the base configuration's value if the combination does not set it."""
    status: str
    values: dict[str, float]
    """By metric name, the mean over the evaluated folds."""
    ranked: RankedCombination | None
    place: int | None
    """Rank; 1 is the best, None before evaluation."""

    @property
    def base(self) -> bool:
        """Whether it is the base configuration."""
        return self.trials[0].base

    @property
    def epochs(self) -> int:
        """Epochs done, summed over folds."""
        return sum(t.epochs for t in self.trials)

    @property
    def seconds(self) -> float:
        """Seconds of training, summed over folds."""
        return sum(t.seconds for t in self.trials)


def combination_rows(
    trials: Sequence[Trial], config: cfg.Config, info: Mapping[str, Any], order: Sequence[RankedCombination]
) -> list[Row]:
    """The combinations by rank, then those that are not evaluated, by number."""
    base = config.model_dump()
    places = {r.number: (at, r) for at, r in enumerate(order, start=1)}
    out = []
    for number in sorted({t.number for t in trials}):
        here = tuple(t for t in trials if t.number == number)
        place, ranked = places.get(number, (None, None))
        named = {name for t in here for name in t.values}
        values = {n: float(np.mean([t.values[n] for t in here if n in t.values])) for n in named}
        hyperparameters = {k: here[0].hyperparameters.get(k, cfg.value_at(base, k)) for k in info["knobs"]}
        name = here[0].name if here[0].fold is None else f"{number:04d}"
        out.append(Row(name, number, here, hyperparameters, status_of(here), values, ranked, place))
    return sorted(out, key=lambda r: (r.place is None, r.place or r.number))


def evaluated(rows: Sequence[Row]) -> list[Row]:
    """The rows whose first objective is defined."""
    return [r for r in rows if r.ranked is not None and not math.isnan(r.ranked.values[0])]


def status_of(folds: Sequence[Trial]) -> str:
    """The status of a combination: that of its least advanced fold."""
    statuses = {t.status for t in folds}
    if len(folds) > 1 and WAITING in statuses and statuses != {WAITING}:
        return FAILED if FAILED in statuses else RUNNING
    return next(s for s in (FAILED, RUNNING, WAITING, STOPPED, FINISHED) if s in statuses)


def label_values(rows: Sequence[Row], labels: Sequence[str], metric: str) -> Any:
    """Values [T, L] of a metric on val; NaN if undefined."""
    return np.array([[r.values.get(join_name("val", metric, k), math.nan) for k in labels] for r in rows], float)


def on_front(rows: Sequence[Row], tune: cfg.Tune) -> list[bool]:
    """Which combinations stand on `ranking.pareto_front`."""
    on = ranking.pareto_front([r.ranked for r in rows if r.ranked is not None], tune.modes)
    return [r.number in on for r in rows]
