"""Prepares a sweep: checks the store, the plan and the base configuration, and lists the trials. It trains nothing."""

from typing import Any

from cxr_ray import config as cfg
from cxr_ray import metrics
from cxr_ray.data import plan as plans
from cxr_ray.data import store as stores
from cxr_ray.errors import UserError
from cxr_ray.labels import expand_by_label
from cxr_ray.training import setup
from cxr_ray.tuning import ranking, space
from cxr_ray.tuning.search import OptunaProposals, Proposals
from cxr_ray.tuning.sweep import Sweep
from cxr_ray.tuning.trial import ENDED, Trial


def prepare_sweep(config: cfg.Config) -> tuple[stores.Store, plans.Plan, cfg.Config, list[str]]:
    """Store, plan, resolved base configuration of the trials, and warnings about folds. Raises `UserError`."""
    tune = config.tune
    base = config.model_copy(update={"tune": cfg.Tune()})
    if "monitor" not in base.train.model_fields_set:
        monitor = {"monitor": tune.metrics[0], "monitor_mode": tune.modes[0]}
        base = cfg.validate(cfg.merge(base.model_dump(), {"train": monitor}))
    store, plan, base = setup.prepare(base)
    for name in [*tune.metrics, *(c.metric for c in ranking.constraints(tune))]:
        part, _, _ = metrics.parse(name, labels=plan.labels, task=plan.task)
        if part != "val":
            raise UserError(
                f"tune: {name} is a metric of {part}; trials are evaluated on val, so use val/{name.partition('/')[2]}"
            )
    if not len(plan.rows["val"]):
        raise UserError("a sweep selects trials on val, but val has no rows; set data.split.val above 0")
    if tune.folds and tune.scheduler != "none":
        raise UserError(
            f"tune.folds trains every trial to its last epoch: set tune.scheduler to none instead of {tune.scheduler}"
        )
    if tune.scheduler == "pbt" and tune.search != "random":
        raise UserError(
            f"tune.scheduler: pbt changes hyperparameters itself; set tune.search to random instead of {tune.search}"
        )
    if tune.scheduler == "pbt" and tune.max_concurrent != "auto":
        raise UserError("tune.scheduler: pbt lets all trials take turns: leave tune.max_concurrent at auto")
    if tune.scheduler == "pbt" and base.train.workers > 1:
        raise UserError("tune.scheduler: pbt needs trials of one worker: set train.workers to 1")
    if tune.folds and base.data.split.folds:
        raise UserError("tune.folds and data.split.folds both define val: leave data.split.folds out")
    if tune.folds and tune.search == "optuna":
        raise UserError(
            "tune.search: optuna learns from single trials: set tune.folds to null, or tune.search to random"
        )
    warnings = _folds_without_positives(store, plan, base, tune.folds) if tune.folds else []
    return store, plan, _expand_uncertain(base, store, plan), warnings


def _expand_uncertain(base: cfg.Config, store: stores.Store, plan: plans.Plan) -> cfg.Config:
    """`data.uncertain` with one policy per label, if it names labels or groups: a trial can then change a single label."""
    policy = base.data.uncertain
    if isinstance(policy, str):
        return base
    known = [*store.labels, *base.data.derive]
    given: Any = expand_by_label(dict[str, Any](policy), known, plan.groups, where="data.uncertain")
    by_label = {**dict.fromkeys(plan.labels, "zeros"), **given}
    return base.model_copy(update={"data": base.data.model_copy(update={"uncertain": by_label})})


def _folds_without_positives(store: stores.Store, plan: plans.Plan, base: cfg.Config, folds: int) -> list[str]:
    """A warning for each label without a positive in the val rows of some fold."""
    without: dict[str, list[str]] = {}
    for fold in range(folds):
        split = base.data.split.model_copy(update={"folds": folds, "fold": fold})
        of_fold = plans.build(store, base.data.model_copy(update={"split": split}), seed=base.seed)
        for label, positives in zip(of_fold.labels, (of_fold.truth["val"] == 1).sum(axis=0), strict=True):
            if not positives:
                without.setdefault(label, []).append(str(fold))
    return [
        f"{label} has no positive in val of fold {', '.join(numbers)}: metrics that need one are undefined there, and so is their mean "
        "over folds"
        for label, numbers in without.items()
    ]


def hyperparameter_names(tune: cfg.Tune, searched: space.Space) -> list[str]:
    """Dotted names of the settings that differ between trials."""
    if tune.search == "list":
        return list(dict.fromkeys(name for one in tune.combinations for name in one))
    return [d.name for d in searched.dimensions]


def plan_trials(sweep: Sweep, searched: space.Space, plan: plans.Plan, store: stores.Store) -> Proposals:
    """Write and return the trials of the sweep. Checks the configuration of each that is known now; raises `UserError`."""
    config = sweep.config
    tune = config.tune
    existing = sweep.trial_records
    first: list[dict[str, Any]] = [{}] if tune.base else []
    if tune.search == "optuna":
        return OptunaProposals(sweep, searched, existing)
    if tune.search == "list":
        combinations = [space.parse_numbers(one) for one in tune.combinations]
    elif tune.search == "grid":
        combinations = searched.grid()
    else:
        combinations = [searched.sample(number, seed=config.seed) for number in range(1, tune.trials + 1)]
    base = config.model_dump()
    if first:  # the base configuration is not trained twice
        combinations = [one for one in combinations if any(cfg.value_at(base, k) != v for k, v in one.items())]
    trials = []
    for number, one in enumerate([*first, *combinations], start=0 if first else 1):
        for fold in range(tune.folds) if tune.folds else [None]:
            name = f"{number:04d}" + ("" if fold is None else f"-fold-{fold}")
            trials.append(Trial(name, number, one, fold, base=not one))
    by_name = {t.name: t for t in existing}
    trials = [by_name.pop(t.name, t) for t in trials]
    trials += [t for t in by_name.values() if t.status in ENDED]  # from an earlier launch with more trials
    sweep.write_trials(trials)
    checked: set[str] = set()
    for trial in trials:
        made = sweep.trial_config(trial)
        # Building a model takes a second: check each architecture, head and loss once.
        key = repr(
            (
                made.model.model_copy(update={"dropout": min(made.model.dropout, 0.1)}),
                made.loss.name,
                made.loss.options,
                made.data.image_size,
                made.augment.mixup > 0,
                made.train.micro_batch,
            )
        )
        if trial.status not in ENDED and key not in checked:
            checked.add(key)
            setup.check(made, plan, store)
    # ASHA compares a trial with earlier ones: in a grid ordered from bad to good it would stop none.
    shuffled = config.seed if tune.search == "grid" and tune.scheduler == "asha" else None
    return Proposals(trials, shuffled=shuffled)
