"""Models: the `Classifier` (all preprocessing and a network), built by name. Architectures live one file a family.

The classifier takes gray values 0 to 255 as the store holds them and gives logits; device resize, scaling,
normalisation and channels are inside it, so that training, judging and prediction cannot differ.
"""
# N images, H height, W width, L outputs

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from cxr_ray import config
from cxr_ray.errors import UserError
from cxr_ray.models import dropout as dropouts
from cxr_ray.models import norms, weights
from cxr_ray.models.classifier import CHANNELS, Classifier, auxiliary_names
from cxr_ray.models.family import Family
from cxr_ray.models.heads import Skeleton, append_head, head_name
from cxr_ray.registry import MODELS, Entry

LIBRARY_CLASSES = 1000
"""Outputs of the layer that `head: append` keeps: ImageNet's classes."""


def build(
    model: config.Model, *, outputs: int, image_size: tuple[int, int], mean: float, deviation: float
) -> Classifier:
    """The classifier that `model` asks for, with its first weights, on the CPU and in train mode.

    `image_size` is (height, width) in pixels, `mean` and `deviation` are of gray values in 0 to 1. Fresh weights are
    drawn from torch's global generator; with one seed, stems `gray` and `repeat` start as the same function. Raises
    `UserError` for an unknown name, a size that the architecture cannot take, weights that do not fit, and a backbone that is
    to be frozen as it was drawn."""
    if model.freeze_epochs and model.weights == "none":
        raise UserError(
            "model.freeze_epochs: a backbone without weights has nothing worth holding; set model.weights, or freeze_epochs to 0"
        )
    classifier = _assemble(
        name=model.name,
        options=model.options,
        stem=model.stem,
        dropout=model.dropout,
        dropout_where=model.dropout_where,
        head=model.head,
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
    values = {key: description[key] for key in [*needed, "dropout_where", "head"] if key in description}
    values["image_size"] = (int(height), int(width))
    with torch.random.fork_rng(devices=[]):
        return _assemble(**values).eval()


@contextmanager
def skeletons() -> Iterator[None]:
    """Within it, `build` takes no memory for weights and draws none: for counting and shapes. See `ends.Skeleton`."""
    with Skeleton(), torch.random.fork_rng(devices=[]):
        yield


def family_of(entry: Entry[Any]) -> type[Family]:
    """What a registered model says of its family; plain `Options` say nothing, and get the defaults."""
    return entry.options if issubclass(entry.options, Family) else Family


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
    dropout_where: str = "head",
    head: str = "replace",
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
    first = LIBRARY_CLASSES if head == "append" else outputs
    backbone = entry.make(outputs=first, channels=CHANNELS[stem], image_size=tuple(image_size), options=parsed)
    if head == "append":
        heads = [head_name(backbone, first)]
        heads += [f"{part}.{head_name(backbone.get_submodule(part), first)}" for part in auxiliary_names(backbone)]
        for each in heads:
            append_head(backbone, each, outputs)
    if dropout > 0.0 and dropout_where == "maps":
        dropouts.of_maps(backbone, dropout)
    elif dropout > 0.0:
        dropouts.before_head(backbone.get_submodule(head_name(backbone, outputs)), dropout)
    norms.take_one(backbone)
    return Classifier(
        backbone,
        name=name,
        options=options,
        stem=stem,
        dropout=dropout,
        dropout_where=dropout_where,
        head=head,
        outputs=outputs,
        image_size=(image_size[0], image_size[1]),
        mean=mean,
        deviation=deviation,
    )


def _try(classifier: Classifier) -> None:
    """One black image through the network: a size it cannot take is told now, not after the first batch is read."""
    height, width = classifier.image_size
    if any(p.is_meta for p in classifier.backbone.parameters()):  # a skeleton: what has memory goes after the rest
        classifier.backbone.to("meta")
    device = next(classifier.backbone.parameters()).device
    was = classifier.training
    try:
        with torch.no_grad():
            black = torch.zeros((1, classifier.channels, height, width), device=device)
            logits = classifier.eval().backbone(black)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(
            f"{classifier.name} does not take images of {height} x {width} ({str(error).splitlines()[0]}): "
            f"set another data.image_size; it is usually fed {' x '.join(map(str, family_of(MODELS[classifier.name]).natural_size))}"
        ) from error
    finally:
        classifier.train(was)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (1, classifier.outputs):
        shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(
            f"model {classifier.name!r} gives {shape} for one image, not logits [1, {classifier.outputs}]: mend its forward"
        )
