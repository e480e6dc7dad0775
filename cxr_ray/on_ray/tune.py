"""`tune`: many trainings over one store, as trials of Ray Tune. Ray places and stops them; what they are and what they came to
stands in the sweep folder, so that a killed sweep goes on without anything of Ray's state.
"""

import logging
import math
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray import tune as ray_tune
from ray.tune.search import Searcher

from cxr_ray import config as cfg
from cxr_ray import metrics, registry, shards, space, sweeps, trackers
from cxr_ray import plan as plans
from cxr_ray.errors import Stopped, UserError
from cxr_ray.labels import spread
from cxr_ray.lease import Lease
from cxr_ray.on_ray import cluster, schedulers, sigterm
from cxr_ray.on_ray import train as training
from cxr_ray.on_ray.proposals import Proposals, Study
from cxr_ray.on_ray.room import Room
from cxr_ray.on_ray.trial import OBJECTIVE, train_trial
from cxr_ray.sweeps import ENDED, FAILED, FINISHED, RUNNING, STOPPED, WAITING, Sweep, Trial

TOLD: dict[str, trackers.Status] = {FINISHED: "finished", STOPPED: "stopped", FAILED: "failed"}
"""How a trial ended, as trackers say it."""
HALT_S = 60
"""What a trial that its scheduler ends may take to write its model; Ray then kills it."""


def tune(
    config: cfg.Config,
    *,
    address: str | None = None,
    failed_again: bool = False,
    say: Callable[[str], None] = print,
    watch: Callable[[Sweep], None] = lambda sweep: None,
) -> Sweep:
    """Run the sweep that `config.tune` says and return it, or go on with the unfinished one of the same name.

    `failed_again` lets trials that failed in an earlier launch go on from their last checkpoint. `watch` is called with the sweep
    as its trials report. Raises `UserError` for what the user can mend, before the first trial
    where that can be known."""
    registry.load_plugins(config.plugins)
    store, plan, base, notes = _checked(config)
    settled = base.model_copy(update={"tune": config.tune})
    searched = space.parse(config.tune, base, plan.labels)
    sweep = sweeps.create(
        settled,
        store=training.identity(store),
        about={
            "labels": list(plan.labels),
            "task": plan.task,
            "knobs": _knobs(config.tune, searched),
            "metrics": config.tune.metrics,
            "modes": config.tune.modes,
            "constraints": [str(c) for c in sweeps.constraints(config.tune)],
            "rows": {part: len(rows) for part, rows in plan.rows.items()},
            "warnings": [*plan.warnings, *notes],
        },
    )
    say(f"sweep: {sweep.path}")
    say(f"plan: {plan.summary()}; labels: {', '.join(plan.labels)}")
    for warning in [*plan.warnings, *notes]:
        say(f"warning: {warning}")
    with Lease(sweep.path):
        try:
            sweeps.take_over(sweep, settled)
            if failed_again:
                sweep.forgive()
            proposals = _proposals(sweep, searched, plan, store)
            sweep.update(status="started", planned=proposals.planned)
            if proposals.left:
                _run(sweep, proposals, searched, address, say, watch)
        except UserError:
            if not (sweep.path / "trials").exists():  # nothing was begun: the mended config may have the name
                shutil.rmtree(sweep.path)
            raise
        if sweep.info["status"] == "stopped":
            raise Stopped(f"stopped; cxr-ray tune --resume {shlex.quote(str(sweep.path))} goes on with what is left")
        sweep.update(status="finished")
    return sweep


