"""`train`: in this process, or on Ray Train's workers. Both use the loop of training/trainer.py and the same plan."""

import logging
import os
import shlex
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cxr_ray import config as cfg
from cxr_ray import registry, runs
from cxr_ray.data import store as stores
from cxr_ray.data.plan import Plan
from cxr_ray.errors import Interrupted, OutOfMemory, Stopped, UserError
from cxr_ray.on_ray.resources import WorkerResources, cluster_total
from cxr_ray.runtime import signals
from cxr_ray.runtime.threads import background
from cxr_ray.storage.lease import Lease
from cxr_ray.training import checkpoint as checkpoints
from cxr_ray.training.epoch_bar import epoch_bar
from cxr_ray.training.local import in_process
from cxr_ray.training.setup import open_run, prepare


def train(config: cfg.Config, *, address: str | None = None, log: Callable[[str], None] = print) -> runs.Run:
    """Train a model by `config` and return the finished run.

    One worker without an address trains in this process. Otherwise Ray Train is used: on the cluster at `address`, else the one
    in RAY_ADDRESS (inside a Ray job: its own), else a local Ray instance. Raises `UserError` for what the user can fix, if
    possible before any worker starts, `Stopped` if a stop was requested, and `Interrupted` after the first Ctrl-C."""
    registry.load_plugins(config.plugins)
    if config.tune != cfg.Tune():
        log("note: the tune section is ignored: train uses the values of the other sections; `cxr-ray tune` searches")
    store, plan, config = prepare(config.model_copy(update={"tune": cfg.Tune()}), log=log)
    train = config.train
    if train.workers == 1 and address is None and "RAY_ADDRESS" not in os.environ:
        from cxr_ray.training import trainer

        run = open_run(config, store, plan)
        with _announced(run, plan, log) as interrupt, in_process(run.config, run, log) as context:
            trainer.fit(run.config, plan, store, context, run)
        return _finished(run, store, interrupt, log)
    from cxr_ray.on_ray import cluster

    _set_ray_defaults()
    with cluster.nodes_for(address, train.workers) as nodes:
        is_local = cluster.is_local(address)
        resources = WorkerResources.of(train, nodes, share_cpus=is_local)  # before there is a run folder
        run = open_run(config, store, plan)
        cores = int(cluster_total("CPU", nodes)) if is_local else None
        with (
            _announced(run, plan, log) as interrupt,
            cluster.session(address, num_cpus=cores, dashboard=True),
            _forward_log(run, log),
        ):
            train_on_workers(
                run, resources.per_worker, use_gpu=resources.use_gpu, max_failures=train.max_failures, log=log
            )
        return _finished(run, store, interrupt, log)


@contextmanager
def _announced(run: runs.Run, plan: Plan, log: Callable[[str], None]) -> Iterator[signals.Interrupt]:
    """Within it, the run is trained: log what it is, hold its lease, stop it on SIGTERM and Ctrl-C, and record that it started, or why
    it failed."""
    log(f"run: {run.path}")
    log(f"plan: {plan.summary()}; labels: {', '.join(plan.labels)}")
    for warning in plan.warnings:
        log(f"warning: {warning}")
    message = f"interrupted: the training writes a checkpoint and ends; {signals.AT_ONCE}"
    with Lease(run.path) as lease, epoch_bar(run):
        (run.path / "stop").unlink(missing_ok=True)
        run.update(status="started", error=None)
        try:
            with signals.on_stop(run.request_stop, log=log, message=message, at_once=lambda: lease.lost) as interrupt:
                yield interrupt
        except KeyboardInterrupt:
            where = shlex.quote(str(run.path))
            log(
                f"interrupted: `cxr-ray train --resume {where}`, or cxr_ray.resume in Python, continues from the last checkpoint"
            )
            raise
        except UserError as error:
            run.update(status="failed", error=str(error))
            raise


def _finished(run: runs.Run, store: stores.Store, interrupt: signals.Interrupt, log: Callable[[str], None]) -> runs.Run:
    """The run, if it is finished, with its check for unusual images.

    Raises `UserError` for one that failed, `Interrupted` after Ctrl-C, and `Stopped` for one that was stopped otherwise."""
    info = run.info
    if info.get("error"):
        raise UserError(info["error"])
    if info["status"] == "stopped":
        checkpoint = checkpoints.pointer_target(run.path / "checkpoints", "last")
        message = f"stopped after a checkpoint; resume with cxr-ray train --resume {shlex.quote(str(run.path))}"
        raise Interrupted(f"{message} (checkpoint: {checkpoint})") if interrupt.requested else Stopped(message)
    from cxr_ray.inference import unusual_fit  # loads torch

    unusual_fit.fit_missing(run, store, gpu="auto" if run.config.train.gpu else False, log=log)
    if interrupt.requested:
        raise Interrupted(f"interrupted when the training had finished; the run is complete: {run.path}")
    return run


