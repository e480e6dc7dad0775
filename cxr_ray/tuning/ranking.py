"""Which trial is best: objectives, constraints, the Pareto front."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_ray import config as cfg
from cxr_ray import metrics
from cxr_ray.config.metric_names import sign_of, split_name
from cxr_ray.errors import UserError
from cxr_ray.tuning.trial import FAILED, Trial


@dataclass(frozen=True)
class Constraint:
    """What a trial must reach besides: `metric`, `above` (or below) `limit`."""

    metric: str
    above: bool
    limit: float

    def met(self, values: Mapping[str, float]) -> bool:
        """Whether `values` reach it; an undefined metric does not."""
        return self.gap(values) <= 0.0

    def gap(self, values: Mapping[str, float]) -> float:
        """By how much `values` miss it, in its metric's unit; at most 0 where it is met, NaN where the metric is undefined."""
        value = values.get(self.metric, math.nan)
        return self.limit - value if self.above else value - self.limit

    def missed(self, values: Mapping[str, float], *, undefined: float) -> float:
        """The `gap`, or `undefined` in the place of NaN."""
        gap = self.gap(values)
        return undefined if math.isnan(gap) else gap

    def __str__(self) -> str:
        return f"{self.metric} {'>=' if self.above else '<='} {self.limit:g}"


@dataclass(frozen=True)
class Ranked:
    """A combination over its folds: the mean of each objective, the deviation (n - 1) between folds."""

    number: int
    trials: tuple[Trial, ...]
    values: tuple[float, ...]
    """Of each of `tune.metrics`; NaN where undefined on a fold."""
    deviation: tuple[float, ...]
    feasible: bool
    """Whether every constraint is met (by the mean over folds)."""

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The combination."""
        return self.trials[0].hyperparameters


def constraints(tune: cfg.Tune) -> list[Constraint]:
    """`tune.constraint`, read. Raises `UserError`."""
    said = [] if tune.constraint is None else [tune.constraint] if isinstance(tune.constraint, str) else tune.constraint
    out = []
    for text in said:
        found = re.fullmatch(r"\s*(\S.*?)\s*(>=|<=)\s*([-+0-9.eE]+)\s*", text)
        try:
            assert found is not None
            out.append(Constraint(found[1], found[2] == ">=", float(found[3])))
        except (AssertionError, ValueError):
            raise UserError(f'tune.constraint: cannot read {text!r}; say "METRIC >= NUMBER" or "METRIC <= NUMBER", '
                            'such as "val/recall/mean >= 0.8"') from None  # fmt: skip
    return out


def ranked(trials: Sequence[Trial], tune: cfg.Tune, limits: Sequence[Constraint]) -> list[Ranked]:
    """See `Sweep.ranked`."""
    out = []
    for number in sorted({t.number for t in trials}):
        here = tuple(t for t in trials if t.number == number)
        if any(t.status == FAILED or t.epoch is None for t in here) or len(here) < (tune.folds or 1):
            continue
        mean = {
            name: float(np.mean([t.values.get(name, math.nan) for t in here]))
            for name in {n for t in here for n in t.values}
        }
        values = tuple(mean.get(name, math.nan) for name in tune.metrics)
        spread = tuple(
            float(np.std([t.values.get(name, math.nan) for t in here], ddof=1)) if len(here) > 1 else math.nan
            for name in tune.metrics
        )
        out.append(Ranked(number, here, values, spread, all(c.met(mean) for c in limits)))
    sign = sign_of(tune.modes[0])

    def order(one: Ranked) -> tuple[bool, float]:
        value = one.values[0]
        return not one.feasible, math.inf if math.isnan(value) else -sign * value

    return sorted(out, key=order)


def pareto(values_NM: npt.ArrayLike, modes: Sequence[cfg.Mode]) -> npt.NDArray[np.bool_]:
    """Which of N rows no other row matches in all M objectives and beats in one; a row with NaN is none."""
    gain_NM = np.asarray(values_NM, float) * np.array([sign_of(mode) for mode in modes])
    known_N = ~np.isnan(gain_NM).any(axis=1)
    beaten_N = np.array([
        bool(((gain_NM[known_N] >= row).all(axis=1) & (gain_NM[known_N] > row).any(axis=1)).any()) for row in gain_NM
    ], bool)  # fmt: skip
    return known_N & ~beaten_N


def front(order: Sequence[Ranked], modes: Sequence[cfg.Mode]) -> set[int]:
    """Numbers of the combinations, of those that meet every constraint, that no other of them beats in all objectives."""
    met = [r for r in order if r.feasible]
    on = pareto(np.array([r.values for r in met], float).reshape(len(met), len(modes)), modes)
    return {r.number for r, yes in zip(met, on, strict=True) if yes}


def headline(objectives: Sequence[str], labels: Sequence[str]) -> list[tuple[str, str]]:
    """(metric, label) of what a win is told by: the objectives, each of its own label, then the order of worth over all labels."""
    mean = metrics.MEAN if len(labels) > 1 else labels[0]
    parsed = [split_name(name) for name in objectives]
    wanted = [(metric, mean if label == metrics.MEAN else label) for _, metric, label in parsed]
    return list(dict.fromkeys([*wanted, *((metric, mean) for metric in metrics.MAIN_METRICS)]))
