"""What ends trials early, or lets them take over from better ones: Ray Tune's schedulers, fitted to what a sweep is."""

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
"""Knobs that pbt may change in mid-training: none that the weights or their moments hang on."""


def build(sweep: Sweep, searched: space.Space) -> TrialScheduler:
    """The scheduler of `tune.scheduler`; asha knows what ended in earlier launches. Raises `UserError` for what pbt cannot change."""
    name = sweep.config.tune.scheduler
    if name == "asha":
        return _asha(sweep)
    if name == "pbt":
        return Population(sweep, searched)
    return FIFOScheduler()


def starting_hyperparameters(sweep: Sweep, trial: Trial, searched: space.Space) -> dict[str, Any]:
    """What a trial starts with: its own knobs, and for pbt, which changes all of them, the config's where it has none."""
    if sweep.config.tune.scheduler != "pbt":
        return dict(trial.hyperparameters)
    written = sweep.config.model_dump()
    return {d.hyperparameter: cfg.value_at(written, d.hyperparameter) for d in searched.dimensions} | dict(
        trial.hyperparameters
    )


def _asha(sweep: Sweep) -> AsyncHyperBandScheduler:
    config = sweep.config
    tune = config.tune
    longest = max([config.train.epochs, *_choices(sweep, "train.epochs")])
    made = AsyncHyperBandScheduler(
        # One more than the longest: a trial that comes to its end ends by itself.
        time_attr="epoch", metric=OBJECTIVE, mode="max", max_t=longest + 1,
        grace_period=min(sweep.grace, max(1, longest)), reduction_factor=tune.reduction,
    )  # fmt: skip
    objective = objective_of(tune)
    for trial in sweep.trials:
        if trial.status not in ENDED or trial.status == FAILED:
            continue
        # What the trials that are left are measured against; asha wants no more of a trial than its name.
        ended: Any = SimpleNamespace(trial_id=trial.name)
        made.on_trial_add(None, ended)  # type: ignore[arg-type]
        for epoch, rows in runs.val_metrics(sweep.run(trial)).query("epoch > 0").groupby("epoch"):
            made.on_trial_result(None, ended, {"epoch": epoch, OBJECTIVE: objective(runs.values_by_name(rows))})  # type: ignore[arg-type]
        made.on_trial_remove(None, ended)  # type: ignore[arg-type]
    return made


def _choices(sweep: Sweep, hyperparameter: str) -> list[Any]:
    tune = sweep.config.tune
    said = space.flat(tune.space).get(hyperparameter, {})
    return [v for values in said.values() for v in values] + [
        one[hyperparameter] for one in tune.combinations if hyperparameter in one
    ]


class Population(PopulationBasedTraining):
    """Population based training (Jaderberg et al., 2017): after every `Sweep.grace` epochs a trial of the worst quarter goes on
    from a checkpoint of one of the best quarter, with that one's knobs changed a little.

    Ray's own hands the whole config of the other trial over, its run folder with it, and steps over the ends of the space."""

    def __init__(self, sweep: Sweep, searched: space.Space) -> None:
        tune = sweep.config.tune
        written = sweep.config.model_dump()
        for d in searched.dimensions:
            if not d.hyperparameter.startswith(MUTABLE):
                raise UserError(
                    f"tune.scheduler: pbt cannot change {d.hyperparameter} in mid-training; give it outside tune.space. "
                    f"It can: {', '.join(MUTABLE)}*"
                )
            if tune.base and d.kind != "choice" and cfg.value_at(written, d.hyperparameter) is None:
                raise UserError(
                    f"tune.scheduler: pbt changes {d.hyperparameter} step by step, and the config as written has none to begin with; "
                    "give it a number there, or set tune.base to false"
                )
        super().__init__(
            time_attr="epoch", metric=OBJECTIVE, mode="max", perturbation_interval=sweep.grace, synch=False,
            hyperparam_mutations={"given": {"knobs": {d.hyperparameter: _domain(d) for d in searched.dimensions}}}, log_config=False,
        )  # fmt: skip
        self._ends = {d.hyperparameter: d.values for d in searched.dimensions if d.kind != "choice"}
        self._last_epoch = sweep.config.train.epochs

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """As Ray's, but for a trial that has nothing left to train."""
        if result["epoch"] >= self._last_epoch:
            return str(TrialScheduler.CONTINUE)
        return str(super().on_trial_result(tune_controller, trial, result))

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        made, told = super()._get_new_config(trial, trial_to_clone)
        mine, theirs = trial.config["given"], trial_to_clone.config["given"]
        return {"given": {**mine, "knobs": self._within(made["given"]["knobs"]), "donor": theirs["trial"]}}, told

    def _within(self, hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
        """The knobs, none of them beyond the ends of its interval."""
        out = dict(hyperparameters)
        for hyperparameter, (low, high) in self._ends.items():
            out[hyperparameter] = min(high, max(low, out[hyperparameter]))
        return out


def _domain(d: space.Dimension) -> Any:
    if d.kind == "choice":
        return list(d.values)
    made = {"uniform": ray_tune.uniform, "loguniform": ray_tune.loguniform}.get(d.kind)
    return made(*d.values) if made else ray_tune.randint(d.values[0], d.values[1] + 1)
