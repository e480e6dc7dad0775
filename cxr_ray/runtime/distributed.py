"""Communication between ranks: gathered rows, reductions, errors, running statistics. Without other ranks none of it does anything."""
# N rows of this rank, M rows of all ranks, P running statistics

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from cxr_ray.errors import UserError

T = TypeVar("T")


def is_distributed() -> bool:
    """Whether this process is one of several ranks."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Rows of all ranks in rank order [M, ...] from this rank's [N, ...]; N may differ between ranks and be 0.

    Every rank calls it and gets all rows."""
    if not is_distributed():
        return rows
    world = dist.get_world_size()
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(world)]
    dist.all_gather(counts, count)
    most = int(max(c.item() for c in counts))
    padded = rows.new_zeros((most, *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(c.item())] for part, c in zip(parts, counts, strict=True)])


def sum_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """The sum of `value` over all ranks, in place."""
    if is_distributed():
        dist.all_reduce(value)
    return value


def max_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """The maximum of each element over all ranks, in place."""
    if is_distributed():
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return value


def from_rank0(value: Any) -> Any:
    """Rank 0's `value`, on every rank. Small plain objects only: it is pickled between our own workers."""
    if not is_distributed():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def all_or_none(work: Callable[[], T]) -> T:
    """The result of `work` on this rank. If it raises a `UserError` on one rank (a file missing on one node), every rank raises it,
    so that none waits for the others."""
    results: list[T] = []
    message: str | None = None
    try:
        results.append(work())
    except UserError as error:
        if not is_distributed():
            raise
        message = str(error)
    if is_distributed():
        messages: list[str | None] = [None] * dist.get_world_size()
        dist.all_gather_object(messages, message)
        if first := next((each for each in messages if each is not None), None):
            raise UserError(first)
    return results[0]


def run_on_rank0(work: Callable[[], None]) -> None:
    """Call `work` on rank 0 only. If it raises (a full disk), every rank raises, so that none waits for the others."""
    if not is_distributed():
        work()
        return
    error: Exception | None = None
    if dist.get_rank() == 0:
        try:
            work()
        except Exception as raised:
            error = raised
    is_user_error, message = from_rank0(
        (isinstance(error, UserError), str(error)) if error is not None else (None, None)
    )
    if error is not None:
        raise error
    if is_user_error is not None:
        raise UserError(message) if is_user_error else RuntimeError(f"rank 0 failed: {message}")


def result_of_rank0(work: Callable[[], T]) -> T:
    """The result of `work` on rank 0 only, or its error, on every rank. Small plain objects only, as for `from_rank0`."""
    results: list[T] = []
    run_on_rank0(lambda: results.append(work()))
    result: T = from_rank0(results[0] if results else None)
    return result


def running_statistics(model: nn.Module) -> torch.Tensor:
    """Batch norm's running means and variances in one vector [P] of fp32, in the order of the modules; P may be 0."""
    buffers = [buffer.detach().float().reshape(-1) for buffer in _running_buffers(model)]
    # On the model's device even if it is empty: NCCL accepts no CPU tensor.
    return torch.cat(buffers) if buffers else torch.zeros(0, device=next(model.parameters()).device)


def set_running_statistics(model: nn.Module, vector_P: torch.Tensor) -> None:
    """Copy `vector_P`, in the format of `running_statistics`, into the model."""
    start = 0
    for buffer in _running_buffers(model):
        buffer.copy_(vector_P[start : start + buffer.numel()].reshape(buffer.shape))
        start += buffer.numel()


def average_running_statistics(model: nn.Module) -> None:
    """Average batch norm's running mean and variance over the ranks, which saw different rows (docs/concepts/architecture.md explains why)."""
    if not is_distributed():
        return
    vector_P = running_statistics(model)
    if len(vector_P):
        set_running_statistics(model, sum_over_ranks(vector_P) / dist.get_world_size())


def _running_buffers(model: nn.Module) -> Iterator[torch.Tensor]:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            yield from (b for b in (module.running_mean, module.running_var) if b is not None)
