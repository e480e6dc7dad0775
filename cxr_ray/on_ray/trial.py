"""One trial of a sweep, in its own process: the engine itself, or Ray Train around it."""

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
from cxr_ray.errors import UserError
from cxr_ray.on_ray import cluster
from cxr_ray.on_ray import train as training
from cxr_ray.on_ray.resources import Room
from cxr_ray.runtime.threads import background
from cxr_ray.storage.lease import LASTS_S, Lease
from cxr_ray.training import checkpoint as checkpoints
from cxr_ray.training import setup
from cxr_ray.tuning import ranking
from cxr_ray.tuning import sweep as sweeps
from cxr_ray.tuning.sweep import Sweep
from cxr_ray.tuning.trial import Trial

OBJECTIVE = "objective"
"""What Ray's schedulers compare: the first metric, more is better; far below all others where it is undefined."""
UNDEFINED = -1e9


class TuneContext:
    """The engine's `Context` in a trial of one worker: this process, Ray Tune told after every epoch."""

    def __init__(
        self,
        run: runs.Run,
        objective: Callable[[Mapping[str, float]], float],
        *,
        hang_s: float,
        restored: Path | None,
        share: bool,
    ) -> None:
        from cxr_ray.runtime.context import pick_device

        self.rank, self.world = 0, 1
        self.device = pick_device(run.config.train.gpu)
        self.halted = self.reported = False
        self._run, self._objective, self._hang_s, self._restored, self._share = run, objective, hang_s, restored, share
        self._alive()

    def _alive(self) -> None:
        # A thread of its own in C: it ends a process that hangs even where Python's lock is held.
        faulthandler.dump_traceback_later(self._hang_s, exit=True)

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        self._alive()
        told = {**metrics, OBJECTIVE: self._objective(metrics)}
        shared = ray_tune.Checkpoint.from_directory(str(checkpoint)) if self._share and checkpoint is not None else None
        self.reported = True
        try:
            ray_tune.report(told, checkpoint=shared)
        except SystemExit:  # the scheduler ends the trial: the engine writes the model and returns
            self.halted = True

    def restore(self) -> Path | None:
        return self._restored

    def should_stop(self) -> bool:
        self._alive()
        return self.halted or self._run.asked_to_stop

    def should_save(self) -> bool:
        return False

    def log(self, line: str) -> None:
        self._run.log(line)


def train_trial(config: dict[str, Any]) -> None:
    """One trial, in its process: the engine itself, or Ray Train around it. What the user can mend is told, not raised: a new
    start would find it again."""
    given = config["given"]
    sweep = sweeps.load(given["sweep"])
    try:
        halted = _train(sweep, given)
    except UserError as error:
        folder = sweep.path / "trials" / given["trial"]
        if (folder / "run.json").exists():
            runs.Run(folder).update(status="failed", error=str(error))
        ray_tune.report({"epoch": 0, OBJECTIVE: UNDEFINED, "error": str(error)})
        return
    finally:
        faulthandler.cancel_dump_traceback_later()
        _free()
    if halted:
        sys.exit(0)  # as Ray's own report would have


def _train(sweep: Sweep, given: dict[str, Any]) -> bool:
    trial = sweep.trial(given["trial"])
    tune = sweep.config.tune
    written = sweep.trial_config(replace(trial, hyperparameters=trial.sampled))
    config = sweep.trial_config(replace(trial, hyperparameters=_hyperparameters_now(sweep, trial, given)))
    registry.load_plugins(config.plugins)
    store = stores.open(str(config.data.shards), verify=config.data.verify, cache=config.data.cache)
    if store.fingerprint != sweep.info["store"]["fingerprint"]:
        raise UserError(f"the store {store.origin} has changed since the sweep was started; start a new sweep on it")
    plan = plans.build(store, config.data, seed=config.seed, pos_weight_power=config.loss.pos_weight_power)
    about = {
        "knobs": trial.sampled,
        "sweep": {
            "name": sweep.path.name,
            "knobs": sweep.info["knobs"],
            "metrics": tune.metrics,
            "trial": trial.name,
            "number": trial.number,
        },
    }
    run = setup.open_run(written, store, plan, **about)
    objective = objective_of(tune)
    with _lease(run.path):
        (run.path / "stop").unlink(missing_ok=True)
        run.update(status="started", error=None)
        if given.get("donor"):
            _write_change(run, given)
        if config.train.workers > 1:
            room = Room.of(sweep.config, cluster.nodes())
            with _watched(run, tune.hang_minutes * 60):
                training.on_workers(
                    run,
                    dict(room.each),
                    use_gpu=bool(room.gpus),
                    failures=0,
                    callbacks=[_reporter(objective)],
                    log=run.log,
                )
            info = run.info
            if info.get("error"):
                raise UserError(info["error"])
            return False
        import torch

        from cxr_ray.training import trainer

        torch.set_num_threads(config.train.threads or max(1, int(config.train.resources_per_worker.get("CPU", 1))))
        context = TuneContext(
            run, objective, hang_s=tune.hang_minutes * 60, restored=_shared(), share=tune.scheduler == "pbt"
        )
        latest = trainer.fit(config, plan, store, context, run)
        # It died after its last epoch, before it could say that it is finished.
        if not context.reported and run.info["status"] == "finished":
            context.report({"epoch": config.train.epochs, **latest}, None)
        return context.halted


