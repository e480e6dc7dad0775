"""Resources of workers and trials, and how many fit on the cluster: what can never fit is an error, not a wait. It does not call
Ray, so it is asked before Ray starts anything. The wait itself: room.py."""

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
class NodeType:
    """A kind of node that the cluster's autoscaler may start."""

    resources: Resources
    more: int
    """How many of it may be started, in addition to those that live."""


@dataclass(frozen=True)
class Room:
    """What a cluster has, what of it is free, and what its autoscaler may start."""

    nodes: Sequence[Resources]
    """All resources of each live node."""
    free: Sequence[Resources] = ()
    """What is free on each of them."""
    types: Sequence[NodeType] = ()
    more: int = 0
    """How many nodes of all types together may be started."""
    starting: int = 0
    """Nodes that are being started now."""
    is_open: bool = False
    """Whether there is an autoscaler whose node types cannot be read: then nothing is known to be impossible."""

    def possible(self, bundle: Resources) -> list[Resources]:
        """The live nodes and those that may be started: of the types, those on which most `bundle`s fit."""
        best = sorted(self.types, key=lambda kind: workers_on_node(bundle, kind.resources), reverse=True)
        further = [kind.resources for kind in best for _ in range(min(kind.more, self.more))]
        return [*self.nodes, *further[: self.more]]

    def free_for(self, bundle: Resources) -> int:
        """How many `bundle`s fit on what is free."""
        return sum(workers_on_node(bundle, node) for node in self.free)

    def needs_nodes(self, bundle: Resources, count: int) -> bool:
        """Whether the autoscaler has to start nodes before `count` bundles fit: those that live are too few, even when free."""
        here = sum(workers_on_node(bundle, node) for node in self.nodes)
        return here < count and (self.is_open or len(self.possible(bundle)) > len(self.nodes))

    def total(self, name: str) -> float:
        """Amount of a resource on all nodes, with those that may be started."""
        return cluster_total(name, self.possible({name: 1.0}))

    @property
    def is_local(self) -> bool:
        """Whether it is this machine, and no cluster."""
        return any(LOCAL in node for node in self.nodes)


@dataclass(frozen=True)
class TrialResources:
    """What one trial of a sweep needs, and how many of its workers the cluster can run."""

    workers: int
    """Workers of one trial."""
    per_worker: Resources
    cluster_workers: int
    """Workers that the cluster can run at the same time, once all its nodes are free and started."""

    @classmethod
    def of(cls, config: cfg.Config, room: Room) -> "TrialResources":
        """The resources of `config`'s trials on a cluster. Raises `UserError` if not even one trial can ever fit."""
        train, share = config.train, config.tune.trial_gpus
        requested = dict(train.resources_per_worker)
        available_gpus = room.total("GPU")
        if share is not None and train.workers > 1:
            raise UserError("tune.trial_gpus shares a GPU between trials of one worker: set train.workers to 1")
        if share is not None and train.gpu is False:
            raise UserError("tune.trial_gpus asks for part of a GPU, but train.gpu is false; leave one of them out")
        if share is not None and share > available_gpus and not room.is_open:
            raise UserError(
                f"tune.trial_gpus is {share:g}, but the cluster has {available_gpus:g} GPUs; set it to null, or start a node with a GPU"
            )
        with_gpu = use_gpus(train.gpu, train.workers, available_gpus)
        gpus = share if share is not None else requested.get("GPU", 1.0) if with_gpu else 0.0
        requested = {"CPU": 1.0, **requested, "GPU": gpus}
        per_worker = {name: amount for name, amount in requested.items() if amount > 0 or name == "CPU"}
        return cls(train.workers, per_worker, check_capacity(per_worker, train.workers, room))

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
    def of(cls, train: cfg.Train, room: Room) -> "WorkerResources":
        """The resources of `train` on a cluster or on this machine, whose CPUs the workers share; on a cluster each has one, unless
        `train.resources_per_worker` says more. Raises `UserError` if the workers can never fit."""
        fewest = train.min_workers or train.workers
        each = 1 if not room.is_local else max(1, int(cluster_total("CPU", room.nodes)) // train.workers)
        resources = {"CPU": float(each), **train.resources_per_worker}
        made = cls(resources, use_gpus(train.gpu, fewest, room.total("GPU")))
        check_capacity(made.bundle, fewest, room)
        return made

    @property
    def bundle(self) -> dict[str, float]:
        """All that a worker takes, its GPU included."""
        return {**self.per_worker, "GPU": self.per_worker.get("GPU", 1.0)} if self.use_gpu else dict(self.per_worker)


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


def check_capacity(per_worker: Resources, workers: int, room: Room) -> int:
    """How many workers that need `per_worker` the cluster can run, once its nodes are free and its autoscaler has started all that it
    may. Raises `UserError` if that is less than `workers`."""
    nodes = room.possible(per_worker)
    fit = sum(workers_on_node(per_worker, node) for node in nodes)
    if room.is_open:
        return max(fit, workers)
    known = sorted({name for node in nodes for name in node if not name.startswith("node:")})
    here, more = ("this machine", "") if room.is_local else ("the cluster", ", or start more nodes")
    if len(nodes) > len(room.nodes):
        here, more = "the cluster, with all nodes that its autoscaler may start,", ", or let the autoscaler start more"
    for name, amount in per_worker.items():
        if name not in known and name not in ("CPU", "GPU"):
            raise unknown("resource", name, known, where=" in train.resources_per_worker")
        if amount * workers > cluster_total(name, nodes):
            raise UserError(
                f"{workers} workers need {format_resources({name: amount * workers})}, but {here} has "
                f"{cluster_total(name, nodes):g}; lower train.workers or train.resources_per_worker{more}"
            )
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


def workers_on_node(per_worker: Resources, node: Resources) -> int:
    """How many workers that need `per_worker` a node can run."""
    fits = []
    for name, amount in per_worker.items():
        available = node.get(name, 0.0)
        if amount <= 0:
            continue
        # Ray takes a fraction of a GPU from a single GPU: two workers of 0.6 need two GPUs.
        fraction = name == "GPU" and amount < 1
        fits.append(int(available) * int(1 / amount + 1e-6) if fraction else int(available / amount + 1e-6))
    return min(fits, default=10**6)
