"""`train`: in this process, or on Ray Train's workers. Both run the same engine over the same plan."""

import logging
import os
import shlex
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from cxr_ray import config as cfg
from cxr_ray import labels as label_space
from cxr_ray import leaks, registry, runs, shards, trackers
from cxr_ray import plan as plans
from cxr_ray.errors import OutOfMemory, Stopped, UserError
from cxr_ray.lease import Lease
from cxr_ray.on_ray import sigterm
from cxr_ray.on_ray.beside import beside
from cxr_ray.on_ray.room import check_room, total, use_gpus


def train(config: cfg.Config, *, address: str | None = None, say: Callable[[str], None] = print) -> runs.Run:
    """Train as `config` says and return the finished run.

    One worker without an address trains in this process; otherwise on Ray Train, on the cluster at `address` or the one
    that RAY_ADDRESS names (inside a Ray job: its own), else on a Ray of this machine alone. Raises `UserError` for what the user can mend, before any
    worker starts where that can be known."""
    registry.load_plugins(config.plugins)
    store, plan, config = prepare(config.model_copy(update={"tune": cfg.Tune()}), say=say)
    run = open_run(config, store, plan)
    config = run.config
    say(f"run: {run.path}")
    say(f"plan: {plan.summary()}; labels: {', '.join(plan.labels)}")
    for warning in plan.warnings:
        say(f"warning: {warning}")
    alone = config.train.workers == 1 and address is None and "RAY_ADDRESS" not in os.environ
    with Lease(run.path):
        (run.path / "stop").unlink(missing_ok=True)
        run.update(status="started", error=None)
        try:
            _here(config, plan, store, run, say) if alone else _on_workers(config, run, address, say)
        except KeyboardInterrupt:
            say(f"interrupted: the same command with --name {run.path.name} goes on after the last checkpoint")
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


def open_run(config: cfg.Config, store: shards.Store, plan: plans.Plan, **about: Any) -> runs.Run:
    """The run folder of a settled config: new, or the unfinished one to go on with; `about` are further entries of run.json."""
    return runs.create(
        config,
        store=identity(store),
        plan=plan.table(),
        about={
            "labels": list(plan.labels),
            "task": plan.task,
            "groups": plan.groups,
            "warnings": list(plan.warnings),
            "dropped": plan.dropped,
            "prevalence": runs.prevalence(store, plan),
            **about,
        },
    )


def identity(store: shards.Store) -> dict[str, Any]:
    """What a run keeps of its store."""
    return {
        "path": store.origin,
        "fingerprint": store.fingerprint,
        "source": store.manifest.source,
        "rows": len(store),
        "notes": list(store.manifest.notes),
        "groups": {name: list(labels) for name, labels in store.groups.items()},
    }


def prepare(
    config: cfg.Config, *, say: Callable[[str], None] | None = None
) -> tuple[shards.Store, plans.Plan, cfg.Config]:
    """The store, the plan and the settled config; every name is resolved here, so that no worker starts on a typo."""
    trackers.check(config.report.trackers)
    if config.seeds > 1:
        raise UserError(
            "seeds is for `cxr-ray train`, which trains one after the other: here set seed (in a sweep tune.space.seed: "
            "{choice: [0, 1, 2]}), and leave seeds at 1"
        )
    if config.data.shards is None:
        raise UserError("data.shards is not set: give the folder that `cxr-ray ingest` wrote, as --data.shards FOLDER")
    store = shards.open(config.data.shards, verify=config.data.verify, cache=config.data.cache, say=say)
    plan = plans.build(store, config.data, seed=config.seed, pos_weight_power=config.loss.pos_weight_power)
    plan = replace(plan, warnings=(*plan.warnings, *_near_duplicates(store, plan, config.data.split.near_duplicates)))
    config = _settle_paths(config.for_task(plan.task), store)
    check(config, plan, store)
    return store, plan, config


def check(config: cfg.Config, plan: plans.Plan, store: shards.Store) -> None:
    """Resolve every name of a config and build its model and loss once. Raises `UserError`."""
    if config.report.labels != "all":
        label_space.resolve(config.report.labels, plan.labels, plan.groups)

    from cxr_ray import losses, metrics, models

    metrics.parse(config.train.monitor, labels=plan.labels, task=plan.task)
    limits = metrics.operating.spread(config.report.thresholds, plan.labels, plan.groups)
    metrics.operating.parse(limits, plan.labels, task=plan.task)
    whole, mixed = config.train.micro_batch is None, config.augment.mixup > 0.0
    losses.build(config.loss, task=plan.task, weight_L=plan.pos_weight, whole=whole, mixed=mixed)
    size = config.data.image_size or store.size
    models.check_size(size, store.size)  # before the model is built: the image's size is what the user chose
    models.build(config.model, outputs=len(plan.labels), image_size=size, mean=0.0, deviation=1.0)


