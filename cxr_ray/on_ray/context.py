"""The trainer's `Context` in a Ray Train worker. In a Tune trial: trial.py. Without Ray: runtime/context.py."""

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path

import ray.train
import ray.train.torch
import torch

from cxr_ray.runs import Run
from cxr_ray.runtime.progress import Progress
from cxr_ray.storage.lease import Lease

PREEMPTION_SAVE_S = 20.0
"""Seconds between checkpoints while a node is about to be preempted."""
SCALED_DOWN_SAVE_S = 50.0
"""Seconds between checkpoints while there are fewer workers than configured: Ray checks once a minute for new nodes, and ends the
workers without a warning to start more."""


class TrainContext:
    """Rank, world and device from Ray Train. Progress goes to the run's log, which the driver forwards.

    `holder` is who had the run's lease when the training was launched. Once another has it this process ends at once: workers whose head and
    driver are lost live on for a minute, while the same command may already train in the same folder on another cluster."""

    def __init__(self, run: Run, holder: str | None) -> None:
        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.world: int = context.get_world_size()
        self.device: torch.device = ray.train.torch.get_device()
        self._run, self._lease, self._holder = run, Lease(run.path), holder
        self._save_every_s = SCALED_DOWN_SAVE_S if self.world < run.config.train.workers else math.inf
        self._preempted, self._saved = False, time.monotonic()

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        # Ray gets only the metrics: checkpoints are written to the run folder, atomically.
        ray.train.report(dict(metrics))

    def restore(self) -> Path | None:
        return None

    def should_stop(self) -> bool:
        if self._lease.holder not in (self._holder, None):
            os._exit(1)
        return self._run.stop_requested

    def should_save(self) -> bool:
        # Ray announces the preemption of a node minutes or seconds before, and continues with other workers afterwards.
        preempted, now = ray.train.get_preemption_info() is not None, time.monotonic()
        if preempted == self._preempted and now - self._saved < (
            PREEMPTION_SAVE_S if preempted else self._save_every_s
        ):
            return False
        self._preempted, self._saved = preempted, now
        return True

    def log(self, line: str) -> None:
        self._run.log(line)

    def progress(self, what: str) -> Progress:
        return Progress.of_training(what, self.log)
