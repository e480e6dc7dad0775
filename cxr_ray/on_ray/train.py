"""`train`: in this process, or on Ray Train's workers. Both use the loop of training/trainer.py and the same plan."""

import os
import shlex
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from cxr_ray import config as cfg
from cxr_ray import registry, runs
from cxr_ray.data import store as stores
from cxr_ray.data.plan import Plan
from cxr_ray.errors import Interrupted, Stopped, UserError
from cxr_ray.on_ray.launch import set_ray_defaults, train_on_workers
from cxr_ray.on_ray.resources import WorkerResources, cluster_total
from cxr_ray.runs import events
from cxr_ray.runtime import signals
from cxr_ray.runtime.threads import background
from cxr_ray.storage.lease import Lease
from cxr_ray.training import checkpoint as checkpoints
from cxr_ray.training.epoch_bar import epoch_bar
from cxr_ray.training.local import in_process
from cxr_ray.training.setup import end_of, open_run, prepare


def train(
    config: cfg.Config,
    *,
    address: str | None = None,
    wait: float | None = None,
    log: Callable[[str], None] = print,
) -> runs.Run:
    """Train a model by `config` and return the finished run.

    One worker without an address trains in this process. Otherwise Ray Train is used: on the cluster at `address`, else the one
    in RAY_ADDRESS (inside a Ray job: its own), else a local Ray instance. If the cluster has no room now, wait for it as long as
    `on_ray.room.wait_limit` of `wait` minutes says. Raises `UserError` for what the user can fix, if possible before any worker
    starts, `Stopped` if a stop was requested, and `Interrupted` after the first Ctrl-C."""
    registry.load_plugins(config.plugins)
    said = events.Said(log)
    if config.tune != cfg.Tune():
        said("note: the tune section is ignored: train uses the values of the other sections; `cxr-ray tune` searches")
    store, plan, config = prepare(config.model_copy(update={"tune": cfg.Tune()}), log=said)
    train = config.train
    if train.workers == 1 and address is None and "RAY_ADDRESS" not in os.environ:
        from cxr_ray.training import trainer

        run = open_run(config, store, plan)
        with _recorded(run, plan, said, log) as interrupt, in_process(run.config, run, log) as context:
            trainer.fit(run.config, plan, store, context, run)
        return _finished(run, store, interrupt, log)
    from cxr_ray.on_ray import cluster, head, noise, preflight, room

    set_ray_defaults()
    with cluster.room_for(address, train.workers) as found:
        resources = WorkerResources.of(train, found)  # before there is a run folder
        if not found.is_local:
            needs = preflight.Needs(store.origin, config.output, config.plugins, config.data.cache)
            for warning in preflight.check_cluster(needs, resources.bundle):
                said(f"warning: {warning}")
        run = open_run(config, store, plan)
        cores = int(cluster_total("CPU", found.nodes)) if found.is_local else None
        with (
            _recorded(run, plan, said, log) as interrupt,
            noise.into(run.path / "ray.log"),
            head.notified(run, say=partial(run.tell, "head"), save=run.request_stop),
            cluster.session(address, num_cpus=cores, dashboard=True),
            _forward_log(run, log),
        ):
            minutes = room.wait_limit(wait)
            train_on_workers(run, resources, max_failures=train.max_failures, wait_minutes=minutes)
        return _finished(run, store, interrupt, log)


@contextmanager
def _recorded(run: runs.Run, plan: Plan, said: events.Said, log: Callable[[str], None]) -> Iterator[signals.Interrupt]:
    """Within it, the run is trained: say what it is, hold its lease, stop it on SIGTERM and Ctrl-C, and record that it started and how
    it ended. `log` gets what is said while it trains."""
    message = f"interrupted: the training writes a checkpoint and ends; {signals.AT_ONCE}"
    with Lease(run.path) as lease, epoch_bar(run):
        said.keep_in(run.path)
        said(f"run: {run.path}")
        said(f"plan: {plan.summary()}; labels: {', '.join(plan.labels)}")
        for warning in plan.warnings:
            said(f"warning: {warning}")
        (run.path / "stop").unlink(missing_ok=True)
        run.update(status="started", error=None)
        events.record(run.path, "started")
        try:
            with signals.on_stop(run.request_stop, log=log, message=message, at_once=lambda: lease.lost) as interrupt:
                yield interrupt
        except BaseException as error:
            if lease.lost:  # the folder belongs to another process
                raise
            status, why = end_of(error)
            run.update(status=status, error=why if status == "failed" else None)
            events.record(run.path, status, why)
            if status == "interrupted":
                where = shlex.quote(str(run.path))
                said(
                    f"interrupted: `cxr-ray train --resume {where}`, or cxr_ray.resume in Python, continues from the last checkpoint"
                )
            if isinstance(error, Stopped) and interrupt.requested:
                raise Interrupted(str(error)) from None
            raise
        info = run.info
        events.record(run.path, info["status"], info.get("error") or "")


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