def _checked(config: cfg.Config) -> tuple[shards.Store, plans.Plan, cfg.Config, list[str]]:
    """Store, plan and settled config of the trials, and what the user should know of folds."""
    knobs = config.tune
    base = config.model_copy(update={"tune": cfg.Tune()})
    if "monitor" not in base.train.model_fields_set:
        monitor = {"monitor": knobs.metrics[0], "monitor_mode": knobs.modes[0]}
        base = cfg.validate(cfg.merge(base.model_dump(), {"train": monitor}))
    store, plan, base = training.prepare(base)
    for name in [*knobs.metrics, *(c.metric for c in sweeps.constraints(knobs))]:
        part, _, _ = metrics.parse(name, labels=plan.labels, task=plan.task)
        if part != "val":
            raise UserError(f"tune: {name} is of {part}; a sweep is judged by val, so say val/{name.partition('/')[2]}")
    if not len(plan.rows["val"]):
        raise UserError("a sweep chooses by val, and val has no rows; set data.split.val above 0")
    if knobs.folds and knobs.scheduler != "none":
        raise UserError(
            f"tune.folds trains every trial to its end: set tune.scheduler to none instead of {knobs.scheduler}"
        )
    if knobs.scheduler == "pbt" and knobs.search != "random":
        raise UserError(
            f"tune.scheduler: pbt changes knobs by itself; set tune.search to random instead of {knobs.search}"
        )
    if knobs.scheduler == "pbt" and knobs.max_concurrent != "auto":
        raise UserError("tune.scheduler: pbt lets all trials take turns: leave tune.max_concurrent at auto")
    if knobs.scheduler == "pbt" and base.train.workers > 1:
        raise UserError("tune.scheduler: pbt needs trials of one worker: set train.workers to 1")
    if knobs.folds and base.data.split.folds:
        raise UserError("tune.folds and data.split.folds both say what val is: leave data.split.folds out")
    if knobs.folds and knobs.search == "optuna":
        raise UserError(
            "tune.search: optuna learns from single trials: set tune.folds to null, or tune.search to random"
        )
    notes = _folds_without(store, plan, base, knobs.folds) if knobs.folds else []
    return store, plan, _by_label(base, store, plan), notes


def _by_label(base: cfg.Config, store: shards.Store, plan: plans.Plan) -> cfg.Config:
    """`data.uncertain` with a policy a label where it names labels or groups: a knob of one label then has what was written."""
    said = base.data.uncertain
    if isinstance(said, str):
        return base
    each: Any = spread(dict[str, Any](said), store.labels, plan.groups, where="data.uncertain")
    whole = {**dict.fromkeys(plan.labels, "zeros"), **each}
    return base.model_copy(update={"data": base.data.model_copy(update={"uncertain": whole})})


def _folds_without(store: shards.Store, plan: plans.Plan, base: cfg.Config, folds: int) -> list[str]:
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


def _knobs(knobs: cfg.Tune, searched: space.Space) -> list[str]:
    """The names of what differs between trials."""
    if knobs.search == "list":
        return list(dict.fromkeys(name for one in knobs.combinations for name in one))
    return [d.knob for d in searched.dimensions]


def _proposals(sweep: Sweep, searched: space.Space, plan: plans.Plan, store: shards.Store) -> Proposals:
    """What is still to be trained, every config of it checked now where it is known now."""
    config = sweep.config
    knobs = config.tune
    held = sweep.trials
    first: list[dict[str, Any]] = [{}] if knobs.base else []
    if knobs.search == "optuna":
        return Study(sweep, searched, held)
    if knobs.search == "list":
        drawn = [space.numbers(one) for one in knobs.combinations]
    elif knobs.search == "grid":
        drawn = searched.grid()
    else:
        drawn = [searched.drawn(number, seed=config.seed) for number in range(1, knobs.trials + 1)]
    written = config.model_dump()
    if first:  # not trained twice
        drawn = [one for one in drawn if any(sweeps.at(written, k) != v for k, v in one.items())]
    trials = []
    for number, one in enumerate([*first, *drawn], start=0 if first else 1):
        for fold in range(knobs.folds) if knobs.folds else [None]:
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
        if trial.status not in sweeps.ENDED and key not in checked:
            checked.add(key)
            training.check(made, plan, store)
    # asha ends a trial by those that came before it: of a grid whose values rise from bad to good it would end none.
    shuffled = config.seed if knobs.search == "grid" and knobs.scheduler == "asha" else None
    return Proposals(trials, shuffled=shuffled)


# -- the trials on Ray ---------------------------------------------------------------------------------------------


