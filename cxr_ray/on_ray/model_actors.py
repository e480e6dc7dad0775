"""Actors of Ray Data that hold a model: what they need, where their Ray comes from, and how many there are. What they compute is in
explain.py and predict.py."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ray.data import ActorPoolStrategy

from cxr_ray.data import store as stores
from cxr_ray.errors import UserError
from cxr_ray.inference.loading import load_predictor
from cxr_ray.inference.predictor import Predictor
from cxr_ray.on_ray import cluster, data_context, room
from cxr_ray.runtime import machine
from cxr_ray.runtime.workers import Workers


@dataclass(frozen=True, kw_only=True)
class ModelJob:
    """What every actor needs, in plain values."""

    model: str
    """Folder of a run, or a file of weights, that every node sees."""
    store: str | None = None
    """Where the store is, as `Store.origin`; None for files."""
    cache: str = "auto"
    """As `data.cache`."""
    plugins: tuple[str, ...] = ()
    gpu: bool | str = "auto"
    threads: int = 1
    """CPU threads of an actor."""

    def predictor(self) -> Predictor:
        """The model, in the process of an actor, which has `threads` from now on."""
        import torch

        torch.set_num_threads(self.threads)
        return load_predictor(self.model, gpu=self.gpu, plugins=self.plugins)

    def open_store(self) -> stores.Store:
        assert self.store is not None
        return stores.open(self.store, verify="none", cache=self.cache)


@dataclass(frozen=True)
class ModelActors:
    """The actors of a job, once Ray runs."""

    job: ModelJob
    count: int
    on_gpu: bool

    def map(self, data: Any, actor: type, *, blocks: int, **batches: Any) -> Any:
        """`data`, which has so many `blocks`, mapped by instances of `actor`, which are made of the job. `batches`: batch_size and
        batch_format of Ray Data."""
        return data.map_batches(
            actor,
            fn_constructor_args=(self.job,),
            compute=ActorPoolStrategy(size=min(self.count, blocks)),
            num_cpus=1,
            num_gpus=1 if self.on_gpu else 0,
            **batches,
        )


@contextmanager
def started(job: ModelJob, workers: Workers, *, cpus_each: int = 1, **settings: Any) -> Iterator[ModelActors]:
    """Actors of Ray Data that keep the order of the blocks. Ray is started here with `cpus_each` CPUs for each of them, or used at the
    address of `workers`, where room for one is waited for. `settings` are of Ray Data's context.

    Raises `UserError` if there are too few CPUs."""
    if cluster.is_local(workers.address) and workers.number > machine.cores():
        raise UserError(
            f"{workers.number} workers are asked for, but this machine has {machine.cores()} cores; lower the workers"
        )
    own_cpus = max(cpus_each * workers.number, os.cpu_count() or 1)
    quiet = data_context.quiet(preserve_order=True, **settings)
    with cluster.session(workers.address, num_cpus=own_cpus) as is_own, quiet:
        on_gpu = room.uses_gpu(job.gpu)
        if not is_own:
            room.ensure({"CPU": 1.0, "GPU": float(on_gpu)}, 1, wait=workers.wait, log=print)
        yield ModelActors(job, workers.number, on_gpu)
