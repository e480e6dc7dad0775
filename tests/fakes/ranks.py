"""Several ranks on this machine without Ray: gloo with a file store, one spawned process per rank."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def _run_rank(rank: int, world: int, store_file: str, work: Callable[..., None], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store_file}", rank=rank, world_size=world)
    try:
        work(*args)
    finally:
        dist.destroy_process_group()


def on_ranks(world: int, folder: Path, work: Callable[..., None], *args: Any) -> None:
    """Run `work(*args)` on `world` ranks and wait; the exception of a rank is raised here. World 1 runs in this process."""
    if world == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        work(*args)
        torch.set_num_threads(threads)
        return
    store_file = folder / f"ranks-{world}"
    mp.spawn(_run_rank, args=(world, str(store_file), work, args), nprocs=world, join=True)
