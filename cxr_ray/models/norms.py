"""Batch norm for batches that are too small on one rank: a single value per channel, and statistics over all ranks."""
# N images, C channels

import torch
from torch import Tensor, nn

from cxr_ray import config
from cxr_ray.errors import UserError


class _SingleValueBatchNorm(nn.modules.batchnorm._BatchNorm):
    """A batch norm that works as in eval mode if each channel has a single value: with its running statistics, unchanged.

    torch raises an error then, since a single value has no variance. Such batches are common: the last batch of an epoch, a
    rank's slice of it or a micro-batch may have one row, and small images are one pixel at the deep layers of most networks."""

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, ...] to the same shape."""
        if not self.training or self.running_mean is None or input.numel() != input.shape[1]:
            return super().forward(input)
        return nn.functional.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


# Under torch's class names, which lists of layers show.
SINGLE_VALUE_CLASSES: dict[type[nn.Module], type[nn.Module]] = {
    kind: type(
        kind.__name__, (_SingleValueBatchNorm, kind), {"__doc__": _SingleValueBatchNorm.__doc__, "__module__": __name__}
    )
    for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
}


def allow_single_values(network: nn.Module) -> None:
    """Let torch's batch norms of `network` train on a single value per channel, in place; weights and names are unchanged."""
    for module in network.modules():
        module.__class__ = SINGLE_VALUE_CLASSES.get(type(module), type(module))


def synchronize(network: nn.Module, device: torch.device, train: config.Train, *, rows: int, world: int) -> None:
    """Let the batch norms of `network` (which is not one itself) use the statistics of all `world` ranks, in place.

    `rows` is the number of rows of an epoch. Each norm waits for every rank, so this raises `UserError` if a batch would leave a
    rank without rows (torch would then send fp32 for its empty input while the others send bf16), and without a GPU."""
    if device.type != "cuda":
        raise UserError("train.sync_batch_norm works on GPUs only, and this training has none: set it to false")
    ranks = max(world, train.workers)  # elastic: the number may grow to that
    size, smallest = train.batch_size, smallest_batch(rows, train.batch_size)
    if smallest < ranks:
        larger = (n for n in range(max(size, ranks), rows + 1) if smallest_batch(rows, n) >= ranks)
        fix = f"train.workers to {rows}" if rows < ranks else f"train.batch_size to {next(larger)}"
        raise UserError(
            f"train.sync_batch_norm: the smallest batch of {rows:,} rows in batches of {size} has {smallest}, and each of the {ranks} "
            f"workers needs a row: set {fix}"
        )
    if world > 1:
        nn.SyncBatchNorm.convert_sync_batchnorm(network)


def smallest_batch(rows: int, batch_size: int) -> int:
    """Rows of the smallest batch of an epoch, which is the last one."""
    return rows % batch_size or min(rows, batch_size)
