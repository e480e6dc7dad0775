"""Trains a run on Ray Train's workers, through lost workers, nodes and controllers, and through times without room."""

import logging
import os
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cxr_ray import registry, runs
from cxr_ray.data import store as stores
from cxr_ray.data import store_check
from cxr_ray.errors import OutOfMemory, Stopped, UserError
from cxr_ray.on_ray.resources import WorkerResources
from cxr_ray.runs import events
from cxr_ray.storage.lease import Lease


def train_on_workers(
    run: runs.Run,
    resources: WorkerResources,
    *,
    max_failures: int,
    callbacks: Sequence[Any] = (),
    wait_minutes: float | None = None,
) -> None:
    """Train the run on Ray Train's workers, in the current Ray session.

    After `max_failures` lost workers or controllers the training has failed. Lack of room is no failure: at the start and after a
    lost node it is waited for, at most `wait_minutes` each time (None: without an end). Raises `UserError` for what the user can fix,
    and `Stopped` for a stop before the workers started."""
    set_ray_defaults()
    from ray.exceptions import RayActorError
    from ray.train import TrainingFailedError, WorkerGroupError

    from cxr_ray.on_ray import launch_callback, room

    train = run.config.train
    fewest = most = train.workers
    fewest = train.min_workers or fewest
    left = max_failures
    while True:
        stop: Callable[[], bool] = lambda: run.stop_requested  # noqa: E731
        room.wait_for(
            resources.bundle, fewest, minutes=wait_minutes, log=partial(run.tell, "waiting"), should_stop=stop
        )
        earlier, groups = len(events.read(run.path)), room.groups_of_job()
        try:
            _launch(run, resources, (fewest, most), max_failures=left, callbacks=callbacks)
            break
        except (TrainingFailedError, RayActorError) as error:
            happened = [event["event"] for event in events.read(run.path)[earlier:]]
            left -= happened.count("lost")
            if run.info.get("error"):  # a worker has said what the user can fix
                return
            if run.stop_requested:
                raise Stopped("stopped before the workers had started; the same command continues") from None
            if launch_callback.is_for_room(error):
                # Ray counts what other jobs use as room for an elastic training: then start with what is free.
                most = train.workers if "workers" in happened else max(fewest, min(most, _free(resources)))
                continue
            if isinstance(error, WorkerGroupError) and launch_callback.lost_workers(error):
                raise _lost(run, launch_callback.what_failed(error), max_failures) from error
            if isinstance(error, WorkerGroupError) or not launch_callback.is_lost_at_start(error):
                raise RuntimeError(f"training on Ray failed: {error}") from error
            what = "Ray Train's controller" if isinstance(error, RayActorError) else "a worker that was starting"
            if left < 1:
                raise _lost(run, f"{what} was lost", max_failures) from error
            left -= 1
            room.remove(
                room.groups_of_job() - groups
            )  # Ray keeps what a lost controller has reserved until the job ends
            run.tell("restarting", f"{what} was lost: restarting from the last checkpoint ({left} restarts left)")
    shutil.rmtree(run.path / "ray", ignore_errors=True)


def _free(resources: WorkerResources) -> int:
    from cxr_ray.on_ray import room

    return room.now().free_for(resources.bundle)


def _lost(run: runs.Run, what: str, max_failures: int) -> UserError:
    where = shlex.quote(str(run.path))
    return UserError(
        f"{what}, after {max_failures} restarts (train.max_failures): `cxr-ray train --resume {where}` continues from the last "
        f"checkpoint; if it was killed for memory, lower train.batch_size or set train.micro_batch; Ray's own words: {run.path / 'ray.log'}"
    )


