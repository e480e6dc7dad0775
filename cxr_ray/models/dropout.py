"""Dropout that adds no name to a `state_dict`: before the head, or of whole feature maps. Published weights fit with it and without."""

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.googlenet import BasicConv2d as GoogLeNetConv
from torchvision.models.inception import BasicConv2d as InceptionConv

from cxr_ray.errors import UserError

# What ends a step of a CNN. Not GELU: ConvNeXt and the transformers give it channels last, where Dropout2d would take rows
# of pixels for maps. GoogLeNet and Inception rectify by a function, at the end of these blocks of theirs.
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, GoogLeNetConv, InceptionConv)


class DropoutLinear(nn.Linear):
    """A linear layer whose input is dropped out while training."""

    dropout: float = 0.0

    def forward(self, input: Tensor) -> Tensor:
        """[N, in_features] to [N, out_features]."""
        return super().forward(F.dropout(input, self.dropout, self.training))

    def extra_repr(self) -> str:
        """What `print(module)` shows."""
        return f"{super().extra_repr()}, dropout={self.dropout}"


class DropoutConv2d(nn.Conv2d):
    """A convolution whose input is dropped out while training; see `DropoutLinear`."""

    dropout: float = 0.0

    def forward(self, input: Tensor) -> Tensor:
        """[N, in_channels, H, W] to [N, out_channels, H', W']."""
        return super().forward(F.dropout(input, self.dropout, self.training))

    def extra_repr(self) -> str:
        """What `print(module)` shows."""
        return f"{super().extra_repr()}, dropout={self.dropout}"


def before_head(head: nn.Module, dropout: float) -> None:
    """Drop out the input of `head` (a linear layer or convolution) with chance `dropout`, in place; it keeps weights and name."""
    # The class alone is changed: parameters, hooks and names stay those of the layer that is there.
    head.__class__ = DropoutLinear if isinstance(head, nn.Linear) else DropoutConv2d
    head.dropout = dropout  # type: ignore[assignment]


def of_maps(network: nn.Module, dropout: float) -> None:
    """Drop out whole feature maps after every activation of `network` with chance `dropout` (Tompson et al. 2015), by hooks.

    As the CheXpert framework added it to its networks; at which layers it did so is not recorded. Vectors, and maps of one
    pixel (squeeze and excitation), are left alone. Raises `UserError` where the network has no such activation."""

    def drop(module: nn.Module, _input: tuple[Tensor, ...], maps: Tensor) -> Tensor:
        if maps.ndim != 4 or maps.shape[-1] * maps.shape[-2] == 1:
            return maps
        return F.dropout2d(maps, dropout, module.training)

    found = [module for module in network.modules() if isinstance(module, ACTIVATIONS)]
    if not found:
        raise UserError(
            f"model.dropout_where: {type(network).__name__} has no activations of feature maps to drop; set it to head"
        )
    for module in found:
        module.register_forward_hook(drop)
