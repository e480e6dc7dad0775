"""One trial of a sweep, in its own process: runs the training loop there, or starts Ray Train."""

import faulthandler
import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import tune as ray_tune

from cxr_ray import config as cfg
from cxr_ray import registry, runs
from cxr_ray.data import plan as plans
from cxr_ray.data import store as stores
from cxr_ray.errors import Stopped, UserError
from cxr_ray.on_ray import room
from cxr_ray.on_ray.launch import train_on_workers
from cxr_ray.on_ray.resources import TrialResources, WorkerResources
from cxr_ray.runs import events
from cxr_ray.runtime.progress import Progress
from cxr_ray.runtime.threads import background
from cxr_ray.storage.lease import EXPIRES_S, Lease
from cxr_ray.training import checkpoint as checkpoints
from cxr_ray.training import setup
from cxr_ray.tuning import ranking
from cxr_ray.tuning import sweep as sweeps
from cxr_ray.tuning.sweep import Sweep
from cxr_ray.tuning.trial import Trial

OBJECTIVE = "objective"
"""What Ray's schedulers compare: the first metric, signed so that more is better."""
UNDEFINED = -1e9
"""Objective of a trial whose metric is undefined: below all others."""


class TuneContext:
    """The training loop's `Context` in a trial of one worker: reports to Ray Tune after every epoch."""

    def __init__(
        self,
        run: runs.Run,
        objective: Callable[[Mapping[str, float]], float],
        *,
        hang_s: float,
        checkpoint: Path | None,
        share_checkpoints: bool,
    ) -> None:
        from cxr_ray.runtime.context import pick_device

        self.rank, self.world = 0, 1
        self.device = pick_device(run.config.train.gpu)
        self.stopped_by_scheduler = self.reported = False
        self._run, self._objective, self._hang_s = run, objective, hang_s
        self._checkpoint, self._share_checkpoints = checkpoint, share_checkpoints
        self._reset_hang_timer()

    def _reset_hang_timer(self) -> None:
        # faulthandler's own C thread ends a process that hangs, even while Python's lock is taken.
        faulthandler.dump_traceback_later(self._hang_s, exit=True)

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        self._reset_hang_timer()
        values = {**metrics, OBJECTIVE: self._objective(metrics)}
        shared = None
        if self._share_checkpoints and checkpoint is not None:
            shared = ray_tune.Checkpoint.from_directory(str(checkpoint))
        self.reported = True
        try:
            ray_tune.report(values, checkpoint=shared)
        except SystemExit:  # the scheduler stops the trial: the training loop writes the model and returns
            self.stopped_by_scheduler = True

    def restore(self) -> Path | None:
        return self._checkpoint

    def should_stop(self) -> bool:
        self._reset_hang_timer()
        return self.stopped_by_scheduler or self._run.stop_requested

    def should_save(self) -> bool:
        return False

    def log(self, line: str) -> None:
        self._run.log(line)

    def progress(self, what: str) -> Progress:
        return Progress.of_training(what, self.log)


def train_trial(config: dict[str, Any]) -> None:
    """The function that Ray Tune runs for a trial. A `UserError` is reported, not raised, because a retry would fail in the same
    way."""
    spec = config["spec"]
    sweep = sweeps.load(spec["sweep"])
    try:
        stopped_by_scheduler = run_trial(sweep, spec)
    except UserError as error:
        folder = sweep.path / "trials" / spec["trial"]
        if (folder / "run.json").exists():
            runs.Run(folder).update(status="failed", error=str(error))
        ray_tune.report({"epoch": 0, OBJECTIVE: UNDEFINED, "error": str(error)})
        return
    finally:
        faulthandler.cancel_dump_traceback_later()
        _release_gpu_memory()
    if stopped_by_scheduler:
        sys.exit(0)  # as Ray's own report does