def train_on_workers(
    run: runs.Run,
    resources: dict[str, float],
    *,
    use_gpu: bool,
    max_failures: int,
    callbacks: Sequence[Any] = (),
    log: Callable[[str], None],
) -> None:
    """Train the run on Ray Train's workers, in the current Ray session.

    `resources` are those of one worker; after `max_failures` restarts the training has failed."""
    _set_ray_defaults()
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    train = run.config.train
    fewest = train.min_workers or train.workers
    elastic = fewest < train.workers
    if elastic:  # Ray does not notice a lost node at once: how long it waits for capacity there (default: 60 s)
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "20")
    scratch = run.path / "ray"
    loop_config = {"run": str(run.path), "threads": train.threads or max(1, int(resources["CPU"]))}
    controllers: list[Any] = []

    class Trainer(TorchTrainer):
        def _register_sigint_handler(self, controller: Any) -> None:
            """Keep `signals.on_stop`: Ray's own handler aborts the workers before they have written a checkpoint."""
            controllers.append(controller)

    def launch() -> None:
        # A new name per launch: Ray must not restore the state of an earlier one. Our state is in the run folder.
        Trainer(
            _train_worker,
            train_loop_config=loop_config,
            scaling_config=ScalingConfig(
                num_workers=(fewest, train.workers) if elastic else train.workers,  # type: ignore[arg-type]
                use_gpu=use_gpu,
                resources_per_worker=resources,
            ),
            run_config=RunConfig(
                name=f"launch-{time.time_ns()}",
                storage_path=str(scratch),
                failure_config=FailureConfig(
                    max_failures=max_failures,
                    # Elastic: each lost node counts as one, since Ray tries the old size first.
                    controller_failure_limit=100 if elastic else 3,  # type: ignore[call-arg]
                    max_preemption_failures=100,
                ),
                callbacks=list(callbacks),
            ),
            torch_config=TorchConfig(timeout_s=600),
        ).fit()

    for restarts_left in reversed(range(max_failures + 1)):
        try:
            launch()
            break
        except KeyboardInterrupt:  # in a Ray that goes on, the workers would go on too
            for controller in controllers:
                ray.kill(controller)
            raise
        except ray.train.TrainingFailedError as error:
            # Ray has already restarted workers that died, as often as allowed. But if a node is lost while they start, it fails at
            # once: launch again, which resumes from the run folder.
            if not restarts_left or isinstance(error, ray.train.WorkerGroupError):
                raise RuntimeError(f"training on Ray failed after {max_failures} restarts: {error}") from error
            log(f"the workers could not start; trying again from the last checkpoint ({restarts_left} tries left)")
    shutil.rmtree(scratch, ignore_errors=True)


def _set_ray_defaults() -> None:
    # Read when Ray Train's controller starts: reports arrive within half a second, and ranks wait at most 600 s for a lost one.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", "600")


def _train_worker(loop_config: dict[str, Any]) -> None:
    """The function of each Ray Train worker: the training loop with the run's own plan and config."""
    import torch

    from cxr_ray.on_ray.context import TrainContext
    from cxr_ray.runtime import distributed
    from cxr_ray.training import trainer

    # Ray would log every report on every rank; the trainer's own epoch lines are enough.
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    torch.set_num_threads(loop_config["threads"])
    run = runs.load(loop_config["run"])
    config = run.config
    registry.load_plugins(config.plugins)
    if run.info.get("error"):  # of a worker that ended all others: a restart would fail the same way
        return
    try:
        path, cache = run.info["store"]["path"], config.data.cache
        store = distributed.all_or_none(lambda: stores.open(path, verify="none", cache=cache, log=run.log))
        trainer.fit(config, runs.plan_of(run, store), store, TrainContext(run), run)
    except OutOfMemory as error:
        run.update(status="failed", error=str(error))
        if config.train.workers > 1:  # the others wait for this rank in the middle of a step
            raise
    except UserError as error:
        # The user's error is the same on every rank and at every restart: report it once and end, rather than fail and retry.
        run.update(status="failed", error=str(error))


@contextmanager
def _forward_log(run: runs.Run, log: Callable[[str], None]) -> Iterator[None]:
    """Pass each line that workers append to the run's log to `log`."""
    file = run.path / "log.txt"
    start = file.stat().st_size if file.exists() else 0

    def follow(ended: threading.Event) -> None:
        position = start
        while True:
            is_last = ended.is_set()  # checked before reading, so that the last read misses nothing
            if file.exists():
                with file.open("rb") as opened:
                    opened.seek(position)
                    lines = opened.read().split(b"\n")
                    for line in lines[:-1]:
                        log(line.decode("utf-8"))
                        position += len(line) + 1
            if is_last:
                return
            ended.wait(0.3)

    with background(follow, name="cxr-log"):
        yield