def objective_of(tune: cfg.Tune) -> Callable[[Mapping[str, float]], float]:
    """What schedulers compare, from a report's metrics by name: the first of `tune.metrics`, more is better, less what
    `tune.constraint` is missed by, so that no trial which keeps it is ended for one which does not."""
    sign = cfg.sign_of(tune.modes[0])
    metric, limits = tune.metrics[0], ranking.constraints(tune)
    return lambda values: (
        sign * values[metric] - sum(max(0.0, c.missed(values, undefined=1.0)) for c in limits)
        if metric in values
        else UNDEFINED
    )


def _hyperparameters_now(sweep: Sweep, trial: Trial, given: Mapping[str, Any]) -> dict[str, Any]:
    """What is trained with now: as given, or, where pbt changed it in an earlier launch, what it came to."""
    folder = sweep.path / "trials" / trial.name
    changes = runs.Run(folder).info.get("changes") if (folder / "run.json").exists() else None
    if changes and not given.get("donor"):
        return dict(changes[-1]["knobs"])
    return dict(given["knobs"])


def _write_change(run: runs.Run, given: Mapping[str, Any]) -> None:
    """Keep in run.json's `changes` from which epoch on pbt lets the run train with other knobs, and whose weights it took."""
    place = _shared()
    epoch = 0 if place is None else int(checkpoints.state_of(place)["epoch"])
    changes = run.info.get("changes", [])
    change = {"epoch": epoch, "knobs": given["knobs"], "from": given["donor"]}
    if not changes or {**changes[-1], "epoch": epoch} != change:  # else a new start after the same change
        run.update(changes=[*(c for c in changes if c["epoch"] < epoch), change])


def _shared() -> Path | None:
    """The checkpoint that pbt hands over, as a folder that stays."""
    held = ray_tune.get_checkpoint()
    return None if held is None else Path(held.path)


def _free() -> None:
    """Give a GPU's memory back: the process is used again, or waits beside others that share the GPU."""
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


@contextmanager
def _watched(run: runs.Run, hang_s: float) -> Iterator[None]:
    """End this process, and with it the workers that it owns, where they have written nothing to the run's log for so long."""

    def watch(ended: threading.Event) -> None:
        log, began = run.path / "log.txt", time.time()
        while not ended.wait(min(5.0, hang_s / 4)):
            if time.time() - max(began, log.stat().st_mtime if log.exists() else 0.0) > hang_s:
                os._exit(1)

    with background(watch, name="cxr-hang"):
        yield


@contextmanager
def _lease(folder: Path) -> Iterator[None]:
    """The run's lease; that of a trial which died on another machine is waited out."""
    ends = time.monotonic() + LASTS_S + 10
    while True:
        lease = Lease(folder)
        try:
            lease.__enter__()
            break
        except UserError:
            if time.monotonic() > ends:
                raise
            time.sleep(1.0)
    try:
        yield
    finally:
        lease.__exit__(None, None, None)


def _reporter(objective: Callable[[Mapping[str, float]], float]) -> Any:
    """Ray Train's reports, handed on to Ray Tune with the objective."""
    from ray.tune.integration.ray_train import TuneReportCallback

    class Reporter(TuneReportCallback):
        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
            super().after_report(run_context, [{**metrics[0], OBJECTIVE: objective(metrics[0])}], checkpoint)

    return Reporter()
