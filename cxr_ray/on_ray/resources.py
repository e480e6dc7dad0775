"""What workers and trials take of the cluster, and how many fit: impossible is an error, not a wait. It asks Ray for nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cxr_ray import config as cfg
from cxr_ray.errors import UserError, unknown

Resources = Mapping[str, float]
"""Ray's names of resources and how much of each, such as {"CPU": 1}."""


@dataclass(frozen=True)
class Room:
    """What a trial takes of the cluster."""

    workers: int
    each: Resources
    """What a worker takes."""
    slots: int
    """Workers that the cluster holds."""

    @classmethod
    def of(cls, config: cfg.Config, nodes: Sequence[Resources]) -> "Room":
        """The room of `config`'s trials on the cluster's `nodes`. Raises `UserError` where it could never hold one."""
        train, share = config.train, config.tune.trial_gpus
        each = dict(train.resources_per_worker)
        there = total("GPU", nodes)
        if share is not None and train.workers > 1:
            raise UserError("tune.trial_gpus shares a GPU between trials of one worker: set train.workers to 1")
        if share is not None and train.gpu is False:
            raise UserError(
                "tune.trial_gpus takes a part of a GPU, and train.gpu: false wants none; leave one of them out"
            )
        if share is not None and share > there:
            raise UserError(
                f"tune.trial_gpus: {share:g}, and the cluster has {there:g} GPUs; set it to null, or start a node with one"
            )
        wanted = use_gpus(train.gpu, train.workers, there)
        gpus = share if share is not None else each.get("GPU", 1.0) if wanted else 0.0
        each = {"CPU": 1.0, **each, "GPU": gpus}
        taken = {name: size for name, size in each.items() if size > 0 or name == "CPU"}
        return cls(train.workers, taken, check_room(taken, train.workers, nodes))

    @property
    def gpus(self) -> float:
        """GPUs of a worker."""
        return self.each.get("GPU", 0.0)

    def at_once(self, asked: int | str) -> int:
        """How many trials fit side by side, at most `asked`: a trial that waited for room that another holds would never end."""
        fits = max(1, self.slots // self.workers)
        return fits if asked == "auto" else min(int(asked), fits)

    def bundles(self) -> list[dict[str, float]]:
        """Of the trial's own process: its one worker's, or, where Ray Train places the workers, next to nothing."""
        return [dict(self.each)] if self.workers == 1 else [{"node:__internal_head__": 0.0001}]

    def said(self) -> str:
        """In words."""
        return in_words(self.each) if self.workers == 1 else f"{self.workers} workers of {in_words(self.each)}"


def use_gpus(wanted: bool | str, workers: int, gpus: float) -> bool:
    """Whether `workers` take a GPU each of a cluster's `gpus`, for `train.gpu`."""
    return gpus >= workers if wanted == "auto" else bool(wanted)


def check_room(each: Resources, workers: int, nodes: Sequence[Resources]) -> int:
    """How many workers that take `each` the nodes hold. Raises `UserError` where these are fewer than `workers`."""
    known = sorted({name for node in nodes for name in node if not name.startswith("node:")})
    for name, size in each.items():
        if name not in known and name not in ("CPU", "GPU"):
            raise unknown("resource", name, known, where=" in train.resources_per_worker")
        if size * workers > total(name, nodes):
            raise UserError(
                f"{workers} workers want {size * workers:g} {name}, and the cluster has {total(name, nodes):g}; "
                "lower train.workers or train.resources_per_worker, or start more nodes"
            )
    slots = sum(_fit(each, node) for node in nodes)
    if slots < workers:
        raise UserError(
            f"a worker of {in_words(each)} lies on one node, and the cluster's {len(nodes)} nodes hold {slots} of the {workers} "
            "that are asked for; lower train.workers or train.resources_per_worker, or start larger nodes"
        )
    return slots


def total(name: str, nodes: Sequence[Resources]) -> float:
    """What the nodes have of a resource together."""
    return sum(node.get(name, 0.0) for node in nodes)


def in_words(each: Resources) -> str:
    """Resources as a person says them."""
    return " and ".join(f"{size:g} {name}" for name, size in each.items())


def _fit(each: Resources, node: Resources) -> int:
    """How many workers fit a node."""
    fits = []
    for name, size in each.items():
        there = node.get(name, 0.0)
        if size <= 0:
            continue
        # Ray gives a part of a GPU from one of them: two workers of 0.6 want two GPUs.
        parts = int(there) * int(1 / size + 1e-6) if name == "GPU" and size < 1 else int(there / size + 1e-6)
        fits.append(parts)
    return min(fits, default=10**6)
