"""Builds a `Classifier` from the configuration, or from the description in a saved model. Architectures: one file per family."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from cxr_ray import config
from cxr_ray.errors import UserError
from cxr_ray.models import dropout, norms, weights
from cxr_ray.models.classifier import GRAY_RANGE, Classifier, ClassifierSpec, auxiliary_names
from cxr_ray.models.family import Family
from cxr_ray.models.heads import append_head, head_name
from cxr_ray.models.skeleton import Skeleton
from cxr_ray.registry import MODELS, Entry

LIBRARY_CLASSES = 1000
"""Outputs of the layer that `head: append` preserves: ImageNet's classes."""


def build(
    model: config.Model,
    *,
    outputs: int,
    image_size: tuple[int, int],
    mean: float,
    deviation: float,
    value_range: tuple[float, float] = GRAY_RANGE,
) -> Classifier:
    """The classifier of the configuration `model`, with its first weights, on the CPU and in train mode.

    `image_size` is (height, width) in pixels; `mean` and `deviation` are of gray values scaled to 0 to 1; `value_range` is (black,
    white) of float images. Fresh weights come
    from torch's global generator; with one seed, stems `gray` and `repeat` start as the same function. Raises `UserError`
    for an unknown name, a size that the architecture cannot take, weights that do not fit, and a backbone that would be
    frozen at random weights."""
    if model.freeze_epochs and model.weights == "none":
        raise UserError(
            "model.freeze_epochs: a backbone with random weights is not worth freezing; set model.weights, or freeze_epochs to 0"
        )
    spec = ClassifierSpec(
        name=model.name,
        options=model.options,
        stem=model.stem,
        dropout=model.dropout,
        dropout_where=model.dropout_where,
        head=model.head,
        outputs=outputs,
        image_size=(image_size[0], image_size[1]),
        mean=float(mean),
        deviation=float(deviation),
        value_range=(float(value_range[0]), float(value_range[1])),
    )
    classifier = _assemble(spec)
    _check_forward(classifier)
    weights.load(classifier.backbone, model.weights, name=model.name, outputs=outputs)
    return classifier


def rebuild(spec: ClassifierSpec) -> Classifier:
    """The module of a saved model, in eval mode and with random weights, to be loaded by the caller.

    Reads no file and leaves torch's random generator unchanged. Raises `UserError` if the architecture is not known."""
    with torch.random.fork_rng(devices=[]):
        return _assemble(spec).eval()


@contextmanager
def skeletons() -> Iterator[None]:
    """Inside the block `build` allocates no memory for weights and draws no random numbers: for counts and shapes only."""
    with Skeleton(), torch.random.fork_rng(devices=[]):
        yield


def family_of(entry: Entry[Any]) -> type[Family]:
    """The `Family` of a registered model; the defaults if its options do not derive from it."""
    return entry.options if issubclass(entry.options, Family) else Family


def _assemble(spec: ClassifierSpec) -> Classifier:
    """A classifier with random weights."""
    entry = MODELS[spec.name]
    options = entry.parse(dict(spec.options), where="model.options")
    outputs = LIBRARY_CLASSES if spec.head == "append" else spec.outputs
    backbone = entry.make(outputs=outputs, channels=spec.channels, image_size=spec.image_size, options=options)
    if spec.head == "append":
        heads = [head_name(backbone, outputs)]
        heads += [f"{part}.{head_name(backbone.get_submodule(part), outputs)}" for part in auxiliary_names(backbone)]
        for name in heads:
            append_head(backbone, name, spec.outputs)
    if spec.dropout > 0.0 and spec.dropout_where == "maps":
        dropout.add_to_maps(backbone, spec.dropout)
    elif spec.dropout > 0.0:
        dropout.add_before_head(backbone.get_submodule(head_name(backbone, spec.outputs)), spec.dropout)
    norms.allow_single_values(backbone)
    return Classifier(backbone, spec)


def _check_forward(classifier: Classifier) -> None:
    """Run one black image through the network, so that an unsuitable size is reported before any data is read."""
    spec = classifier.spec
    height, width = spec.image_size
    if any(p.is_meta for p in classifier.backbone.parameters()):  # a skeleton: move the rest to the meta device too
        classifier.backbone.to("meta")
    device = next(classifier.backbone.parameters()).device
    was_training = classifier.training
    try:
        with torch.no_grad():
            black = torch.zeros((1, spec.channels, height, width), device=device)
            logits = classifier.eval().backbone(black)
    except (RuntimeError, AssertionError, ValueError) as error:
        usual = " x ".join(map(str, family_of(MODELS[spec.name]).natural_size))
        raise UserError(
            f"{spec.name} does not take images of {height} x {width} ({str(error).splitlines()[0]}): "
            f"set another data.image_size; its usual input is {usual}"
        ) from error
    finally:
        classifier.train(was_training)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (1, spec.outputs):
        shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(
            f"model {spec.name!r} gives {shape} for one image, not logits [1, {spec.outputs}]: fix its forward"
        )