def _near_duplicates(store: shards.Store, plan: plans.Plan, distance: int | None) -> list[str]:
    """A warning of pictures in two parts that look like one; here and not in the plan, which touches no image."""
    if distance is None:
        return []
    found = leaks.near(store.index, plan.rows, distance=distance, images=store.pictures)
    if found.empty:
        return []
    pairs = "pair of pictures stands" if len(found) == 1 else "pairs of pictures stand"
    return [
        f"{len(found):,} {pairs} in two parts and look like one picture ({leaks.told(found)}): a copy, or one person under "
        "two names; look at them with `cxr-ray describe SHARDS --row N`"
    ]


def _settle_paths(config: cfg.Config, store: shards.Store) -> cfg.Config:
    """Paths made absolute: workers, and a repeat from the run's own config, may stand in another folder."""
    weights = config.model.weights
    if weights not in ("none", "imagenet"):
        weights = str(Path(weights).absolute())
    cache = config.data.cache
    if cache not in ("auto", "none"):
        cache = str(Path(cache).absolute())
    return config.model_copy(
        update={
            "data": config.data.model_copy(update={"shards": store.origin, "cache": cache}),
            "model": config.model.model_copy(update={"weights": weights}),
        }
    )


def _here(config: cfg.Config, plan: plans.Plan, store: shards.Store, run: runs.Run, say: Callable[[str], None]) -> None:
    import torch

    from cxr_ray import engine
    from cxr_ray.context import LocalContext, pick_device

    if config.train.threads:
        torch.set_num_threads(config.train.threads)

    class Here(LocalContext):
        def say(self, line: str) -> None:
            run.log(line)
            say(line)

        def should_stop(self) -> bool:
            return run.asked_to_stop

    with sigterm.answered(run.ask_to_stop):
        engine.fit(config, plan, store, Here(device=pick_device(config.train.gpu)), run)


def _on_workers(config: cfg.Config, run: runs.Run, address: str | None, say: Callable[[str], None]) -> None:
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
        with _read_out(run, say), sigterm.answered(run.ask_to_stop):
            on_workers(run, resources, use_gpu=use_gpu, failures=config.train.max_failures, say=say)


def on_workers(
    run: runs.Run,
    resources: dict[str, float],
    *,
    use_gpu: bool,
    failures: int,
    callbacks: Sequence[Any] = (),
    say: Callable[[str], None],
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
            say(f"the workers could not start; trying again from the last checkpoint ({left} tries left)")
    shutil.rmtree(scratch, ignore_errors=True)


def _environment() -> None:
    # Read when Ray Train's controller starts: a reported epoch is known within half a second, a lost rank ends the wait.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", "600")


def _worker(given: dict[str, Any]) -> None:
    """What each Ray Train worker runs: the engine, over the run's own plan and config."""
    import torch

    from cxr_ray import distributed, engine
    from cxr_ray.on_ray.context import TrainContext

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
        store = distributed.all_or_none(lambda: shards.open(place, verify="none", cache=cache, say=run.log))
        engine.fit(config, runs.plan_of(run, store), store, TrainContext(run), run)
    except OutOfMemory as error:
        run.update(status="failed", error=str(error))
        if config.train.workers > 1:  # the others wait for this one in the middle of a step
            raise
    except UserError as error:
        # A mistake is the same on every rank and at every new start: say it once and end, rather than fail and retry.
        run.update(status="failed", error=str(error))


@contextmanager
def _read_out(run: runs.Run, say: Callable[[str], None]) -> Iterator[None]:
    """Say each new line of the run's log as the workers write it."""
    log = run.path / "log.txt"
    start = log.stat().st_size if log.exists() else 0

    def follow(ended: threading.Event) -> None:
        at = start
        while True:
            last = ended.is_set()  # asked before reading, so that the last read misses nothing
            if log.exists():
                with log.open("rb") as handle:
                    handle.seek(at)
                    lines = handle.read().split(b"\n")
                    for line in lines[:-1]:
                        say(line.decode("utf-8"))
                        at += len(line) + 1
            if last:
                return
            ended.wait(0.3)

    with beside(follow, name="cxr-log"):
        yield
