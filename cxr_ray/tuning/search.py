"""Which trial a sweep trains next: from a list that is known at the start, or suggested by Optuna. It knows no Ray."""

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
    """A queue of trials that are all known when the sweep starts, ordered by number. With a seed `shuffled` they come in a
    random order, except for the base configuration, which comes first."""

    def __init__(self, trials: Sequence[Trial], *, shuffled: int | None = None) -> None:
        self.trials = list(trials)  # all known trials, including ended ones
        self.planned = len(self.trials)  # number of trials at the end of the sweep
        order = list(self.trials)
        if shuffled is not None:  # shuffles ended trials too, so that a resumed sweep keeps the order
            order = [order[i] for i in np.random.default_rng(shuffled).permutation(len(order))]
            order.sort(key=lambda t: not t.base)
        self._waiting = [t.name for t in order if t.status not in ENDED]

    @property
    def remaining(self) -> int:
        """How many trials are still to be started."""
        return len(self._waiting)

    def next(self) -> Trial | None:
        """The next trial to train, or None."""
        return self.trial(self._waiting.pop(0)) if self._waiting else None

    def trial(self, name: str) -> Trial:
        """The trial of that name."""
        return next(t for t in self.trials if t.name == name)

    def update(self, trial: Trial) -> None:
        """Replace the trial that has the same name."""
        self.trials = [trial if t.name == trial.name else t for t in self.trials]

    def record(self, trial: Trial) -> None:
        """Learn from a trial that has ended. A fixed list has nothing to learn."""


class OptunaProposals(Proposals):
    """Trials that Optuna suggests (tree-structured Parzen estimator; Bergstra et al., NIPS 2011). Trials that ended before are added
    to the study first, so that a resumed sweep has learnt the same."""

    def __init__(self, sweep: Sweep, searched: space.Space, trials: Sequence[Trial]) -> None:
        try:
            import optuna
        except ImportError:
            raise UserError(
                "tune.search: optuna is not installed; pip install 'cxr_ray[optuna]', or set tune.search to random"
            ) from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        config = sweep.config
        tune = config.tune
        first = [Trial("0000", 0, {}, base=True)] if tune.base and not trials else []
        super().__init__([*first, *trials])
        self._total = tune.trials
        self.planned = self._total + int(tune.base)
        self._sweep, self._optuna, self._metrics = sweep, optuna, tune.metrics
        self._limits = constraints(tune)
        self._space = {d.name: _distribution(optuna, d) for d in searched.dimensions}
        # The number of known trials is part of the seed: a resumed sweep must not suggest the same values again.
        seed = int(np.random.SeedSequence([config.seed, len(trials)]).generate_state(1)[0])
        sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        self._study = optuna.create_study(
            directions=["maximize" if m == "max" else "minimize" for m in tune.modes], sampler=sampler
        )
        self._pending: dict[str, Any] = {}
        for trial in trials:
            if trial.hyperparameters and trial.status in ENDED and trial.values:
                self._add(trial.hyperparameters, trial.values)

    @property
    def remaining(self) -> int:
        suggested = sum(not t.base for t in self.trials)
        return len(self._waiting) + max(0, self._total - suggested)

    def next(self) -> Trial | None:
        if self._waiting:
            return super().next()
        number = max((t.number for t in self.trials), default=0) + 1
        if sum(not t.base for t in self.trials) >= self._total:
            return None
        suggestion = self._study.ask(self._space)
        params = {name: _plain(value) for name, value in suggestion.params.items()}
        trial = Trial(f"{number:04d}", number, params, status=WAITING)
        self._pending[trial.name] = suggestion
        self.trials.append(trial)
        return trial

    def record(self, trial: Trial) -> None:
        suggestion = self._pending.pop(trial.name, None)
        if suggestion is None:
            return
        # Values of the selected epoch, by which the sweep ranks; not those of the last report.
        values = self._sweep.trial(trial.name).values
        objectives = [values.get(name, math.nan) for name in self._metrics]
        if trial.status == FAILED or any(math.isnan(v) for v in objectives):
            self._study.tell(suggestion, state=self._optuna.trial.TrialState.FAIL)
            return
        for name, violation in self._violations(values).items():
            suggestion.set_constraint(name, violation)
        self._study.tell(suggestion, objectives)

    def _add(self, params: Mapping[str, Any], values: Mapping[str, float]) -> None:
        objectives = [values.get(name, math.nan) for name in self._metrics]
        if not any(math.isnan(v) for v in objectives):
            trial = self._optuna.trial.create_trial(
                params=dict(params),
                distributions=self._space,
                values=objectives,
                constraints=self._violations(values),
            )
            self._study.add_trial(trial)

    def _violations(self, values: Mapping[str, float]) -> dict[str, float]:
        """By how much each constraint is violated; at most 0 if it is met."""
        return {str(c): c.violation(values, undefined=1e9) for c in self._limits}


def _distribution(optuna: Any, d: space.Dimension) -> Any:
    if d.kind == "choice":
        if any(isinstance(v, list | dict) for v in d.values):
            raise UserError(
                f"tune.space.{d.name}: optuna takes choices that are single values; set tune.search to random for lists"
            )
        return optuna.distributions.CategoricalDistribution(d.values)
    if d.kind == "integer":
        return optuna.distributions.IntDistribution(*d.values)
    return optuna.distributions.FloatDistribution(*d.values, log=d.kind == "loguniform")


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