def _run(
    sweep: Sweep,
    proposals: Proposals,
    searched: space.Space,
    address: str | None,
    say: Callable[[str], None],
    watch: Callable[[Sweep], None],
) -> None:
    # A trial that its scheduler ends writes its model first; read by the trial's own process.
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = str(HALT_S)
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # each trial's run folder has its own
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # an interrupt is answered by the verb
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # no table of its own beside ours
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)  # it misses those loggers
    config = sweep.config
    knobs = config.tune
    cores = max(os.cpu_count() or 1, config.train.workers)
    with cluster.session(address, num_cpus=cores, dashboard=True):
        room = Room.of(config, cluster.nodes())
        at_once = room.at_once(knobs.max_concurrent)
        if "mlflow" in config.report.trackers:
            trackers.client(sweep.path.parent)  # made once, before the trials would make it side by side
        left = proposals.left
        say(f"trials: {left:,} to train, {at_once} at a time, each on {room.said()}")
        if knobs.scheduler == "asha":
            say(f"asha: no trial is ended before epoch {sweep.grace} of its own")
        for line in _places(sweep):
            say(line)
        seen = _Seen(sweep, proposals, say, watch)
        scratch = sweep.path / "ray"
        pbt = knobs.scheduler == "pbt"
        trainable: Any = ray_tune.with_resources(train_trial, ray_tune.PlacementGroupFactory(room.bundles()))
        # SIGTERM asks the running trials for a checkpoint and ends the sweep, to be gone on with.
        with sigterm.answered(lambda: seen.end("asked")):
            ray_tune.Tuner(
                trainable,
                # pbt takes no searcher: all its trials are known and start at once.
                param_space={"given": ray_tune.grid_search([_given(sweep, t, searched) for t in _all(proposals)])}
                if pbt
                else None,
                tune_config=ray_tune.TuneConfig(
                    num_samples=1 if pbt else left,
                    search_alg=None if pbt else _Feed(proposals, seen, searched),
                    scheduler=schedulers.build(sweep, searched),
                    # pbt's trials take turns: all of them are begun, and only those that fit run.
                    max_concurrent_trials=None if pbt else at_once,
                    # A trial of several workers leaves nothing in its own process that would be worth keeping.
                    reuse_actors=config.train.workers == 1,
                ),
                run_config=ray_tune.RunConfig(
                    name=f"launch-{time.time_ns()}",
                    storage_path=str(scratch),
                    callbacks=[seen],
                    failure_config=ray_tune.FailureConfig(max_failures=knobs.retries),
                    checkpoint_config=ray_tune.CheckpointConfig(num_to_keep=4) if pbt else None,
                    verbose=0,
                ),
            ).fit()
        seen.flush()
        shutil.rmtree(scratch, ignore_errors=True)


def _all(proposals: Proposals) -> Iterator[Trial]:
    while (trial := proposals.next()) is not None:
        yield trial


def _places(sweep: Sweep) -> Iterator[str]:
    """Where to look while it runs."""
    yield f"page: {sweep.path / 'sweep.html'} (written anew as trials report)"
    for line in trackers.commands(sweep.config.report.trackers, sweep.path / "trials", sweep.path.parent):
        yield f"to look at the trials: {line}"
    url = getattr(ray._private.worker._global_node, "webui_url", None)
    if url:
        yield f"Ray dashboard: http://{url}"


def _given(sweep: Sweep, trial: Trial, searched: space.Space) -> dict[str, Any]:
    """What a trial's process is given; its knobs pbt may change."""
    knobs = schedulers.starting_knobs(sweep, trial, searched)
    return {"sweep": str(sweep.path), "trial": trial.name, "knobs": knobs}


