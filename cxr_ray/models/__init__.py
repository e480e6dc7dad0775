"""Models: the `Classifier` (all preprocessing and a network), built by name. Architectures live one file a family.

The classifier takes gray values 0 to 255 as the store holds them and gives logits; device resize, scaling,
normalisation and channels are inside it, so that training, prediction, export and explanation cannot differ.
"""
# N images, H height, W width, L outputs

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cxr_ray import config
from cxr_ray.errors import UserError
from cxr_ray.models import weights
from cxr_ray.models.ends import Skeleton, drop_before_head
from cxr_ray.registry import MODELS, Entry

CHANNELS = {"gray": 1, "repeat": 3}


class Classifier(nn.Module):
    """Gray images [N, H, W] of values 0 to 255, uint8 or float, to logits [N, outputs].

    `backbone` is the network alone; `image_size` (height, width) what it sees; `mean` and `deviation` are float32
    buffers in the scale 0 to 1, kept in `describe()` and not among the weights. `channels_last` says how
    images lie in memory on their way in; `to(memory_format=...)` sets it."""

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
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.name = name
        self.options = dict(options)
        self.stem = stem
        self.dropout = dropout
        self.outputs = outputs
        self.image_size = image_size
        self.channels = CHANNELS[stem]
        self.channels_last = False
        self._normalize = (float(mean), float(deviation))
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation, dtype=torch.float32), persistent=False)

    def forward(self, images_NHW: Tensor) -> Tensor:
        """Logits [N, outputs] of gray images.

        Images larger than `image_size` are resized here (bilinear, antialiased); smaller ones raise `UserError`.
        N may be 0: the logits are then empty, gradients zero, and running statistics are left alone, so that a rank
        without images can take its part in a step."""
        if images_NHW.ndim != 3:
            raise ValueError(f"images must be [N, H, W], not {list(images_NHW.shape)}")
        if len(images_NHW):
            return self._logits(self.preprocess(images_NHW))
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

    def _logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self.backbone(x)
        return logits

    def _without_images(self, device: torch.device) -> Tensor:
        """Empty logits that hang on every weight: one black image in eval mode, whose logits are cut off."""
        held = [module for module in self.backbone.modules() if module.training]
        for module in held:
            module.training = False
        black = torch.zeros((1, *self.image_size), dtype=self.mean.dtype, device=device)
        logits = self._logits(self.preprocess(black))[:0]
        for module in held:
            module.training = True
        return logits


def check_size(wanted: tuple[int, int], stored: tuple[int, int]) -> None:
    """Raises `UserError` where images of `stored` (height, width) would have to be enlarged to `wanted`."""
    if wanted[0] > stored[0] or wanted[1] > stored[1]:
        raise UserError(
            f"the model wants {wanted[0]} x {wanted[1]} pixels and the images have {stored[0]} x {stored[1]}, and enlarging adds "
            f"nothing: set data.image_size to at most [{stored[0]}, {stored[1]}], or ingest again with a larger --size"
        )


def build(
    model: config.Model, *, outputs: int, image_size: tuple[int, int], mean: float, deviation: float
) -> Classifier:
    """The classifier that `model` asks for, with its first weights, on the CPU and in train mode.

    `image_size` is (height, width) in pixels, `mean` and `deviation` are of gray values in 0 to 1. Fresh weights are
    drawn from torch's global generator; with one seed, stems `gray` and `repeat` start as the same function. Raises
    `UserError` for an unknown name, a size that the architecture cannot take, and weights that do not fit."""
    classifier = _assemble(
        name=model.name,
        options=model.options,
        stem=model.stem,
        dropout=model.dropout,
        outputs=outputs,
        image_size=image_size,
        mean=mean,
        deviation=deviation,
    )
    _try(classifier)
    weights.load(classifier.backbone, model.weights, name=model.name, outputs=outputs)
    return classifier


