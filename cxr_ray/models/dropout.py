"""Dropout before the head or of whole feature maps. It adds no name to a `state_dict`, so published weights fit with and without."""

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.googlenet import BasicConv2d as GoogLeNetConv
from torchvision.models.inception import BasicConv2d as InceptionConv

from cxr_ray.errors import UserError

# Modules after which feature maps are dropped. Not GELU: in ConvNeXt and the transformers its input has the channels last, and
# Dropout2d would drop rows of pixels. GoogLeNet and Inception call ReLU as a function, at the end of these blocks.
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, GoogLeNetConv, InceptionConv)


class DropoutLinear(nn.Linear):
    """A linear layer with dropout on its input."""

    dropout: float = 0.0

    def forward(self, input: Tensor) -> Tensor:
        """[N, in_features] to [N, out_features]."""
        return super().forward(F.dropout(input, self.dropout, self.training))

    def extra_repr(self) -> str:
        """What `print(module)` shows."""
        return f"{super().extra_repr()}, dropout={self.dropout}"


class DropoutConv2d(nn.Conv2d):
    """A convolution with dropout on its input; see `DropoutLinear`."""

    dropout: float = 0.0

    def forward(self, input: Tensor) -> Tensor:
        """[N, in_channels, H, W] to [N, out_channels, H', W']."""
        return super().forward(F.dropout(input, self.dropout, self.training))

    def extra_repr(self) -> str:
        """What `print(module)` shows."""
        return f"{super().extra_repr()}, dropout={self.dropout}"


def add_before_head(head: nn.Module, dropout: float) -> None:
    """Drop the input of `head` (a linear layer or convolution) with probability `dropout`, in place; weights and name are unchanged."""
    # Only the class changes: parameters, hooks and names remain.
    head.__class__ = DropoutLinear if isinstance(head, nn.Linear) else DropoutConv2d
    head.dropout = dropout  # type: ignore[assignment]


def add_to_maps(network: nn.Module, dropout: float) -> None:
    """Drop whole feature maps after every activation of `network` with probability `dropout` (Tompson et al. 2015), by hooks.

    The CheXpert framework added it to its networks; at which layers is not documented. Vectors and maps of one pixel (squeeze and
    excitation) are not dropped. Raises `UserError` if the network has no such activation."""

    def drop(module: nn.Module, _input: tuple[Tensor, ...], maps: Tensor) -> Tensor:
        if maps.ndim != 4 or maps.shape[-1] * maps.shape[-2] == 1:
            return maps
        return F.dropout2d(maps, dropout, module.training)

    activations = [module for module in network.modules() if isinstance(module, ACTIVATIONS)]
    if not activations:
        raise UserError(
            f"model.dropout_where: {type(network).__name__} has no activations of feature maps to drop; set it to head"
        )
    for module in activations:
        module.register_forward_hook(drop)
