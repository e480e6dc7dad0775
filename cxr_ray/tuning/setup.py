"""Before a sweep starts: store, plan and base configuration checked, and the list of trials."""

from typing import Any

from cxr_ray import config as cfg
from cxr_ray import metrics
from cxr_ray.data import plan as plans
from cxr_ray.data import store as stores
from cxr_ray.errors import UserError
from cxr_ray.labels import spread
from cxr_ray.training import setup
from cxr_ray.tuning import ranking, space
from cxr_ray.tuning.search import Proposals, Study
from cxr_ray.tuning.sweep import Sweep
from cxr_ray.tuning.trial import ENDED, Trial


def _checked(config: cfg.Config) -> tuple[stores.Store, plans.Plan, cfg.Config, list[str]]:
    """Store, plan and settled config of the trials, and what the user should know of folds."""
    tune = config.tune
    base = config.model_copy(update={"tune": cfg.Tune()})
    if "monitor" not in base.train.model_fields_set:
        monitor = {"monitor": tune.metrics[0], "monitor_mode": tune.modes[0]}
        base = cfg.validate(cfg.merge(base.model_dump(), {"train": monitor}))
    store, plan, base = setup.prepare(base)
    for name in [*tune.metrics, *(c.metric for c in ranking.constraints(tune))]:
        part, _, _ = metrics.parse(name, labels=plan.labels, task=plan.task)
        if part != "val":
            raise UserError(f"tune: {name} is of {part}; a sweep is judged by val, so say val/{name.partition('/')[2]}")
    if not len(plan.rows["val"]):
        raise UserError("a sweep chooses by val, and val has no rows; set data.split.val above 0")
    if tune.folds and tune.scheduler != "none":
        raise UserError(
            f"tune.folds trains every trial to its end: set tune.scheduler to none instead of {tune.scheduler}"
        )
    if tune.scheduler == "pbt" and tune.search != "random":
        raise UserError(
            f"tune.scheduler: pbt changes knobs by itself; set tune.search to random instead of {tune.search}"
        )
    if tune.scheduler == "pbt" and tune.max_concurrent != "auto":
        raise UserError("tune.scheduler: pbt lets all trials take turns: leave tune.max_concurrent at auto")
    if tune.scheduler == "pbt" and base.train.workers > 1:
        raise UserError("tune.scheduler: pbt needs trials of one worker: set train.workers to 1")
    if tune.folds and base.data.split.folds:
        raise UserError("tune.folds and data.split.folds both say what val is: leave data.split.folds out")
    if tune.folds and tune.search == "optuna":
        raise UserError(
            "tune.search: optuna learns from single trials: set tune.folds to null, or tune.search to random"
        )
    notes = _folds_without(store, plan, base, tune.folds) if tune.folds else []
    return store, plan, _by_label(base, store, plan), notes


def _by_label(base: cfg.Config, store: stores.Store, plan: plans.Plan) -> cfg.Config:
    """`data.uncertain` with a policy a label where it names labels or groups: a knob of one label then has what was written."""
    said = base.data.uncertain
    if isinstance(said, str):
        return base
    each: Any = spread(dict[str, Any](said), store.labels, plan.groups, where="data.uncertain")
    whole = {**dict.fromkeys(plan.labels, "zeros"), **each}
    return base.model_copy(update={"data": base.data.model_copy(update={"uncertain": whole})})


def _folds_without(store: stores.Store, plan: plans.Plan, base: cfg.Config, folds: int) -> list[str]:
    """A warning of each label that has no positive in the val rows of a fold."""
    found: dict[str, list[str]] = {}
    for fold in range(folds):
        split = base.data.split.model_copy(update={"folds": folds, "fold": fold})
        held = plans.build(store, base.data.model_copy(update={"split": split}), seed=base.seed)
        for label, positives in zip(held.labels, (held.truth["val"] == 1).sum(axis=0), strict=True):
            if not positives:
                found.setdefault(label, []).append(str(fold))
    return [
        f"{label} has no positive in val of fold {', '.join(at)}: what needs one is undefined there, and so is the mean over folds"
        for label, at in found.items()
    ]


def _hyperparameters(tune: cfg.Tune, searched: space.Space) -> list[str]:
    """The names of what differs between trials."""
    if tune.search == "list":
        return list(dict.fromkeys(name for one in tune.combinations for name in one))
    return [d.hyperparameter for d in searched.dimensions]


def _proposals(sweep: Sweep, searched: space.Space, plan: plans.Plan, store: stores.Store) -> Proposals:
    """What is still to be trained, every config of it checked now where it is known now."""
    config = sweep.config
    tune = config.tune
    held = sweep.trials
    first: list[dict[str, Any]] = [{}] if tune.base else []
    if tune.search == "optuna":
        return Study(sweep, searched, held)
    if tune.search == "list":
        sampled = [space.numbers(one) for one in tune.combinations]
    elif tune.search == "grid":
        sampled = searched.grid()
    else:
        sampled = [searched.sample(number, seed=config.seed) for number in range(1, tune.trials + 1)]
    written = config.model_dump()
    if first:  # not trained twice
        sampled = [one for one in sampled if any(cfg.value_at(written, k) != v for k, v in one.items())]
    trials = []
    for number, one in enumerate([*first, *sampled], start=0 if first else 1):
        for fold in range(tune.folds) if tune.folds else [None]:
            name = f"{number:04d}" + ("" if fold is None else f"-fold-{fold}")
            trials.append(Trial(name, number, one, fold, base=not one))
    known = {t.name: t for t in held}
    trials = [known.pop(t.name, t) for t in trials]
    trials += [t for t in known.values() if t.status in ENDED]  # of a time when more were asked for
    sweep.write_trials(trials)
    checked: set[str] = set()
    for trial in trials:
        made = sweep.trial_config(trial)
        # A model takes a second to build: each architecture, head and loss once.
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
    # asha ends a trial by those that came before it: of a grid whose values rise from bad to good it would end none.
    shuffled = config.seed if tune.search == "grid" and tune.scheduler == "asha" else None
    return Proposals(trials, shuffled=shuffled)
