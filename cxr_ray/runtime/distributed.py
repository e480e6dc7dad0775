"""What ranks tell each other: rows gathered in order, running statistics averaged. Alone in the world, all of it is free."""
# N rows of this rank, M rows of all ranks

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from cxr_ray.errors import UserError

T = TypeVar("T")


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


def most_of_ranks(value: torch.Tensor) -> torch.Tensor:
    """The largest of each element over all ranks, in place."""
    if together():
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return value


def from_first(value: Any) -> Any:
    """Rank 0's `value`, on every rank. Small plain objects only: it travels between our own workers as a pickle."""
    if not together():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def all_or_none(work: Callable[[], T]) -> T:
    """What `work` gives on this rank. Where it finds a mistake on one of them (a file that one node lacks), all ranks raise that
    `UserError`: none waits for the others."""
    made: list[T] = []
    mistake: str | None = None
    try:
        made.append(work())
    except UserError as error:
        if not together():
            raise
        mistake = str(error)
    if together():
        told: list[str | None] = [None] * dist.get_world_size()
        dist.all_gather_object(told, mistake)
        if said := next((one for one in told if one is not None), None):
            raise UserError(said)
    return made[0]


def first_alone(work: Callable[[], None]) -> None:
    """`work()` on rank 0 alone. What it raises, such as a full disk, is raised on every rank: none waits for the others."""
    if not together():
        work()
        return
    error: Exception | None = None
    if dist.get_rank() == 0:
        try:
            work()
        except Exception as raised:
            error = raised
    kind, said = from_first((isinstance(error, UserError), str(error)) if error is not None else (None, None))
    if error is not None:
        raise error
    if kind is not None:
        raise UserError(said) if kind else RuntimeError(f"rank 0 failed: {said}")


def answer_of_first(work: Callable[[], T]) -> T:
    """What `work()` gives on rank 0 alone, on every rank; what it raises likewise. Small plain objects only, as for `from_first`."""
    found: list[T] = []
    first_alone(lambda: found.append(work()))
    answer: T = from_first(found[0] if found else None)
    return answer


def running_statistics(model: nn.Module) -> torch.Tensor:
    """Batch norm's running means and variances in one vector [P] of fp32, in the order of the modules; P may be 0."""
    held = [buffer.detach().float().reshape(-1) for buffer in _running(model)]
    # On the model's device also where it is empty: NCCL takes no tensor of the processor's.
    return torch.cat(held) if held else torch.zeros(0, device=next(model.parameters()).device)


def set_running_statistics(model: nn.Module, vector_P: torch.Tensor) -> None:
    """Lay `vector_P`, as `running_statistics` gives it, on the model."""
    at = 0
    for buffer in _running(model):
        buffer.copy_(vector_P[at : at + buffer.numel()].reshape(buffer.shape))
        at += buffer.numel()


def average_running_statistics(model: nn.Module) -> None:
    """Average batch norm's running mean and variance over the ranks, each of which saw other rows (docs/architecture.md says why)."""
    if not together():
        return
    vector_P = running_statistics(model)
    if len(vector_P):
        set_running_statistics(model, sum_over_ranks(vector_P) / dist.get_world_size())


def _running(model: nn.Module) -> Iterator[torch.Tensor]:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            yield from (b for b in (module.running_mean, module.running_var) if b is not None)
