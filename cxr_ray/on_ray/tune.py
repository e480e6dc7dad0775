"""`tune`: many trainings over one store, as trials of Ray Tune. Ray places and stops the trials. Their configurations and results
are in the sweep folder, so a killed sweep resumes without any of Ray's state."""

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
from cxr_ray.errors import Interrupted, Stopped, UserError
from cxr_ray.on_ray import cluster, schedulers
from cxr_ray.on_ray.resources import TrialResources, cluster_total
from cxr_ray.on_ray.trial import train_trial
from cxr_ray.on_ray.tune_callback import ProposalSearcher, SweepCallback, trial_spec
from cxr_ray.runtime import signals
from cxr_ray.storage.lease import Lease
from cxr_ray.training import setup, trackers
from cxr_ray.tuning import ranking, space
from cxr_ray.tuning import sweep as sweeps
from cxr_ray.tuning.search import Proposals
from cxr_ray.tuning.setup import hyperparameter_names, plan_trials, prepare_sweep
from cxr_ray.tuning.sweep import Sweep
from cxr_ray.tuning.trial import ENDED, Trial

STOP_TIMEOUT_S = 60
"""Time for a trial that its scheduler stops to write its model; then Ray kills it."""


def tune(
    config: cfg.Config,
    *,
    address: str | None = None,
    retry_failed: bool = False,
    log: Callable[[str], None] = print,
    on_update: Callable[[Sweep], None] = lambda sweep: None,
) -> Sweep:
    """Run the sweep of `config.tune` and return it, or resume the unfinished one of the same name.

    `retry_failed` lets trials that failed in an earlier launch resume from their last checkpoint. `on_update` is called with the
    sweep when trials report. Raises `UserError` for what the user can fix, before the first trial if it can be known then."""
    registry.load_plugins(config.plugins)
    store, plan, base, fold_warnings = prepare_sweep(config)
    prepared = base.model_copy(update={"tune": config.tune})
    searched = space.parse(config.tune, base, plan.labels)
    warnings = [*plan.warnings, *fold_warnings]
    _set_ray_defaults()
    with cluster.nodes_for(address, config.train.workers) as nodes:
        resources = TrialResources.of(prepared, nodes)  # before there is a sweep folder
        sweep = sweeps.create(
            prepared,
            store=setup.store_info(store),
            about={
                "labels": list(plan.labels),
                "task": plan.task,
                "knobs": hyperparameter_names(config.tune, searched),
                "metrics": config.tune.metrics,
                "modes": config.tune.modes,
                "constraints": [str(c) for c in ranking.constraints(config.tune)],
                "rows": {part: len(rows) for part, rows in plan.rows.items()},
                "warnings": warnings,
            },
        )
        log(f"sweep: {sweep.path}")
        log(f"plan: {plan.summary()}; labels: {', '.join(plan.labels)}")
        for warning in warnings:
            log(f"warning: {warning}")
        resume = f"cxr-ray tune --resume {shlex.quote(str(sweep.path))}"
        with Lease(sweep.path) as lease:
            interrupt = signals.Interrupt()
            try:
                sweeps.update_config(sweep, prepared)
                if retry_failed:
                    sweep.retry_failed()
                proposals = plan_trials(sweep, searched, plan, store)
                sweep.update(status="started", planned=proposals.planned)
                if proposals.remaining:
                    cores = int(cluster_total("CPU", nodes)) if cluster.is_local(address) else None
                    with cluster.session(address, num_cpus=cores, dashboard=True):
                        interrupt = _run(sweep, proposals, searched, resources, lease, log, on_update)
            except KeyboardInterrupt:
                log(
                    f"interrupted: `{resume}` trains the remaining trials, and continues running ones from their last checkpoints"
                )
                raise
            except UserError:
                if not (
                    sweep.path / "trials"
                ).exists():  # nothing was started: the fixed configuration may use the name
                    shutil.rmtree(sweep.path)
                raise
            if sweep.info["status"] == "stopped":
                message = f"stopped; running trials have written checkpoints; resume with {resume}"
                raise Interrupted(message) if interrupt.requested else Stopped(message)
            sweep.update(status="finished")
        return sweep


