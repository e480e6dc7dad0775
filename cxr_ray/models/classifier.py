"""The classifier module: preprocessing and one network. Building one by name: factory.py. Files: serialization.py."""
# N images, H height, W width, L outputs

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cxr_ray.errors import UserError
from cxr_ray.models.heads import head_name

CHANNELS = {"gray": 1, "repeat": 3}
GRAY_RANGE = (0.0, 255.0)
"""Black and white of uint8 images, and by default of float images."""


@dataclass(frozen=True, kw_only=True)
class ClassifierSpec:
    """What a `Classifier` is built from, without its weights. Raises `UserError` for values that no model can have."""

    name: str
    """Registered name of the network."""
    options: Mapping[str, Any]
    """The network's own options."""
    stem: str
    """gray: one input channel; repeat: the gray channel three times."""
    dropout: float
    dropout_where: str = "head"
    """head: on the input of the head; maps: whole feature maps after every activation."""
    head: str = "replace"
    """replace: in place of the network's own last layer; append: after it."""
    outputs: int
    image_size: tuple[int, int]
    """(height, width) in pixels of the network's input."""
    mean: float
    """Subtracted from gray values scaled to 0 to 1."""
    deviation: float
    """What they are divided by then."""
    value_range: tuple[float, float] = GRAY_RANGE
    """Black and white of float images. Those of uint8 images are always 0 and 255."""

    def __post_init__(self) -> None:
        if self.stem not in CHANNELS:
            raise UserError(f"model.stem {self.stem!r} is not known: {' or '.join(CHANNELS)}")
        height, width = self.image_size
        if min(height, width) < 1 or self.outputs < 1:
            raise UserError(
                f"a model needs outputs and pixels, got {self.outputs} outputs and {height} x {width} pixels"
            )
        if not self.deviation > 0.0:
            raise UserError(
                f"the deviation that images are divided by must be above 0, got {self.deviation}: "
                "set data.normalize: [mean, deviation]"
            )
        if not self.value_range[0] < self.value_range[1]:
            raise UserError(f"value_range must be (black, white) with black below white, got {self.value_range}")

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Self:
        """The spec in what `Classifier.describe` returned. Raises `UserError` if a key is missing; others are ignored."""
        known = fields(cls)
        missing = [f.name for f in known if f.default is MISSING and f.name not in description]
        if missing:
            raise UserError(f"the model's description lacks {', '.join(missing)}: it was not written by this project")
        values = {f.name: description[f.name] for f in known if f.name in description}
        height, width = description["image_size"]
        black, white = description.get("value_range", GRAY_RANGE)
        values |= {"image_size": (int(height), int(width)), "value_range": (float(black), float(white))}
        return cls(**values)

    @property
    def channels(self) -> int:
        """Input channels of the network."""
        return CHANNELS[self.stem]


