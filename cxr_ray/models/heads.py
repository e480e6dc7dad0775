"""Stem and head of a network: a stem for one channel, a head of the right size. Dropout: dropout.py. Weights' files: weights.py.

Both are changed in place and under their own names, so that the `state_dict` keeps the keys of the published weights.
"""
# O output channels, K kernel size

from torch import Tensor, nn

from cxr_ray.errors import UserError


class AppendedLinear(nn.Linear):
    """A linear layer followed by a second one, `appended`, whose name published weights do not have."""

    appended: nn.Linear

    def forward(self, input: Tensor) -> Tensor:
        """[N, in_features] to [N, appended.out_features]."""
        out: Tensor = self.appended(super().forward(input))
        return out


class AppendedConv2d(nn.Conv2d):
    """A convolution followed by one of 1 x 1; see `AppendedLinear`."""

    appended: nn.Conv2d

    def forward(self, input: Tensor) -> Tensor:
        """[N, in_channels, H, W] to [N, appended.out_channels, H', W']."""
        out: Tensor = self.appended(super().forward(input))
        return out


def gray_stem(network: nn.Module) -> None:
    """Give the first convolution of `network` one input channel: its colour kernels [O, 3, K, K] summed over colour, in place.

    The sum is exact: the new stem on a gray image equals the old one on three equal channels. Raises `ValueError` if no
    convolution has three input channels."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3 and module.groups == 1:
            module.in_channels = 1
            module.weight = nn.Parameter(module.weight.detach().sum(dim=1, keepdim=True))
            return
    raise ValueError(f"{type(network).__name__} has no convolution with three input channels")


def head_name(network: nn.Module, outputs: int) -> str:
    """Dotted name of the head: the last linear layer or convolution with `outputs` outputs. Raises `UserError` if there is none."""
    names = [name for name, module in network.named_modules() if _outputs(module) == outputs]
    if not names:
        raise UserError(
            f"{type(network).__name__} has no linear layer or convolution with {outputs} outputs that could be its head"
        )
    return names[-1]


def replace_head(network: nn.Module, old: int, new: int) -> None:
    """Replace the head of `old` outputs by a fresh layer of the same kind with `new` outputs, in place.

    The ReLU that torchvision's SqueezeNets have *after* the head is removed: with it no logit could be negative, and no
    probability below one half."""
    name = head_name(network, old)
    parent, leaf = _parent(network, name)
    head = getattr(parent, leaf)
    fresh: nn.Module
    if isinstance(head, nn.Linear):
        fresh = nn.Linear(head.in_features, new, bias=head.bias is not None)
    else:
        fresh = nn.Conv2d(
            head.in_channels, new, head.kernel_size, head.stride, head.padding, bias=head.bias is not None
        )
    setattr(parent, leaf, fresh)
    if isinstance(parent, nn.Sequential) and leaf.isdigit():
        for index in range(int(leaf) + 1, len(parent)):
            if isinstance(parent[index], nn.ReLU):
                parent[index] = nn.Identity()


def append_head(network: nn.Module, name: str, new: int) -> None:
    """Append a fresh layer of `new` outputs to the head called `name`, in place; that head keeps its weights and its name.

    The fresh layer is called `NAME.appended`. There is no activation between the two, as in the CheXpert framework."""
    head = network.get_submodule(name)
    if isinstance(head, nn.Linear):
        head.__class__, head.appended = AppendedLinear, nn.Linear(head.out_features, new)
    else:
        assert isinstance(head, nn.Conv2d)
        head.__class__, head.appended = AppendedConv2d, nn.Conv2d(head.out_channels, new, kernel_size=1)


def _outputs(module: nn.Module) -> int | None:
    if isinstance(module, nn.Linear):
        return module.out_features
    return module.out_channels if isinstance(module, nn.Conv2d) else None


def _parent(network: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return network.get_submodule(path), leaf
