"""What ranks tell each other: rows gathered in order, running statistics averaged. Alone in the world, all of it is free."""
# N rows of this rank, M rows of all ranks

from typing import Any

import torch
import torch.distributed as dist
from torch import nn


def together() -> bool:
    """Whether this process is one of several ranks."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather_rows(mine: torch.Tensor) -> torch.Tensor:
    """Rows of all ranks in rank order [M, ...] from this rank's [N, ...]; N may differ between ranks and be 0.

    Every rank calls it and every rank gets all rows."""
    if not together():
        return mine
    world = dist.get_world_size()
    count = torch.tensor([len(mine)], device=mine.device)
    counts = [torch.zeros_like(count) for _ in range(world)]
    dist.all_gather(counts, count)
    most = int(max(c.item() for c in counts))
    padded = mine.new_zeros((most, *mine.shape[1:]))
    padded[: len(mine)] = mine
    parts = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(c.item())] for part, c in zip(parts, counts, strict=True)])


def sum_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """The sum of `value` over all ranks, in place."""
    if together():
        dist.all_reduce(value)
    return value


def from_first(value: Any) -> Any:
    """Rank 0's `value`, on every rank. Small plain objects only: it travels between our own workers as a pickle."""
    if not together():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def average_running_statistics(model: nn.Module) -> None:
    """Average batch norm's running mean and variance over the ranks, each of which saw other rows (see DESIGN: batch norm)."""
    if not together():
        return
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            for buffer in (module.running_mean, module.running_var):
                if buffer is not None:
                    dist.all_reduce(buffer)
                    buffer /= dist.get_world_size()
