"""What the engine needs of the world it runs in. `LocalContext` needs no Ray; Ray's contexts live in `on_ray/`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist


class Context(Protocol):
    """Rank, world, device, and five ways to speak with whoever started the run."""

    rank: int
    world: int
    device: torch.device

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        """Called by every rank after every epoch with the same metrics (`val/auroc/mean`: 0.84)."""
        ...

    def restore(self) -> Path | None:
        """A checkpoint folder to go on from; None: the run folder's own last one."""
        ...

    def should_stop(self) -> bool:
        """Whether to write a checkpoint and stop now (SIGTERM, a scheduler); every rank asks equally often."""
        ...

    def should_save(self) -> bool:
        """Whether to write a checkpoint now, because a machine is about to go; every rank asks equally often."""
        ...

    def log(self, line: str) -> None:
        """One line of progress for the user; called on rank 0 alone."""
        ...


class LocalContext:
    """This process; or one rank of an initialised `torch.distributed` group."""

    def __init__(self, *, device: torch.device | None = None, quiet: bool = False) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        self.world = dist.get_world_size() if together else 1
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


def pick_device(gpu: bool | str) -> torch.device:
    """The device of this process for `train.gpu`: auto, true or false. Raises `UserError` where a GPU is asked for and absent."""
    from cxr_ray.errors import UserError

    there = torch.cuda.is_available()
    if gpu is True and not there:
        raise UserError(
            "train.gpu: true, but torch sees no GPU here; `cxr-ray doctor` says why, train.gpu: auto takes the CPU"
        )
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if there and gpu else torch.device("cpu")