class _Feed(Searcher):
    """Hands Ray the sweep's own proposals, one a trial."""

    def __init__(self, proposals: Proposals, seen: "_Seen", searched: space.Space) -> None:
        super().__init__(metric=OBJECTIVE, mode="max")
        self._proposals, self._seen, self._searched = proposals, seen, searched

    def suggest(self, trial_id: str) -> Any:
        if self._seen.ending:
            return Searcher.FINISHED
        trial = self._proposals.next()
        if trial is None:
            return Searcher.FINISHED
        self._seen.started(trial.name)  # written before its process looks for it there
        return {"given": _given(self._seen.sweep, trial, self._searched)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Told by `_Seen`, which knows the run folder."""

    # What Ray saves of a searcher is not what a sweep goes on from.
    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError


class _Seen(ray_tune.Callback):
    """What the driver sees of the trials: keeps the ledger, tells the user, ends the sweep when asked or out of time."""

    EVERY_S = 2.0

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray keeps its callbacks pickled, to be restored: a sweep is not, and a terminal cannot be

    def __init__(
        self, sweep: Sweep, proposals: Proposals, say: Callable[[str], None], watch: Callable[[Sweep], None]
    ) -> None:
        self.sweep, self.ending, self._why = sweep, False, ""
        self._proposals, self._say, self._watch = proposals, say, watch
        self._epochs: dict[str, int] = {}
        self._drawn = 0.0
        self._began = time.monotonic()
        self._before = float(sweep.info.get("seconds") or 0.0)
        minutes = sweep.config.tune.max_time
        self._ends = math.inf if minutes is None else self._began + minutes * 60 - self._before
        self._metric = sweep.config.tune.metrics[0]

    def end(self, why: str) -> None:
        """Let no further trial start, and those that run write a checkpoint and end."""
        self.ending, self._why = True, why
        for trial in self._proposals.trials:
            if trial.status not in ENDED and (self.sweep.path / "trials" / trial.name / "run.json").exists():
                self.sweep.run(trial).ask_to_stop()

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if not self.ending and time.monotonic() > self._ends:
            self._say(
                f"tune.max_time: {self.sweep.config.tune.max_time:g} minutes are over; ending the trials that run"
            )
            self.end("time")

    def started(self, name: str) -> None:
        """A trial is handed to Ray."""
        self._set(name, status=RUNNING, error=None)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.started(_name(trial))  # pbt's; Ray does not call it for a trial that starts in a used process

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        name = _name(trial)
        if result.get("error"):
            self._set(name, error=str(result["error"]))
            return
        self._epochs[name] = int(result["epoch"])
        value = result.get(self._metric)
        self._say(f"trial {name}  epoch {result['epoch']}  {self._metric} {'--' if value is None else f'{value:.4f}'}")
        if self.ending:  # one that was just starting when the end was called
            self.end(self._why)
        self._draw()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        name = _name(trial)
        held = self._proposals.trial(name)
        status, error, seconds = self._outcome(held)
        self._set(name, status=status, error=error, seconds=seconds)
        self._proposals.told(self._proposals.trial(name))
        if status != WAITING:
            now = self.sweep.trial(name).knobs  # pbt may have changed them
            knobs = ", ".join(f"{k} {_short(v)}" for k, v in now.items()) or "the config as written"
            self._say(f"trial {name}  {status}{': ' + error if error else ''} ({knobs})")
        self._draw(now=True)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        name = _name(trial)
        told = Path(trial.error_file).read_text() if trial.error_file else ""
        lines = [line for line in told.splitlines() if line.strip()]
        error = " ".join(lines[-1].split())[:300] if lines else ""
        if not error or "process has died" in told:
            error = "its process died: killed, out of memory, or silent for tune.hang_minutes"
        tries = self.sweep.config.tune.retries
        self._set(name, status=FAILED, error=f"died {tries + 1} times: {error}")
        self._proposals.told(self._proposals.trial(name))
        self._say(f"trial {name}  failed: {error}")
        self._draw(now=True)

    def _outcome(self, trial: Trial) -> tuple[str, str | None, float]:
        if trial.error:
            return FAILED, trial.error, trial.seconds
        try:
            info = self.sweep.run(trial).info
        except UserError:
            return FAILED, "it ended before its run began", trial.seconds
        seconds = float(info.get("seconds") or 0.0)
        if info["status"] == "failed":
            return FAILED, info.get("error"), seconds
        # Its scheduler may have ended it at its last epoch, before it could say that it is finished.
        if info["status"] == "finished" or self._epochs.get(trial.name) == self.sweep.run(trial).config.train.epochs:
            return FINISHED, None, seconds
        return (WAITING if self.ending and self._why == "asked" else STOPPED), None, seconds

    def _set(self, name: str, **changes: Any) -> None:
        self._proposals.set(replace(self._proposals.trial(name), **changes))
        self.sweep.write_trials(self._proposals.trials)
        if changes.get("status") in ENDED and (self.sweep.path / "trials" / name / "run.json").exists():
            trackers.end(self.sweep.run(name), self.sweep.config, TOLD[changes["status"]], say=self._say)

    def _draw(self, *, now: bool = False) -> None:
        if now or time.monotonic() - self._drawn > self.EVERY_S:
            self.sweep.update(
                seconds=self._seconds()
            )  # kept where the driver is killed: `tune.max_time` is over all starts
            self._watch(self.sweep)
            self._drawn = time.monotonic()

    def flush(self) -> None:
        """The sweep's last word of this launch."""
        if self.ending and self._why == "asked":
            self.sweep.update(status="stopped")
        self._draw(now=True)

    def _seconds(self) -> float:
        return round(self._before + time.monotonic() - self._began, 2)


def _name(trial: Any) -> str:
    """The sweep's name of Ray's trial."""
    return str(trial.config["given"]["trial"])


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