def run_trial(sweep: Sweep, spec: Mapping[str, Any]) -> bool:
    """Train the trial of a `tune_callback.trial_spec`, to which PBT adds a `donor`. Returns whether its scheduler stopped it. Raises
    `UserError`."""
    trial = sweep.trial(spec["trial"])
    tune = sweep.config.tune
    initial_config = sweep.trial_config(replace(trial, hyperparameters=trial.initial))
    config = sweep.trial_config(replace(trial, hyperparameters=_current_hyperparameters(sweep, trial, spec)))
    registry.load_plugins(config.plugins)
    store = stores.open(str(config.data.shards), verify=config.data.verify, cache=config.data.cache)
    if store.fingerprint != sweep.info["store"]["fingerprint"]:
        raise UserError(f"the store {store.origin} has changed since the sweep was started; start a new sweep on it")
    plan = plans.build(store, config.data, seed=config.seed, pos_weight_power=config.loss.pos_weight_power)
    about = {
        "knobs": trial.initial,
        "sweep": {
            "name": sweep.path.name,
            "knobs": sweep.info["knobs"],
            "metrics": tune.metrics,
            "trial": trial.name,
            "number": trial.number,
        },
    }
    run = setup.open_run(initial_config, store, plan, **about)
    objective = objective_of(tune)
    with _wait_for_lease(run.path):
        (run.path / "stop").unlink(missing_ok=True)
        run.update(status="started", error=None)
        events.record(run.path, "started")
        if spec.get("donor"):
            _record_pbt_change(run, spec)
        if config.train.workers > 1:
            trial_resources = TrialResources.of(sweep.config, room.now())
            resources = WorkerResources(dict(trial_resources.per_worker), bool(trial_resources.gpus))
            with _exit_on_hang(run, tune.hang_minutes * 60):
                try:
                    train_on_workers(run, resources, max_failures=0, callbacks=[_tune_reporter(objective)])
                except Stopped:  # before its workers started
                    run.update(status="stopped")
            info = run.info
            if info.get("error"):
                raise UserError(info["error"])
            return False
        import torch

        from cxr_ray.training import trainer

        torch.set_num_threads(config.train.threads or max(1, int(config.train.resources_per_worker.get("CPU", 1))))
        context = TuneContext(
            run,
            objective,
            hang_s=tune.hang_minutes * 60,
            checkpoint=_pbt_checkpoint(),
            share_checkpoints=tune.scheduler == "pbt",
        )
        latest = trainer.fit(config, plan, store, context, run)
        # An earlier start died after the last epoch, before Ray got its report.
        if not context.reported and run.info["status"] == "finished":
            context.report({"epoch": config.train.epochs, **latest}, None)
        return context.stopped_by_scheduler


def objective_of(tune: cfg.Tune) -> Callable[[Mapping[str, float]], float]:
    """A function from reported metrics to the objective that schedulers compare: the first of `tune.metrics`, signed so that more is
    better, minus the violations of `tune.constraint`. So no trial that meets the constraint is stopped for one that does not."""
    sign = cfg.sign_of(tune.modes[0])
    metric, limits = tune.metrics[0], ranking.constraints(tune)
    return lambda values: (
        sign * values[metric] - sum(max(0.0, c.violation(values, undefined=1.0)) for c in limits)
        if metric in values
        else UNDEFINED
    )


def _current_hyperparameters(sweep: Sweep, trial: Trial, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `spec`; or the last ones that PBT set in an earlier launch."""
    folder = sweep.path / "trials" / trial.name
    changes = runs.Run(folder).info.get("changes") if (folder / "run.json").exists() else None
    if changes and not spec.get("donor"):
        return dict(changes[-1]["knobs"])
    return dict(spec["hyperparameters"])


def _record_pbt_change(run: runs.Run, spec: Mapping[str, Any]) -> None:
    """Record in `changes` of run.json the epoch after which PBT changed the hyperparameters, and whose weights it took."""
    checkpoint = _pbt_checkpoint()
    epoch = 0 if checkpoint is None else int(checkpoints.read_state(checkpoint)["epoch"])
    changes = run.info.get("changes", [])
    change = {"epoch": epoch, "knobs": spec["hyperparameters"], "from": spec["donor"]}
    if not changes or {**changes[-1], "epoch": epoch} != change:  # equal after a restart: recorded already
        run.update(changes=[*(c for c in changes if c["epoch"] < epoch), change])


def _pbt_checkpoint() -> Path | None:
    """The folder of the checkpoint that PBT gives to this trial."""
    checkpoint = ray_tune.get_checkpoint()
    return None if checkpoint is None else Path(checkpoint.path)


def _release_gpu_memory() -> None:
    """Release cached GPU memory: this process is reused, or waits while other trials use the same GPU."""
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


@contextmanager
def _exit_on_hang(run: runs.Run, hang_s: float) -> Iterator[None]:
    """Exit this process, and with it its workers, if they have written nothing to the run's log for `hang_s`."""

    def watch(ended: threading.Event) -> None:
        log, started = run.path / "log.txt", time.time()
        while not ended.wait(min(5.0, hang_s / 4)):
            if time.time() - max(started, log.stat().st_mtime if log.exists() else 0.0) > hang_s:
                os._exit(1)

    with background(watch, name="cxr-hang"):
        yield


@contextmanager
def _wait_for_lease(folder: Path) -> Iterator[None]:
    """The run's lease. Waits until that of a trial which died on another machine expires."""
    deadline = time.monotonic() + EXPIRES_S + 10
    while True:
        lease = Lease(folder)
        try:
            lease.__enter__()
            break
        except UserError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1.0)
    try:
        yield
    finally:
        lease.__exit__(None, None, None)


def _tune_reporter(objective: Callable[[Mapping[str, float]], float]) -> Any:
    """A Ray Train callback that forwards reports to Ray Tune, with the objective."""
    from ray.tune.integration.ray_train import TuneReportCallback

    class Reporter(TuneReportCallback):
        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
            super().after_report(run_context, [{**metrics[0], OBJECTIVE: objective(metrics[0])}], checkpoint)

    return Reporter()
