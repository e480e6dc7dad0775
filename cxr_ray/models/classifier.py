"""The classifier: all preprocessing and one network. Built by name in factory.py."""
# N images, H height, W width, L outputs

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cxr_ray.errors import UserError
from cxr_ray.models.heads import head_name

CHANNELS = {"gray": 1, "repeat": 3}


class Classifier(nn.Module):
    """Gray images [N, H, W] of values 0 to 255, uint8 or float, to logits [N, outputs].

    `backbone` is the network alone; `image_size` (height, width) what it sees; `mean` and `deviation` are float32
    buffers in the scale 0 to 1, kept in `describe()` and not among the weights. `channels_last` says how
    images lie in memory on their way in; `to(memory_format=...)` sets it. While training, a network with auxiliary heads
    gives a tuple, the head's logits first; theirs weigh `auxiliary_weight` in the loss."""

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        *,
        name: str,
        options: Mapping[str, Any],
        stem: str,
        dropout: float,
        outputs: int,
        image_size: tuple[int, int],
        mean: float,
        deviation: float,
        dropout_where: str = "head",
        head: str = "replace",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.name = name
        self.options = dict(options)
        self.stem = stem
        self.dropout = dropout
        self.dropout_where = dropout_where
        self.head = head
        self.outputs = outputs
        self.image_size = image_size
        self.channels = CHANNELS[stem]
        self.channels_last = False
        self.frozen = False
        self._normalize = (float(mean), float(deviation))
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation, dtype=torch.float32), persistent=False)

    def forward(self, images_NHW: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits [N, outputs] of gray images; while training, a tuple of them where there are auxiliary heads.

        Images larger than `image_size` are resized here (bilinear, antialiased); smaller ones raise `UserError`.
        N may be 0: the logits are then empty, gradients zero, and running statistics are left alone, so that a rank
        without images can take its part in a step. Of one image a batch norm takes its running statistics where maps are one
        pixel (see `norms`)."""
        if images_NHW.ndim != 3:
            raise ValueError(f"images must be [N, H, W], not {list(images_NHW.shape)}")
        if len(images_NHW):
            return self._run(self.preprocess(images_NHW))
        if not torch.is_grad_enabled():
            return self.mean.new_zeros((0, self.outputs))
        return self._without_images(images_NHW.device)

    def preprocess(self, images_NHW: Tensor) -> Tensor:
        """Gray values 0 to 255 [N, H, W] to what the network sees: [N, channels, *image_size], normalised.

        Raises `UserError` where an image would have to be enlarged."""
        height, width = images_NHW.shape[-2:]
        x = images_NHW.to(self.mean.dtype).unsqueeze(1)
        if (height, width) != self.image_size:
            check_size(self.image_size, (height, width))
            x = F.interpolate(x, size=self.image_size, mode="bilinear", align_corners=False, antialias=True)
        x = (x / 255.0 - self.mean) / self.deviation
        x = x.expand(-1, self.channels, -1, -1)
        return x.contiguous(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)

    def to(self, *args: Any, **kwargs: Any) -> "Classifier":
        """As torch's; with `memory_format`, the images take it on their way in as well as the weights."""
        if kwargs.get("memory_format") is not None:
            self.channels_last = kwargs["memory_format"] is torch.channels_last
        return super().to(*args, **kwargs)

    def describe(self) -> dict[str, Any]:
        """What `from_description` rebuilds this module from, as plain JSON: everything but the weights themselves."""
        mean, deviation = self._normalize
        return {
            "name": self.name,
            "options": dict(self.options),
            "stem": self.stem,
            "dropout": self.dropout,
            "dropout_where": self.dropout_where,
            "head": self.head,
            "outputs": self.outputs,
            "image_size": list(self.image_size),
            "mean": mean,
            "deviation": deviation,
            "parameters": parameter_count(self),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As torch's, for a plain mapping too, such as a safetensors file gives.

        torch keeps the version of each layer's layout beside the tensors, and MNASNet refuses a state without it."""
        if not hasattr(state_dict, "_metadata"):
            state_dict = OrderedDict(state_dict)
            state_dict._metadata = self.state_dict()._metadata  # type: ignore[attr-defined]
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    @property
    def auxiliary_weight(self) -> float:
        """What an auxiliary head's loss weighs beside the head's."""
        return float(getattr(self.backbone, "auxiliary_weight", 0.0))

    def head_parameters(self) -> list[nn.Parameter]:
        """Weights of the head, and of auxiliary heads: what is drawn anew whatever weights the rest starts from.

        Empty where no layer is known to be the head (a user's network that ends otherwise)."""
        try:
            names = [head_name(self.backbone, self.outputs), *auxiliary_names(self.backbone)]
        except UserError:
            return []
        return [p for name in names for p in self.backbone.get_submodule(name).parameters()]

    def freeze(self, frozen: bool) -> bool:
        """Hold all but the head as it is, or let it go; returns whether that changes anything.

        Frozen weights have no gradients, and frozen batch norms work as in eval mode: they neither use nor move batch
        statistics (as Keras freezes; a statistic that moved would let the features drift that the head learns on). Dropout
        stays what it is. Raises `UserError` where the network has no layer known as its head."""
        if frozen == self.frozen:
            return False
        head = {id(p) for p in self.head_parameters()}
        if not head:
            raise UserError(
                f"model.freeze_epochs: {self.name} has no layer of {self.outputs} outputs that could be its head; set it to 0"
            )
        self.frozen = frozen
        for p in self.backbone.parameters():
            if id(p) not in head:
                p.requires_grad_(not frozen)
        self.train(self.training)
        return True

    def train(self, mode: bool = True) -> "Classifier":
        """As torch's; batch norms of a frozen network stay in eval mode."""
        super().train(mode)
        if self.frozen:
            for module in self.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def _run(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        logits: Tensor | tuple[Tensor, ...] = self.backbone(x)
        return logits

    def _without_images(self, device: torch.device) -> Tensor | tuple[Tensor, ...]:
        """Empty logits that hang on every weight: one black image in eval mode, whose logits are cut off."""
        # The network's own mode stays: it says whether there are auxiliary heads, whose weights are to be hung on too.
        held = [module for module in self.backbone.modules() if module.training and module is not self.backbone]
        for module in held:
            module.training = False
        black = torch.zeros((1, *self.image_size), dtype=self.mean.dtype, device=device)
        logits = tuple(given[:0] for given in every_head(self._run(self.preprocess(black))))
        for module in held:
            module.training = True
        return logits if len(logits) > 1 else logits[0]


def every_head(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What a `Classifier` gave, the head's logits first, then those of auxiliary heads (if it has any, and trains)."""
    return outputs if isinstance(outputs, tuple) else (outputs,)


def auxiliary_names(network: nn.Module) -> tuple[str, ...]:
    """Names of the parts of `network` that are auxiliary heads; a network says so in `auxiliary`."""
    names: tuple[str, ...] = getattr(network, "auxiliary", ())
    return names


def check_size(wanted: tuple[int, int], stored: tuple[int, int]) -> None:
    """Raises `UserError` where images of `stored` (height, width) would have to be enlarged to `wanted`."""
    if wanted[0] > stored[0] or wanted[1] > stored[1]:
        raise UserError(
            f"the model wants {wanted[0]} x {wanted[1]} pixels and the images have {stored[0]} x {stored[1]}, and enlarging adds "
            f"nothing: set data.image_size to at most [{stored[0]}, {stored[1]}], or ingest again with a larger --size"
        )


def parameter_count(module: nn.Module) -> int:
    """How many numbers the weights of `module` hold."""
    return sum(p.numel() for p in module.parameters())