def from_description(description: Mapping[str, Any]) -> Classifier:
    """The module that `Classifier.describe` described, in eval mode, its weights yet to be loaded.

    Reads no weights' file and leaves torch's random numbers as they were. Raises `UserError` where the description
    is not one, or its architecture is no longer known."""
    needed = ["name", "options", "stem", "dropout", "outputs", "image_size", "mean", "deviation"]
    missing = [key for key in needed if key not in description]
    if missing:
        raise UserError(f"the model's description lacks {', '.join(missing)}: it was not written by this project")
    height, width = description["image_size"]
    values = {key: description[key] for key in needed} | {"image_size": (int(height), int(width))}
    with torch.random.fork_rng(devices=[]):
        return _assemble(**values).eval()


@contextmanager
def skeletons() -> Iterator[None]:
    """Within it, `build` takes no memory for weights and draws none: for counting and shapes. See `ends.Skeleton`."""
    with Skeleton(), torch.random.fork_rng(devices=[]):
        yield


def parameter_count(module: nn.Module, *, trainable: bool = False) -> int:
    """How many numbers the weights of `module` hold; `trainable`: only those that training moves."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)


@dataclass(frozen=True)
class Listing:
    """A line of `cxr-ray models`: parameters with a gray stem and `outputs` outputs at `image_size` (height, width)."""

    name: str
    parameters: int
    image_size: tuple[int, int]
    stems: tuple[str, ...]
    about: str


def listing(name: str, *, outputs: int = 14) -> Listing:
    """One model's line, at the size it is usually fed. No weights are made. Raises `UserError` for an unknown name."""
    entry = MODELS[name]
    size = natural_size(entry)
    with skeletons():
        network = entry.make(
            outputs=outputs, channels=1, image_size=size, options=entry.parse({}, where="model.options")
        )
    return Listing(name, parameter_count(network), size, tuple(CHANNELS), entry.about)


def table(*, outputs: int = 14) -> list[Listing]:
    """Every model's line, by name (about ten seconds for all of torchvision)."""
    return [listing(entry.name, outputs=outputs) for entry in MODELS]


def natural_size(entry: Entry[Any]) -> tuple[int, int]:
    """(height, width) in pixels that a model is usually fed; its `Options` may say it in `natural_size`, else 224 x 224."""
    height, width = getattr(entry.options, "natural_size", (224, 224))
    return (int(height), int(width))


def _assemble(
    *,
    name: str,
    options: Mapping[str, Any],
    stem: str,
    dropout: float,
    outputs: int,
    image_size: tuple[int, int],
    mean: float,
    deviation: float,
) -> Classifier:
    """A classifier with fresh weights."""
    entry = MODELS[name]
    parsed = entry.parse(dict(options), where="model.options")
    if stem not in CHANNELS:
        raise UserError(f"model.stem {stem!r} is not known: {' or '.join(CHANNELS)}")
    if min(image_size) < 1 or outputs < 1:
        raise UserError(
            f"a model needs outputs and pixels, got {outputs} outputs and {image_size[0]} x {image_size[1]} pixels"
        )
    if not deviation > 0.0:
        raise UserError(
            f"the deviation that images are divided by must be above 0, got {deviation}: set data.normalize: [mean, deviation]"
        )
    backbone = entry.make(outputs=outputs, channels=CHANNELS[stem], image_size=tuple(image_size), options=parsed)
    if dropout > 0.0:
        drop_before_head(backbone, outputs, dropout)
    return Classifier(
        backbone,
        name=name,
        options=options,
        stem=stem,
        dropout=dropout,
        outputs=outputs,
        image_size=(image_size[0], image_size[1]),
        mean=mean,
        deviation=deviation,
    )


def _try(classifier: Classifier) -> None:
    """One black image through the network: a size it cannot take is told now, not after the first batch is read."""
    height, width = classifier.image_size
    device = next(classifier.backbone.parameters()).device
    was = classifier.training
    try:
        with torch.no_grad():
            black = torch.zeros((1, classifier.channels, height, width), device=device)
            logits = classifier.eval().backbone(black)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(
            f"{classifier.name} does not take images of {height} x {width} ({str(error).splitlines()[0]}): "
            f"set another data.image_size; it is usually fed {' x '.join(map(str, natural_size(MODELS[classifier.name])))}"
        ) from error
    finally:
        classifier.train(was)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (1, classifier.outputs):
        shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(
            f"model {classifier.name!r} gives {shape} for one image, not logits [1, {classifier.outputs}]: mend its forward"
        )
