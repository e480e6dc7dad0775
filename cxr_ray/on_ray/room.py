"""What a trial takes of the cluster, and how many fit side by side."""

from collections.abc import Mapping

from cxr_ray import config as cfg
from cxr_ray.errors import UserError
from cxr_ray.on_ray import train as training


class Room:
    """What a trial takes of the cluster."""

    def __init__(
        self, workers: int, cpus: float, gpus: float, other: Mapping[str, float], cluster: Mapping[str, float]
    ) -> None:
        self.workers, self.cpus, self.gpus, self.other, self._cluster = workers, cpus, gpus, dict(other), cluster

    @classmethod
    def of(cls, config: cfg.Config, resources: Mapping[str, float]) -> "Room":
        """The room of `config`'s trials. Raises `UserError` where the cluster could never hold one."""
        train = config.train
        each = dict(train.resources_per_worker)
        cpus, there = each.pop("CPU", 1.0), resources.get("GPU", 0.0)
        share = config.tune.trial_gpus
        if share is not None and train.workers > 1:
            raise UserError("tune.trial_gpus shares a GPU between trials of one worker: set train.workers to 1")
        if share is not None and share > there:
            raise UserError(
                f"tune.trial_gpus: {share:g}, and the cluster has {there:g} GPUs; set it to null, or start a node with one"
            )
        wanted = training.use_gpus(train.gpu, train.workers, there)
        gpus = share if share is not None else each.pop("GPU", 1.0) if wanted else 0.0
        each.pop("GPU", None)
        taken = {"CPU": cpus, **({"GPU": gpus} if gpus else {}), **each}
        training.check_room(taken, train.workers, dict(resources), bool(gpus))
        return cls(train.workers, cpus, gpus, each, resources)

    @property
    def each(self) -> dict[str, float]:
        """What a worker takes."""
        return {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {}), **self.other}

    def at_once(self, asked: int | str) -> int:
        """How many trials fit side by side, at most `asked`: a trial that waited for room that another holds would never end."""
        fits = min(
            int(self._cluster[name] / (each * self.workers) + 1e-6) for name, each in self.each.items() if each > 0
        )
        return max(1, fits if asked == "auto" else min(int(asked), fits))

    def bundles(self) -> list[dict[str, float]]:
        """Of the trial's own process: its one worker's, or, where Ray Train places the workers, next to nothing."""
        return [self.each] if self.workers == 1 else [{"node:__internal_head__": 0.0001}]

    def said(self) -> str:
        """In words."""
        one = " and ".join(f"{value:g} {name}" for name, value in self.each.items())
        return one if self.workers == 1 else f"{self.workers} workers of {one}"
