"""`tune`: many trainings over one store, as trials of Ray Tune. Ray places and stops them; what they are and what they came to
stands in the sweep folder, so that a killed sweep goes on without anything of Ray's state.
"""

import logging
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray import tune as ray_tune

from cxr_ray import config as cfg
from cxr_ray import registry
from cxr_ray.errors import Stopped, UserError
from cxr_ray.on_ray import cluster, schedulers
from cxr_ray.on_ray.resources import Room
from cxr_ray.on_ray.trial import train_trial
from cxr_ray.on_ray.tune_callback import _Feed, _given, _Seen
from cxr_ray.runtime import signals
from cxr_ray.storage.lease import Lease
from cxr_ray.training import setup, trackers
from cxr_ray.tuning import ranking, space
from cxr_ray.tuning import sweep as sweeps
from cxr_ray.tuning.search import Proposals
from cxr_ray.tuning.setup import _checked, _hyperparameters, _proposals
from cxr_ray.tuning.sweep import Sweep
from cxr_ray.tuning.trial import Trial

HALT_S = 60
"""What a trial that its scheduler ends may take to write its model; Ray then kills it."""


def tune(
    config: cfg.Config,
    *,
    address: str | None = None,
    failed_again: bool = False,
    log: Callable[[str], None] = print,
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
        store=setup.identity(store),
        about={
            "labels": list(plan.labels),
            "task": plan.task,
            "knobs": _hyperparameters(config.tune, searched),
            "metrics": config.tune.metrics,
            "modes": config.tune.modes,
            "constraints": [str(c) for c in ranking.constraints(config.tune)],
            "rows": {part: len(rows) for part, rows in plan.rows.items()},
            "warnings": [*plan.warnings, *notes],
        },
    )
    log(f"sweep: {sweep.path}")
    log(f"plan: {plan.summary()}; labels: {', '.join(plan.labels)}")
    for warning in [*plan.warnings, *notes]:
        log(f"warning: {warning}")
    with Lease(sweep.path):
        try:
            sweeps.take_over(sweep, settled)
            if failed_again:
                sweep.retry_failed()
            proposals = _proposals(sweep, searched, plan, store)
            sweep.update(status="started", planned=proposals.planned)
            if proposals.left:
                _run(sweep, proposals, searched, address, log, watch)
        except UserError:
            if not (sweep.path / "trials").exists():  # nothing was begun: the mended config may have the name
                shutil.rmtree(sweep.path)
            raise
        if sweep.info["status"] == "stopped":
            raise Stopped(f"stopped; cxr-ray tune --resume {shlex.quote(str(sweep.path))} goes on with what is left")
        sweep.update(status="finished")
    return sweep


# -- the trials on Ray ---------------------------------------------------------------------------------------------


def _run(
    sweep: Sweep,
    proposals: Proposals,
    searched: space.Space,
    address: str | None,
    log: Callable[[str], None],
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
    tune = config.tune
    cores = max(os.cpu_count() or 1, config.train.workers)
    with cluster.session(address, num_cpus=cores, dashboard=True):
        room = Room.of(config, cluster.nodes())
        at_once = room.at_once(tune.max_concurrent)
        if "mlflow" in config.report.trackers:
            trackers.client(sweep.path.parent)  # made once, before the trials would make it side by side
        left = proposals.left
        log(f"trials: {left:,} to train, {at_once} at a time, each on {room.said()}")
        if tune.scheduler == "asha":
            log(f"asha: no trial is ended before epoch {sweep.grace} of its own")
        for line in _places(sweep):
            log(line)
        seen = _Seen(sweep, proposals, log, watch)
        scratch = sweep.path / "ray"
        pbt = tune.scheduler == "pbt"
        trainable: Any = ray_tune.with_resources(train_trial, ray_tune.PlacementGroupFactory(room.bundles()))
        # SIGTERM asks the running trials for a checkpoint and ends the sweep, to be gone on with.
        with signals.answered(lambda: seen.end("asked")):
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
                    failure_config=ray_tune.FailureConfig(max_failures=tune.retries),
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