# -- the trials on Ray ---------------------------------------------------------------------------------------------


def _run(
    sweep: Sweep,
    proposals: Proposals,
    searched: space.Space,
    resources: TrialResources,
    lease: Lease,
    log: Callable[[str], None],
    on_update: Callable[[Sweep], None],
) -> signals.Interrupt:
    config = sweep.config
    tune = config.tune
    max_concurrent = resources.max_concurrent(tune.max_concurrent)
    if "mlflow" in config.report.trackers:
        trackers.client(sweep.path.parent)  # creates the database once, before trials would create it concurrently
    remaining = proposals.remaining
    base = any(trial.base and trial.status not in ENDED for trial in proposals.trials)
    with_base = ", among them the base configuration as trial 0000 (tune.base: false leaves it out)" if base else ""
    log(f"trials: {remaining:,} to train{with_base}, {max_concurrent} at a time, each on {resources}")
    if tune.scheduler == "asha":
        log(f"asha: trials are not stopped before epoch {sweep.grace_epochs}")
    for line in _links(sweep):
        log(line)
    callback = SweepCallback(sweep, proposals, log, on_update)
    scratch = sweep.path / "ray"
    pbt = tune.scheduler == "pbt"
    trainable: Any = ray_tune.with_resources(train_trial, ray_tune.PlacementGroupFactory(resources.bundles()))
    message = f"interrupted: running trials write checkpoints and the sweep ends; {signals.AT_ONCE}"
    # On SIGTERM or Ctrl-C, running trials write a checkpoint and the sweep stops, so that it can be resumed.
    with signals.on_stop(
        lambda: callback.stop("request"), log=log, message=message, at_once=lambda: lease.lost
    ) as interrupt:
        ray_tune.Tuner(
            trainable,
            # PBT takes no searcher: all its trials are known and start at once.
            param_space={"spec": ray_tune.grid_search([trial_spec(sweep, t, searched) for t in _all(proposals)])}
            if pbt
            else None,
            tune_config=ray_tune.TuneConfig(
                num_samples=1 if pbt else remaining,
                search_alg=None if pbt else ProposalSearcher(proposals, callback, searched),
                scheduler=schedulers.build(sweep, searched),
                # PBT's trials take turns: all are started, and only those that fit run.
                max_concurrent_trials=None if pbt else max_concurrent,
                # With several workers, Ray Train starts them elsewhere, so reusing the trial's process saves nothing.
                reuse_actors=config.train.workers == 1,
            ),
            run_config=ray_tune.RunConfig(
                name=f"launch-{time.time_ns()}",
                storage_path=str(scratch),
                callbacks=[callback],
                failure_config=ray_tune.FailureConfig(max_failures=tune.retries),
                checkpoint_config=ray_tune.CheckpointConfig(num_to_keep=4) if pbt else None,
                verbose=0,
            ),
        ).fit()
    callback.finish()
    shutil.rmtree(scratch, ignore_errors=True)
    return interrupt


def _set_ray_defaults() -> None:
    # Read by the trial's process: a trial that its scheduler stops writes its model first.
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = str(STOP_TIMEOUT_S)
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # each trial's run folder has its own logs
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # the command handles an interrupt
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # we print our own table
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)  # warns of the missing loggers


def _all(proposals: Proposals) -> Iterator[Trial]:
    while (trial := proposals.next()) is not None:
        yield trial


def _links(sweep: Sweep) -> Iterator[str]:
    """Where to follow the running sweep."""
    yield f"page: {sweep.path / 'sweep.html'} (updated while trials run)"
    for line in trackers.commands(sweep.config.report.trackers, sweep.path / "trials", sweep.path.parent):
        yield f"to view the trials: {line}"
    url = getattr(ray._private.worker._global_node, "webui_url", None)
    if url:
        yield f"Ray dashboard: http://{url}"
