"""Which trial is best: objectives, constraints, the Pareto front. It reads no files."""
# N combinations, M objectives

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
    """A bound that a trial must satisfy: `metric` at least `limit`, or at most, if not `above`."""

    metric: str
    above: bool
    limit: float

    def met(self, values: Mapping[str, float]) -> bool:
        """Whether `values` satisfy it; an undefined metric does not."""
        return self.violation(values) <= 0.0

    def violation(self, values: Mapping[str, float], *, undefined: float = math.nan) -> float:
        """By how much `values` violate it, in the metric's unit: at most 0 if it is met, `undefined` if the metric is undefined."""
        value = values.get(self.metric, math.nan)
        if math.isnan(value):
            return undefined
        return self.limit - value if self.above else value - self.limit

    def __str__(self) -> str:
        return f"{self.metric} {'>=' if self.above else '<='} {self.limit:g}"


@dataclass(frozen=True)
class RankedCombination:
    """A combination of hyperparameters with its objectives: mean and standard deviation (n - 1) over its folds."""

    number: int
    trials: tuple[Trial, ...]
    """One per fold; a single one without folds."""
    values: tuple[float, ...]
    """Mean of each of `tune.metrics`; NaN if it is undefined on a fold."""
    deviation: tuple[float, ...]
    """Standard deviation between folds; NaN without folds."""
    feasible: bool
    """Whether every constraint is met (by the mean over folds)."""

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The combination, by dotted name."""
        return self.trials[0].hyperparameters


def constraints(tune: cfg.Tune) -> list[Constraint]:
    """`tune.constraint`, parsed. Raises `UserError`."""
    texts = [tune.constraint] if isinstance(tune.constraint, str) else tune.constraint or []
    parsed = []
    for text in texts:
        match = re.fullmatch(r"\s*(\S.*?)\s*(>=|<=)\s*([-+0-9.eE]+)\s*", text)
        try:
            assert match is not None
            parsed.append(Constraint(match[1], match[2] == ">=", float(match[3])))
        except (AssertionError, ValueError):
            raise UserError(f'tune.constraint: cannot read {text!r}; write "METRIC >= NUMBER" or "METRIC <= NUMBER", '
                            'such as "val/recall/mean >= 0.8"') from None  # fmt: skip
    return parsed


def rank(trials: Sequence[Trial], tune: cfg.Tune, limits: Sequence[Constraint]) -> list[RankedCombination]:
    """The combinations whose folds have all been evaluated, best first: those that meet the constraints before those that do
    not, then by the first objective; an undefined one comes last."""
    ranked = []
    for number in sorted({t.number for t in trials}):
        folds = tuple(t for t in trials if t.number == number)
        if any(t.status == FAILED or t.epoch is None for t in folds) or len(folds) < (tune.folds or 1):
            continue
        mean = {
            name: float(np.mean([t.values.get(name, math.nan) for t in folds]))
            for name in {n for t in folds for n in t.values}
        }
        values = tuple(mean.get(name, math.nan) for name in tune.metrics)
        deviation = tuple(
            float(np.std([t.values.get(name, math.nan) for t in folds], ddof=1)) if len(folds) > 1 else math.nan
            for name in tune.metrics
        )
        ranked.append(RankedCombination(number, folds, values, deviation, all(c.met(mean) for c in limits)))
    sign = sign_of(tune.modes[0])

    def order(one: RankedCombination) -> tuple[bool, float]:
        value = one.values[0]
        return not one.feasible, math.inf if math.isnan(value) else -sign * value

    return sorted(ranked, key=order)


def pareto_mask(values_NM: npt.ArrayLike, modes: Sequence[cfg.Mode]) -> npt.NDArray[np.bool_]:
    """[N] which rows are Pareto optimal: no other row is at least as good in all M objectives and better in one. Rows with NaN
    are not."""
    gain_NM = np.asarray(values_NM, float) * np.array([sign_of(mode) for mode in modes])
    known_N = ~np.isnan(gain_NM).any(axis=1)
    dominated_N = np.array([
        bool(((gain_NM[known_N] >= row).all(axis=1) & (gain_NM[known_N] > row).any(axis=1)).any()) for row in gain_NM
    ], bool)  # fmt: skip
    return known_N & ~dominated_N


def pareto_front(ranked: Sequence[RankedCombination], modes: Sequence[cfg.Mode]) -> set[int]:
    """Numbers of the combinations that are Pareto optimal among those that meet every constraint."""
    feasible = [r for r in ranked if r.feasible]
    mask = pareto_mask(np.array([r.values for r in feasible], float).reshape(len(feasible), len(modes)), modes)
    return {r.number for r, optimal in zip(feasible, mask, strict=True) if optimal}


def headline_metrics(objectives: Sequence[str], labels: Sequence[str]) -> list[tuple[str, str]]:
    """(metric, label) of the metrics that summarise a winner: the objectives with their own labels, then `metrics.MAIN_METRICS` over
    all labels."""
    mean = metrics.MEAN if len(labels) > 1 else labels[0]
    parsed = [split_name(name) for name in objectives]
    wanted = [(metric, mean if label == metrics.MEAN else label) for _, metric, label in parsed]
    return list(dict.fromkeys([*wanted, *((metric, mean) for metric in metrics.MAIN_METRICS)]))


def compared_to(what: str) -> str:
    """What the best trial is compared to, from sweep.json's `against[].what`; sweeps of 0.1.0 have older words there."""
    return {"the second": "the second-best trial", "the config as written": "the base configuration"}.get(what, what)