def _launch(
    run: runs.Run,
    resources: WorkerResources,
    workers: tuple[int, int],
    *,
    max_failures: int,
    callbacks: Sequence[Any],
) -> None:
    """One start of Ray Train with between so many `workers`. It raises Ray's errors."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from cxr_ray.on_ray.launch_callback import LaunchCallback
    from cxr_ray.on_ray.torch_backend import LoadingTorchConfig

    controllers: list[Any] = []

    class Trainer(TorchTrainer):
        def _register_sigint_handler(self, controller: Any) -> None:
            """Keep `signals.on_stop`: Ray's own handler aborts the workers before they have written a checkpoint."""
            controllers.append(controller)

    train, (fewest, most) = run.config.train, workers
    elastic = fewest < most
    threads = train.threads or max(1, int(resources.per_worker["CPU"]))
    # A new name per launch: Ray must not restore the state of an earlier one. Our state is in the run folder.
    trainer = Trainer(
        _train_worker,
        train_loop_config={"run": str(run.path), "threads": threads, "holder": Lease(run.path).holder},
        scaling_config=ScalingConfig(
            num_workers=workers if elastic else most,  # type: ignore[arg-type]
            use_gpu=resources.use_gpu,
            resources_per_worker=resources.per_worker,
        ),
        run_config=RunConfig(
            name=f"launch-{time.time_ns()}",
            storage_path=str(run.path / "ray"),
            failure_config=FailureConfig(
                max_failures=max_failures,
                # The driver waits for room, and says so. Elastic: Ray tries the old size first after a lost node.
                controller_failure_limit=3 if elastic else 0,  # type: ignore[call-arg]
                max_preemption_failures=100,
            ),
            callbacks=[LaunchCallback(run, max_failures), *callbacks],  # type: ignore[list-item]
        ),
        torch_config=LoadingTorchConfig(),  # type: ignore[arg-type]
    )
    try:
        trainer.fit()
    except KeyboardInterrupt:  # in a Ray that goes on, the workers would go on too
        for controller in controllers:
            ray.kill(controller)
        raise


def set_ray_defaults() -> None:
    """Set what Ray Train's controller reads from the environment when it starts."""
    from cxr_ray.on_ray.launch_callback import NO_ROOM_S

    # Reports arrive within half a second, ranks wait at most 600 s for a lost one, and a start without room ends soon.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", "600")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", f"{NO_ROOM_S:g}")


def open_on_node(run: runs.Run, *, local_rank: int) -> stores.Store:
    """The store as this node sees it; with `data.verify: full` the node's worker of `local_rank` 0 checks every byte first. Raises
    `UserError` that names the node, if there are several: its disk may be full."""
    import ray

    data = run.config.data
    try:
        store = stores.open(run.info["store"]["path"], verify="none", cache=data.cache, log=run.log)
    except UserError as error:
        if sum(node["Alive"] for node in ray.nodes()) == 1:
            raise
        raise UserError(f"on the node {ray.util.get_node_ip_address()}: {error}") from None
    if data.verify == "full" and local_rank == 0:
        store_check.ByteCheck(store).wait()
    return store


def _train_worker(loop_config: dict[str, Any]) -> None:
    """The function of each Ray Train worker: the training loop with the run's own plan and config."""
    import torch

    from cxr_ray.on_ray.context import TrainContext
    from cxr_ray.runtime import distributed
    from cxr_ray.training import trainer

    # Ray would log every report on every rank; the trainer's own epoch lines are enough.
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    torch.set_num_threads(loop_config["threads"])
    run = runs.Run(Path(loop_config["run"]))
    config = run.config
    registry.load_plugins(config.plugins)
    if run.info.get("error"):  # of a worker that ended all others: a restart would fail the same way
        return
    try:
        store = distributed.all_or_none(lambda: open_on_node(run, local_rank=int(os.environ.get("LOCAL_RANK", "0"))))
        trainer.fit(config, runs.plan_of(run, store), store, TrainContext(run, loop_config["holder"]), run)
    except OutOfMemory as error:
        run.update(status="failed", error=str(error))
        if config.train.workers > 1:  # the others wait for this rank in the middle of a step
            raise
    except UserError as error:
        # The user's error is the same on every rank and at every restart: report it once and end, rather than fail and retry.
        run.update(status="failed", error=str(error))
