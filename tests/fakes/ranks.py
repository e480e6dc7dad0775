"""Several ranks on this machine without Ray: gloo over a file, one spawned process a rank."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def _rank(rank: int, world: int, meeting: str, work: Callable[..., None], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    try:
        work(*args)
    finally:
        dist.destroy_process_group()


def on_ranks(world: int, folder: Path, work: Callable[..., None], *args: Any) -> None:
    """Run `work(*args)` on `world` ranks and wait; what a rank raises is raised here. World 1 runs in this process."""
    if world == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        work(*args)
        torch.set_num_threads(threads)
        return
    meeting = folder / f"meeting-{world}"
    mp.spawn(_rank, args=(world, str(meeting), work, args), nprocs=world, join=True)
