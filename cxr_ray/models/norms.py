"""Batch norm where a share of the batch is not enough: of one image whose maps are one pixel, and over all ranks."""
# N images, C channels

import torch
from torch import Tensor, nn

from cxr_ray import config
from cxr_ray.errors import UserError


class _OfOne(nn.modules.batchnorm._BatchNorm):
    """A batch norm that works as in eval mode where each channel has one value: by its running statistics, which it then leaves
    as they are. torch raises there, since a value minus itself says nothing. Batches of one row come by themselves, as an epoch's
    last one, a rank's slice of it or a micro-batch, and small images are one pixel at the deep layers of most networks."""

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, ...] to the same shape."""
        if not self.training or self.running_mean is None or input.numel() != input.shape[1]:
            return super().forward(input)
        return nn.functional.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


# Under torch's names, which listings of layers show.
KINDS: dict[type[nn.Module], type[nn.Module]] = {
    kind: type(kind.__name__, (_OfOne, kind), {"__doc__": _OfOne.__doc__, "__module__": __name__})
    for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
}


def take_one(network: nn.Module) -> None:
    """Let torch's batch norms of `network` take a batch of one value a channel while training, in place; weights and names stay."""
    for module in network.modules():
        module.__class__ = KINDS.get(type(module), type(module))


def over_ranks(network: nn.Module, device: torch.device, train: config.Train, *, rows: int, world: int) -> None:
    """Have the batch norms of `network` (which is none itself) take the statistics of all `world` ranks together, in place.

    `rows` is what an epoch draws. Each norm waits for every rank, so raises `UserError` where a batch would leave one of
    them without rows (torch's own answer to that, an empty input, speaks fp32 where the others speak bf16), and off GPUs."""
    if device.type != "cuda":
        raise UserError("train.sync_batch_norm works on GPUs alone, and this training has none: set it to false")
    ranks = max(world, train.workers)  # elastic: as many as there may be later
    size, fewest = train.batch_size, fewest_rows(rows, train.batch_size)
    if fewest < ranks:
        more = (n for n in range(max(size, ranks), rows + 1) if fewest_rows(rows, n) >= ranks)
        fix = f"train.workers to {rows}" if rows < ranks else f"train.batch_size to {next(more)}"
        raise UserError(
            f"train.sync_batch_norm: of {rows:,} rows in batches of {size} the smallest has {fewest}, and none of the {ranks} "
            f"workers may be without: set {fix}"
        )
    if world > 1:
        nn.SyncBatchNorm.convert_sync_batchnorm(network)


def fewest_rows(rows: int, batch_size: int) -> int:
    """Rows of the smallest batch of an epoch: the last one keeps what is left."""
    return rows % batch_size or min(rows, batch_size)
