"""The interface between a training and the process that runs it. `LocalContext` needs no Ray; Ray's contexts are in `on_ray/`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist

from cxr_ray.errors import UserError
from cxr_ray.runtime.progress import Progress


class Context(Protocol):
    """Rank, world, device, and six methods to communicate with whatever started the run."""

    rank: int
    world: int
    device: torch.device

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        """Called by every rank after every epoch with the same metrics (`val/auroc/mean`: 0.84)."""
        ...

    def restore(self) -> Path | None:
        """A checkpoint folder to resume from; None: the last one in the run folder."""
        ...

    def should_stop(self) -> bool:
        """Whether to write a checkpoint and stop now (SIGTERM, a scheduler). Every rank calls it equally often."""
        ...

    def should_save(self) -> bool:
        """Whether to write a checkpoint now, because a machine will be taken away. Every rank calls it equally often."""
        ...

    def log(self, line: str) -> None:
        """Show one line to the user; called on rank 0 only."""
        ...

    def progress(self, what: str) -> Progress:
        """Shows how many images of an epoch or an evaluation are done; used on rank 0 only."""
        ...


class LocalContext:
    """This process, or one rank of an initialised `torch.distributed` group."""

    def __init__(self, *, device: torch.device | None = None, quiet: bool = False) -> None:
        distributed = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if distributed else 0
        self.world = dist.get_world_size() if distributed else 1
        self.device = device or torch.device("cpu")
        self.history: list[dict[str, float]] = []
        self._quiet = quiet

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        self.history.append(dict(metrics))

    def restore(self) -> Path | None:
        return None

    def should_stop(self) -> bool:
        return False

    def should_save(self) -> bool:
        return False

    def log(self, line: str) -> None:
        if not self._quiet:
            print(line, flush=True)

    def progress(self, what: str) -> Progress:
        return Progress.of_training(what, self.log)


def pick_device(gpu: bool | str) -> torch.device:
    """The device of this process for `train.gpu`: auto, true or false. Raises `UserError` if a GPU is required and missing."""
    if gpu not in (True, False, "auto"):
        raise UserError(f"gpu must be auto, true or false, got {gpu!r}")
    available = torch.cuda.is_available()
    if gpu is True and not available:
        raise UserError(
            "train.gpu: true, but torch finds no GPU here; `cxr-ray doctor` shows why, train.gpu: auto uses the CPU"
        )
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if available and gpu else torch.device("cpu")
