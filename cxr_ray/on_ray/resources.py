"""Resources of workers and trials, and how many fit on the cluster: what can never fit is an error, not a wait. It does not call
Ray, so it is asked before Ray starts anything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cxr_ray import config as cfg
from cxr_ray.errors import UserError, unknown
from cxr_ray.runtime import machine

Resources = Mapping[str, float]
"""Amounts by Ray's resource names, such as {"CPU": 1}."""
LOCAL = "node:this machine"
"""In the resources of a node: it is this machine, and no cluster."""


@dataclass(frozen=True)
class TrialResources:
    """What one trial of a sweep needs, and how many of its workers the cluster can run."""

    workers: int
    """Workers of one trial."""
    per_worker: Resources
    cluster_workers: int
    """Workers that the cluster can run at the same time."""

    @classmethod
    def of(cls, config: cfg.Config, nodes: Sequence[Resources]) -> "TrialResources":
        """The resources of `config`'s trials on the cluster's `nodes`. Raises `UserError` if not even one trial fits."""
        train, share = config.train, config.tune.trial_gpus
        requested = dict(train.resources_per_worker)
        available_gpus = cluster_total("GPU", nodes)
        if share is not None and train.workers > 1:
            raise UserError("tune.trial_gpus shares a GPU between trials of one worker: set train.workers to 1")
        if share is not None and train.gpu is False:
            raise UserError("tune.trial_gpus asks for part of a GPU, but train.gpu is false; leave one of them out")
        if share is not None and share > available_gpus:
            raise UserError(
                f"tune.trial_gpus is {share:g}, but the cluster has {available_gpus:g} GPUs; set it to null, or start a node with a GPU"
            )
        with_gpu = use_gpus(train.gpu, train.workers, available_gpus)
        gpus = share if share is not None else requested.get("GPU", 1.0) if with_gpu else 0.0
        requested = {"CPU": 1.0, **requested, "GPU": gpus}
        per_worker = {name: amount for name, amount in requested.items() if amount > 0 or name == "CPU"}
        return cls(train.workers, per_worker, check_capacity(per_worker, train.workers, nodes))

    @property
    def gpus(self) -> float:
        """GPUs of a worker."""
        return self.per_worker.get("GPU", 0.0)

    def max_concurrent(self, limit: int | str) -> int:
        """How many trials run at once, at most `limit` ("auto": no limit). Starting more could deadlock: trials would wait for
        resources that other waiting trials hold."""
        fit = max(1, self.cluster_workers // self.workers)
        return fit if limit == "auto" else min(int(limit), fit)

    def bundles(self) -> list[dict[str, float]]:
        """Placement of the trial's own process: with one worker the worker's resources, else almost none, since Ray Train places the
        workers."""
        return [dict(self.per_worker)] if self.workers == 1 else [{"node:__internal_head__": 0.0001}]

    def __str__(self) -> str:
        each = format_resources(self.per_worker)
        return each if self.workers == 1 else f"{self.workers} workers with {each} each"


@dataclass(frozen=True)
class WorkerResources:
    """What each worker of one training gets."""

    per_worker: dict[str, float]
    use_gpu: bool

    @classmethod
    def of(cls, train: cfg.Train, nodes: Sequence[Resources], *, share_cpus: bool = False) -> "WorkerResources":
        """The resources of `train` on `nodes`. With `share_cpus` the workers share all CPUs; else each has one, unless
        `train.resources_per_worker` says more. Raises `UserError` if the workers do not fit."""
        fewest = train.min_workers or train.workers
        each = 1 if not share_cpus else max(1, int(cluster_total("CPU", nodes)) // train.workers)
        resources = {"CPU": float(each), **train.resources_per_worker}
        use_gpu = use_gpus(train.gpu, fewest, cluster_total("GPU", nodes))
        check_capacity({**resources, "GPU": resources.get("GPU", 1)} if use_gpu else resources, fewest, nodes)
        return cls(resources, use_gpu)


def this_machine(workers: int, *, gpus: int = 0) -> dict[str, float]:
    """What a Ray that is started on this machine has, as its only node: all cores, and `gpus`. Two workers may share one core, so
    that a training on several can be tried anywhere."""
    return {"CPU": float(max(machine.cores(), min(workers, 2))), "GPU": float(gpus), LOCAL: 1.0}


def check_cores(cores: int | None) -> None:
    """Raises `UserError` if a command asks for more `cores` than this machine has."""
    if cores is not None and cores > machine.cores():
        raise UserError(
            f"{cores} cores are asked for, but this machine has {machine.cores()}; lower --cpus, or leave it out"
        )


def use_gpus(wanted: bool | str, workers: int, gpus: float) -> bool:
    """Whether each of `workers` gets one of a cluster's `gpus`; `wanted` is `train.gpu`."""
    return gpus >= workers if wanted == "auto" else bool(wanted)


def check_capacity(per_worker: Resources, workers: int, nodes: Sequence[Resources]) -> int:
    """How many workers that need `per_worker` the nodes can run. Raises `UserError` if that is less than `workers`."""
    known = sorted({name for node in nodes for name in node if not name.startswith("node:")})
    is_local = any(LOCAL in node for node in nodes)
    here, more = ("this machine", "") if is_local else ("the cluster", ", or start more nodes")
    for name, amount in per_worker.items():
        if name not in known and name not in ("CPU", "GPU"):
            raise unknown("resource", name, known, where=" in train.resources_per_worker")
        if amount * workers > cluster_total(name, nodes):
            raise UserError(
                f"{workers} workers need {format_resources({name: amount * workers})}, but {here} has "
                f"{cluster_total(name, nodes):g}; lower train.workers or train.resources_per_worker{more}"
            )
    fit = sum(_workers_on_node(per_worker, node) for node in nodes)
    if fit < workers:
        each = format_resources(per_worker)
        problem = (
            f"the cluster's {len(nodes)} nodes have room for {fit} of {workers} workers with {each}"
            if fit
            else f"none of the cluster's {len(nodes)} nodes has {each}"
        )
        raise UserError(
            f"{problem}: each worker must fit on one node; lower train.workers or train.resources_per_worker, or start larger nodes"
        )
    return fit


def cluster_total(name: str, nodes: Sequence[Resources]) -> float:
    """Amount of a resource on all nodes together."""
    return sum(node.get(name, 0.0) for node in nodes)


def format_resources(resources: Resources) -> str:
    """Resources as text: `2 CPUs and 1 GPU`."""
    return " and ".join(
        f"{amount:g} {name}{'s' if name in ('CPU', 'GPU') and amount > 1 else ''}" for name, amount in resources.items()
    )


def _workers_on_node(per_worker: Resources, node: Resources) -> int:
    fits = []
    for name, amount in per_worker.items():
        available = node.get(name, 0.0)
        if amount <= 0:
            continue
        # Ray takes a fraction of a GPU from a single GPU: two workers of 0.6 need two GPUs.
        fraction = name == "GPU" and amount < 1
        fits.append(int(available) * int(1 / amount + 1e-6) if fraction else int(available / amount + 1e-6))
    return min(fits, default=10**6)