class Classifier(nn.Module):
    """Gray images [N, H, W] or [N, 1, H, W] to logits [N, L].

    Images are uint8, or float in `spec.value_range` (by default 0 to 255 too).
    `backbone` is the network without preprocessing. `mean` and `deviation` are float32 buffers that are not part of the
    `state_dict`: they are in `spec`. `channels_last` is the memory layout of preprocessed images, set by
    `to(memory_format=...)`. In train mode a network with auxiliary heads returns a tuple, the main head's logits first; the
    loss of each auxiliary head is weighted by `auxiliary_weight`."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, backbone: nn.Module, spec: ClassifierSpec) -> None:
        super().__init__()
        self.backbone = backbone
        self.spec = spec
        self.channels_last = False
        self.frozen = False
        self.register_buffer("mean", torch.tensor(spec.mean, dtype=torch.float32), persistent=False)
        self.register_buffer("deviation", torch.tensor(spec.deviation, dtype=torch.float32), persistent=False)

    def forward(self, images_NHW: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits [N, L] of gray images; in train mode a tuple of them if the network has auxiliary heads.

        Larger images are resized to `spec.image_size` (bilinear, antialiased); smaller ones raise `UserError`. N may be 0:
        then logits are empty, gradients zero and running statistics unchanged, so that a rank without images can take part
        in a step. For a single image, a batch norm whose feature maps are one pixel uses its running statistics (norms.py)."""
        if images_NHW.ndim == 4 and images_NHW.shape[1] == 1:
            images_NHW = images_NHW.squeeze(1)
        if images_NHW.ndim != 3:
            raise ValueError(f"images must be [N, H, W] or [N, 1, H, W], not {list(images_NHW.shape)}")
        if len(images_NHW):
            return self._run(self.preprocess(images_NHW))
        if not torch.is_grad_enabled():
            return self.mean.new_zeros((0, self.spec.outputs))
        return self._empty_logits(images_NHW.device)

    def preprocess(self, images_NHW: Tensor) -> Tensor:
        """The network's input [N, channels, *image_size], normalised, from gray values [N, H, W].

        Raises `UserError` if an image would have to be enlarged."""
        height, width = images_NHW.shape[-2:]
        x = images_NHW.to(self.mean.dtype).unsqueeze(1)
        if (height, width) != self.spec.image_size:
            check_size(self.spec.image_size, (height, width))
            x = F.interpolate(x, size=self.spec.image_size, mode="bilinear", align_corners=False, antialias=True)
        black, white = self.spec.value_range if images_NHW.is_floating_point() else GRAY_RANGE
        x = x / 255.0 if (black, white) == GRAY_RANGE else (x - black) / (white - black)
        x = (x - self.mean) / self.deviation
        x = x.expand(-1, self.spec.channels, -1, -1)
        return x.contiguous(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)

    def to(self, *args: Any, **kwargs: Any) -> "Classifier":
        """As torch's; `memory_format` also applies to preprocessed images."""
        if kwargs.get("memory_format") is not None:
            self.channels_last = kwargs["memory_format"] is torch.channels_last
        return super().to(*args, **kwargs)

    def describe(self) -> dict[str, Any]:
        """The spec and the number of weights as plain JSON; `ClassifierSpec.from_description` reads it."""
        values = {**asdict(self.spec), "image_size": list(self.spec.image_size)}
        value_range = values.pop("value_range")
        if value_range != GRAY_RANGE:  # files of trained runs have no such key
            values["value_range"] = list(value_range)
        return {**values, "parameters": parameter_count(self)}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As torch's, also for a plain mapping such as a safetensors file gives.

        torch attaches a version per layer to a `state_dict`, and MNASNet refuses one without it."""
        if not hasattr(state_dict, "_metadata"):
            state_dict = OrderedDict(state_dict)
            state_dict._metadata = self.state_dict()._metadata  # type: ignore[attr-defined]
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    @property
    def auxiliary_weight(self) -> float:
        """Weight of an auxiliary head's loss, relative to the main head's."""
        return float(getattr(self.backbone, "auxiliary_weight", 0.0))

    def head_parameters(self) -> list[nn.Parameter]:
        """Weights of the head and of auxiliary heads, which are initialised freshly for any first weights.

        Empty if no layer can be identified as the head (a user's own network)."""
        try:
            names = [head_name(self.backbone, self.spec.outputs), *auxiliary_names(self.backbone)]
        except UserError:
            return []
        return [p for name in names for p in self.backbone.get_submodule(name).parameters()]

    def freeze(self, frozen: bool) -> bool:
        """Freeze all layers except the head, or unfreeze them; returns whether that changed anything.

        Frozen weights have no gradients, and frozen batch norms work as in eval mode: they neither use nor update batch
        statistics (as in Keras; otherwise the head's input features would drift). Dropout is unaffected. Raises
        `UserError` if no layer can be identified as the head."""
        if frozen == self.frozen:
            return False
        head = {id(p) for p in self.head_parameters()}
        if not head:
            raise UserError(
                f"model.freeze_epochs: {self.spec.name} has no layer of {self.spec.outputs} outputs that could be its head; "
                "set it to 0"
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

    def _empty_logits(self, device: torch.device) -> Tensor | tuple[Tensor, ...]:
        """Empty logits that depend on every weight: those of one black image in eval mode, sliced to none."""
        # The network's own mode is unchanged: in train mode it also runs the auxiliary heads, whose weights belong to the graph.
        layers = [module for module in self.backbone.modules() if module.training and module is not self.backbone]
        for module in layers:
            module.training = False
        black = torch.zeros((1, *self.spec.image_size), dtype=self.mean.dtype, device=device)
        logits = tuple(one[:0] for one in head_logits(self._run(self.preprocess(black))))
        for module in layers:
            module.training = True
        return logits if len(logits) > 1 else logits[0]


def head_logits(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The output of a `Classifier` as a tuple: the main head's logits first, then those of auxiliary heads, if any."""
    return outputs if isinstance(outputs, tuple) else (outputs,)


def auxiliary_names(network: nn.Module) -> tuple[str, ...]:
    """Names of the modules of `network` that are auxiliary heads, as its attribute `auxiliary` lists them."""
    names: tuple[str, ...] = getattr(network, "auxiliary", ())
    return names


def in_value_range(grays_NHW: npt.NDArray[Any], value_range: tuple[float, float]) -> npt.NDArray[Any]:
    """Gray values 0 to 255 as a model with this `value_range` takes them: uint8 and the range 0 to 255 unchanged, others float32."""
    if grays_NHW.dtype == np.uint8 or value_range == GRAY_RANGE:
        return grays_NHW
    black, white = value_range
    return (grays_NHW / np.float32(255.0) * (white - black) + black).astype(np.float32)


def check_size(wanted: tuple[int, int], stored: tuple[int, int]) -> None:
    """Raises `UserError` if images of `stored` (height, width) would have to be enlarged to `wanted`."""
    if wanted[0] > stored[0] or wanted[1] > stored[1]:
        raise UserError(
            f"the model needs {wanted[0]} x {wanted[1]} pixels and the images have {stored[0]} x {stored[1]}, and enlarging adds "
            f"nothing: set data.image_size to at most [{stored[0]}, {stored[1]}], or ingest again with a larger size"
        )


def parameter_count(module: nn.Module) -> int:
    """Number of weights of `module`."""
    return sum(p.numel() for p in module.parameters())
