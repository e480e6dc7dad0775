"""What a sweep trains next: a list known beforehand, or what Optuna asks for after what it was told. It knows no Ray."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cxr_ray.errors import UserError
from cxr_ray.tuning import space
from cxr_ray.tuning.ranking import constraints
from cxr_ray.tuning.sweep import Sweep
from cxr_ray.tuning.trial import ENDED, FAILED, WAITING, Trial


class Proposals:
    """The trials of a sweep that are all known when it starts, and which of them comes next: by number or, with a seed,
    `shuffled` by it, but for the config as written, which comes first."""

    def __init__(self, trials: Sequence[Trial], *, shuffled: int | None = None) -> None:
        self.trials = list(trials)  # all that are known, ended ones too
        self.planned = len(self.trials)  # how many there will be
        order = list(self.trials)
        if shuffled is not None:  # all of them: what is left of a killed sweep comes in the order that it had
            order = [order[i] for i in np.random.default_rng(shuffled).permutation(len(order))]
            order.sort(key=lambda t: not t.base)
        self._waiting = [t.name for t in order if t.status not in ENDED]

    @property
    def left(self) -> int:
        """How many have not ended."""
        return len(self._waiting)

    def next(self) -> Trial | None:
        """The next to train; None where there is none."""
        return self.trial(self._waiting.pop(0)) if self._waiting else None

    def trial(self, name: str) -> Trial:
        """The trial of that name."""
        return next(t for t in self.trials if t.name == name)

    def set(self, trial: Trial) -> None:
        """Let `trial` take the place of the one of its name."""
        self.trials = [trial if t.name == trial.name else t for t in self.trials]

    def told(self, trial: Trial) -> None:
        """A trial has ended."""


class Study(Proposals):
    """Trials that Optuna proposes (its tree-structured Parzen estimator; Bergstra et al., NIPS 2011). What ended before is told
    to it anew, so that a sweep that goes on has learnt the same."""

    def __init__(self, sweep: Sweep, searched: space.Space, held: Sequence[Trial]) -> None:
        try:
            import optuna
        except ImportError:
            raise UserError(
                "tune.search: optuna is not installed; pip install 'cxr_ray[optuna]', or set tune.search to random"
            ) from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        config = sweep.config
        tune = config.tune
        first = [Trial("0000", 0, {}, base=True)] if tune.base and not held else []
        super().__init__([*first, *held])
        self._total = tune.trials
        self.planned = self._total + int(tune.base)
        self._sweep, self._optuna, self._metrics = sweep, optuna, tune.metrics
        self._limits = constraints(tune)
        self._space = {d.hyperparameter: _distribution(optuna, d) for d in searched.dimensions}
        # A sweep that goes on draws on, not the same once more.
        seed = int(np.random.SeedSequence([config.seed, len(held)]).generate_state(1)[0])
        sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        self._study = optuna.create_study(
            directions=["maximize" if m == "max" else "minimize" for m in tune.modes], sampler=sampler
        )
        self._asked: dict[str, Any] = {}
        for trial in held:
            if trial.hyperparameters and trial.status in ENDED and trial.values:
                self._add(trial.hyperparameters, trial.values)

    @property
    def left(self) -> int:
        made = sum(not t.base for t in self.trials)
        return len(self._waiting) + max(0, self._total - made)

    def next(self) -> Trial | None:
        if self._waiting:
            return super().next()
        number = max((t.number for t in self.trials), default=0) + 1
        if sum(not t.base for t in self.trials) >= self._total:
            return None
        asked = self._study.ask(self._space)
        hyperparameters = {hyperparameter: _plain(value) for hyperparameter, value in asked.params.items()}
        trial = Trial(f"{number:04d}", number, hyperparameters, status=WAITING)
        self._asked[trial.name] = asked
        self.trials.append(trial)
        return trial

    def told(self, trial: Trial) -> None:
        asked = self._asked.pop(trial.name, None)
        if asked is None:
            return
        # The kept epoch's values, as the sweep is judged by; not those of the last report.
        kept = self._sweep.trial(trial.name).values
        found = [kept.get(name, math.nan) for name in self._metrics]
        if trial.status == FAILED or any(math.isnan(v) for v in found):
            self._study.tell(asked, state=self._optuna.trial.TrialState.FAIL)
            return
        for name, missed in self._missed(kept).items():
            asked.set_constraint(name, missed)
        self._study.tell(asked, found)

    def _add(self, hyperparameters: Mapping[str, Any], values: Mapping[str, float]) -> None:
        found = [values.get(name, math.nan) for name in self._metrics]
        if not any(math.isnan(v) for v in found):
            made = self._optuna.trial.create_trial(
                params=dict(hyperparameters), distributions=self._space, values=found, constraints=self._missed(values)
            )
            self._study.add_trial(made)

    def _missed(self, values: Mapping[str, float]) -> dict[str, float]:
        """By how much each constraint is missed; at most 0 where it is met."""
        return {str(c): c.missed(values, undefined=1e9) for c in self._limits}


def _distribution(optuna: Any, d: space.Dimension) -> Any:
    if d.kind == "choice":
        if any(isinstance(v, list | dict) for v in d.values):
            raise UserError(
                f"tune.space.{d.hyperparameter}: optuna takes choices that are single values; set tune.search to random for lists"
            )
        return optuna.distributions.CategoricalDistribution(d.values)
    if d.kind == "integer":
        return optuna.distributions.IntDistribution(*d.values)
    return optuna.distributions.FloatDistribution(*d.values, log=d.kind == "loguniform")


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
