"""The engine's `Context` inside a Ray Train worker."""

import math
import time
from collections.abc import Mapping
from pathlib import Path

import ray.train
import ray.train.torch
import torch

from cxr_ray.runs import Run

SAVES_APART_S = 20.0
"""Between checkpoints while a node is about to be taken."""
FEW_APART_S = 50.0
"""Between checkpoints while there are fewer workers than wanted: Ray looks once a minute for a node that has come, and ends the
workers without a word to start more."""


class TrainContext:
    """Rank, world and device as Ray Train says; progress goes to the run's log, which the driver reads out."""

    def __init__(self, run: Run) -> None:
        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.world: int = context.get_world_size()
        self.device: torch.device = ray.train.torch.get_device()
        self._run = run
        self._apart_s = FEW_APART_S if self.world < run.config.train.workers else math.inf
        self._leaving, self._saved = False, time.monotonic()

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        # Ray gets the metrics alone: checkpoints belong to the run folder, where they are written whole.
        ray.train.report(dict(metrics))

    def restore(self) -> Path | None:
        return None

    def should_stop(self) -> bool:
        return self._run.asked_to_stop

    def should_save(self) -> bool:
        # A node that will be taken: Ray says so minutes or seconds ahead, and goes on with other workers afterwards.
        leaving, now = ray.train.get_preemption_info() is not None, time.monotonic()
        if leaving == self._leaving and now - self._saved < (SAVES_APART_S if leaving else self._apart_s):
            return False
        self._leaving, self._saved = leaving, now
        return True

    def log(self, line: str) -> None:
        self._run.log(line)
