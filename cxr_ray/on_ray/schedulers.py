"""Ray Tune's schedulers, adapted to sweeps: ASHA stops poor trials early, PBT lets them continue from better ones."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from ray import tune as ray_tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler

from cxr_ray import config as cfg
from cxr_ray import runs
from cxr_ray.errors import UserError
from cxr_ray.on_ray.trial import OBJECTIVE, objective_of
from cxr_ray.tuning import space
from cxr_ray.tuning.sweep import Sweep
from cxr_ray.tuning.trial import ENDED, FAILED, Trial

MUTABLE = ("optim.lr", "optim.weight_decay", "optim.clip_norm", "optim.head_lr_factor", "optim.drop_factor", "loss.pos_weight_power",
           "loss.label_smoothing", "data.oversample_min_count", "augment.")  # fmt: skip
"""Hyperparameters (or prefixes) that PBT may change during training: none on which the weights or the optimiser's state depend."""


def build(sweep: Sweep, searched: space.Space) -> TrialScheduler:
    """The scheduler of `tune.scheduler`; ASHA gets the results of earlier launches. Raises `UserError` for what PBT cannot change."""
    name = sweep.config.tune.scheduler
    if name == "asha":
        return _asha(sweep)
    if name == "pbt":
        return SweepPBT(sweep, searched)
    return FIFOScheduler()


def initial_hyperparameters(sweep: Sweep, trial: Trial, searched: space.Space) -> dict[str, Any]:
    """The hyperparameters that a trial starts with. PBT needs all of them, so missing ones come from the base configuration."""
    if sweep.config.tune.scheduler != "pbt":
        return dict(trial.hyperparameters)
    base = sweep.config.model_dump()
    return {d.name: cfg.value_at(base, d.name) for d in searched.dimensions} | dict(trial.hyperparameters)


def _asha(sweep: Sweep) -> AsyncHyperBandScheduler:
    config = sweep.config
    tune = config.tune
    longest = max([config.train.epochs, *_listed_values(sweep, "train.epochs")])
    asha = AsyncHyperBandScheduler(
        # One more than the longest: a trial that reaches its last epoch is not stopped by ASHA.
        time_attr="epoch", metric=OBJECTIVE, mode="max", max_t=longest + 1,
        grace_period=min(sweep.grace_epochs, max(1, longest)), reduction_factor=tune.reduction,
    )  # fmt: skip
    objective = objective_of(tune)
    for trial in sweep.trial_records:
        if trial.status not in ENDED or trial.status == FAILED:
            continue
        # Replay trials of earlier launches, which the remaining ones are compared with. ASHA only needs their ids.
        ended: Any = SimpleNamespace(trial_id=trial.name)
        asha.on_trial_add(None, ended)  # type: ignore[arg-type]
        for epoch, rows in runs.val_metrics(sweep.run(trial)).query("epoch > 0").groupby("epoch"):
            asha.on_trial_result(None, ended, {"epoch": epoch, OBJECTIVE: objective(runs.values_by_name(rows))})  # type: ignore[arg-type]
        asha.on_trial_remove(None, ended)  # type: ignore[arg-type]
    return asha


def _listed_values(sweep: Sweep, name: str) -> list[Any]:
    """All values of a hyperparameter that the space or the combinations list."""
    tune = sweep.config.tune
    spec = space.flatten(tune.space).get(name, {})
    return [v for values in spec.values() for v in values] + [one[name] for one in tune.combinations if name in one]


class SweepPBT(PopulationBasedTraining):
    """Population based training (Jaderberg et al., 2017): after every `Sweep.grace_epochs` epochs, a trial of the worst quarter
    continues from a checkpoint of one of the best quarter, with slightly changed hyperparameters of that one.

    Ray's own scheduler would copy the other trial's whole config, including its run folder, and exceed the bounds of the space."""

    def __init__(self, sweep: Sweep, searched: space.Space) -> None:
        tune = sweep.config.tune
        base = sweep.config.model_dump()
        for d in searched.dimensions:
            if not d.name.startswith(MUTABLE):
                raise UserError(
                    f"tune.scheduler: pbt cannot change {d.name} during training; set it outside tune.space. "
                    f"It can change: {', '.join(MUTABLE)}*"
                )
            if tune.base and d.kind != "choice" and cfg.value_at(base, d.name) is None:
                raise UserError(
                    f"tune.scheduler: pbt changes {d.name} step by step, and the base configuration has no value to start from; "
                    "set a number there, or set tune.base to false"
                )
        super().__init__(
            time_attr="epoch", metric=OBJECTIVE, mode="max", perturbation_interval=sweep.grace_epochs, synch=False,
            hyperparam_mutations={"spec": {"hyperparameters": {d.name: _domain(d) for d in searched.dimensions}}}, log_config=False,
        )  # fmt: skip
        self._bounds = {d.name: d.values for d in searched.dimensions if d.kind != "choice"}
        self._last_epoch = sweep.config.train.epochs

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """As in Ray, except that a trial at its last epoch takes nothing over."""
        if result["epoch"] >= self._last_epoch:
            return str(TrialScheduler.CONTINUE)
        return str(super().on_trial_result(tune_controller, trial, result))

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        config, operations = super()._get_new_config(trial, trial_to_clone)
        spec, donor = trial.config["spec"], trial_to_clone.config["spec"]["trial"]
        hyperparameters = self._clip(config["spec"]["hyperparameters"])
        return {"spec": {**spec, "hyperparameters": hyperparameters, "donor": donor}}, operations

    def _clip(self, hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
        """The hyperparameters, each within the bounds of its interval."""
        clipped = dict(hyperparameters)
        for name, (low, high) in self._bounds.items():
            clipped[name] = min(high, max(low, clipped[name]))
        return clipped


def _domain(d: space.Dimension) -> Any:
    if d.kind == "choice":
        return list(d.values)
    distribution = {"uniform": ray_tune.uniform, "loguniform": ray_tune.loguniform}.get(d.kind)
    return distribution(*d.values) if distribution else ray_tune.randint(d.values[0], d.values[1] + 1)
