"""`train`: in this process, or on Ray Train's workers. Both run the same engine over the same plan."""

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
from cxr_ray.errors import OutOfMemory, Stopped, UserError
from cxr_ray.on_ray.resources import check_room, total, use_gpus
from cxr_ray.runtime import signals
from cxr_ray.runtime.threads import background
from cxr_ray.storage.lease import Lease
from cxr_ray.training.local import _here
from cxr_ray.training.setup import open_run, prepare


def train(config: cfg.Config, *, address: str | None = None, log: Callable[[str], None] = print) -> runs.Run:
    """Train as `config` says and return the finished run.

    One worker without an address trains in this process; otherwise on Ray Train, on the cluster at `address` or the one
    that RAY_ADDRESS names (inside a Ray job: its own), else on a Ray of this machine alone. Raises `UserError` for what the user can mend, before any
    worker starts where that can be known."""
    registry.load_plugins(config.plugins)
    store, plan, config = prepare(config.model_copy(update={"tune": cfg.Tune()}), log=log)
    run = open_run(config, store, plan)
    config = run.config
    log(f"run: {run.path}")
    log(f"plan: {plan.summary()}; labels: {', '.join(plan.labels)}")
    for warning in plan.warnings:
        log(f"warning: {warning}")
    alone = config.train.workers == 1 and address is None and "RAY_ADDRESS" not in os.environ
    with Lease(run.path):
        (run.path / "stop").unlink(missing_ok=True)
        run.update(status="started", error=None)
        try:
            _here(config, plan, store, run, log) if alone else _on_workers(config, run, address, log)
        except KeyboardInterrupt:
            log(f"interrupted: the same command with --name {run.path.name} goes on after the last checkpoint")
            raise
        except UserError as error:
            run.update(status="failed", error=str(error))
            raise
    info = run.info
    if info.get("error"):
        raise UserError(info["error"])
    if info["status"] == "stopped":
        raise Stopped(f"stopped after a checkpoint; cxr-ray train --resume {shlex.quote(str(run.path))} goes on")
    return run


def _on_workers(config: cfg.Config, run: runs.Run, address: str | None, log: Callable[[str], None]) -> None:
    from cxr_ray.on_ray import cluster

    workers, fewest = config.train.workers, config.train.min_workers or config.train.workers
    cores = max(os.cpu_count() or 1, workers)
    _environment()
    with cluster.session(address, num_cpus=cores, dashboard=True) as alone:
        resources = dict(config.train.resources_per_worker)
        if "CPU" not in resources:
            resources["CPU"] = max(1, cores // workers) if alone else 1
        nodes = cluster.nodes()
        use_gpu = use_gpus(config.train.gpu, fewest, total("GPU", nodes))
        check_room({**resources, "GPU": resources.get("GPU", 1)} if use_gpu else resources, fewest, nodes)
        with _read_out(run, log), signals.answered(run.ask_to_stop):
            on_workers(run, resources, use_gpu=use_gpu, failures=config.train.max_failures, log=log)


def on_workers(
    run: runs.Run,
    resources: dict[str, float],
    *,
    use_gpu: bool,
    failures: int,
    callbacks: Sequence[Any] = (),
    log: Callable[[str], None],
) -> None:
    """Train the run on Ray Train's workers, in the Ray session that there is; `resources` are a worker's, `failures` how many
    new starts they may want."""
    _environment()
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    train = run.config.train
    fewest = train.min_workers or train.workers
    elastic = fewest < train.workers
    if elastic:  # for a while Ray counts on a node that is lost: how long it waits for room there (60 s by itself)
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "20")
    scratch = run.path / "ray"
    loop = {"run": str(run.path), "threads": train.threads or max(1, int(resources["CPU"]))}

    def launch() -> None:
        # One name a launch: Ray must not take an earlier launch's state for this one's. Ours is in the run folder.
        TorchTrainer(
            _worker,
            train_loop_config=loop,
            scaling_config=ScalingConfig(
                num_workers=(fewest, train.workers) if elastic else train.workers,  # type: ignore[arg-type]
                use_gpu=use_gpu,
                resources_per_worker=resources,
            ),
            run_config=RunConfig(
                name=f"launch-{time.time_ns()}",
                storage_path=str(scratch),
                failure_config=FailureConfig(
                    max_failures=failures,
                    # Where it is elastic each lost node is one: Ray tries the old size first.
                    controller_failure_limit=100 if elastic else 3,  # type: ignore[call-arg]
                    max_preemption_failures=100,
                ),
                callbacks=list(callbacks),
            ),
            torch_config=TorchConfig(timeout_s=600),
        ).fit()

    for left in reversed(range(failures + 1)):
        try:
            launch()
            break
        except SystemExit:  # Ray Train's answer to an interrupt: it aborts the workers and would end with 0
            raise KeyboardInterrupt from None
        except ray.train.TrainingFailedError as error:
            # Workers that died Ray has started anew so often itself. It gives up at once on a node that is lost while they
            # start, which is no fault of theirs: the run folder says where to go on.
            if not left or isinstance(error, ray.train.WorkerGroupError):
                raise RuntimeError(f"training on Ray failed after {failures} new starts: {error}") from error
            log(f"the workers could not start; trying again from the last checkpoint ({left} tries left)")
    shutil.rmtree(scratch, ignore_errors=True)


def _environment() -> None:
    # Read when Ray Train's controller starts: a reported epoch is known within half a second, a lost rank ends the wait.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", "600")


def _worker(given: dict[str, Any]) -> None:
    """What each Ray Train worker runs: the engine, over the run's own plan and config."""
    import torch

    from cxr_ray.on_ray.context import TrainContext
    from cxr_ray.runtime import distributed
    from cxr_ray.training import trainer

    # Ray logs every report whole on every rank; the epoch's lines say it once.
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    torch.set_num_threads(given["threads"])
    run = runs.load(given["run"])
    config = run.config
    registry.load_plugins(config.plugins)
    if run.info.get("error"):  # of one worker, which ended the others with it: a new start would find it again
        return
    try:
        place, cache = run.info["store"]["path"], config.data.cache
        store = distributed.all_or_none(lambda: stores.open(place, verify="none", cache=cache, log=run.log))
        trainer.fit(config, runs.plan_of(run, store), store, TrainContext(run), run)
    except OutOfMemory as error:
        run.update(status="failed", error=str(error))
        if config.train.workers > 1:  # the others wait for this one in the middle of a step
            raise
    except UserError as error:
        # A mistake is the same on every rank and at every new start: say it once and end, rather than fail and retry.
        run.update(status="failed", error=str(error))


@contextmanager
def _read_out(run: runs.Run, log: Callable[[str], None]) -> Iterator[None]:
    """Say each new line of the run's log as the workers write it."""
    file = run.path / "log.txt"
    start = file.stat().st_size if file.exists() else 0

    def follow(ended: threading.Event) -> None:
        at = start
        while True:
            last = ended.is_set()  # asked before reading, so that the last read misses nothing
            if file.exists():
                with file.open("rb") as handle:
                    handle.seek(at)
                    lines = handle.read().split(b"\n")
                    for line in lines[:-1]:
                        log(line.decode("utf-8"))
                        at += len(line) + 1
            if last:
                return
            ended.wait(0.3)

    with background(follow, name="cxr-log"):
        yield
