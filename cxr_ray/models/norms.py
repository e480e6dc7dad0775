"""Batch norm of a batch that has no statistics: one image, at a layer whose maps are one pixel."""
# N images, C channels

from torch import Tensor, nn


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
