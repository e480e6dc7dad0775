"""The engine's `Context` inside a Ray Train worker."""

from collections.abc import Mapping
from pathlib import Path

import ray.train
import ray.train.torch
import torch

from cxr_ray.runs import Run


class TrainContext:
    """Rank, world and device as Ray Train says; progress goes to the run's log, which the driver reads out."""

    def __init__(self, run: Run) -> None:
        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.world: int = context.get_world_size()
        self.device: torch.device = ray.train.torch.get_device()
        self._run = run

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        # Ray gets the metrics alone: checkpoints belong to the run folder, where they are written whole.
        ray.train.report(dict(metrics))

    def restore(self) -> Path | None:
        return None

    def should_stop(self) -> bool:
        return False

    def say(self, line: str) -> None:
        self._run.log(line)
