"""The network that makes features: of a run, of a file, or by name with published weights; and with another head on it."""

import os
from collections.abc import Sequence

from cxr_ray import config as cfg
from cxr_ray import runs
from cxr_ray.data import features
from cxr_ray.data.features import FeatureStore
from cxr_ray.errors import UserError, closest
from cxr_ray.models import factory, serialization
from cxr_ray.models.create import IMAGENET_GRAY
from cxr_ray.models.features import with_head
from cxr_ray.models.linear import Linear
from cxr_ray.models.serialization import SavedModel
from cxr_ray.registry import MODELS, load_plugins

OUTPUTS = 2
"""Outputs of the head of a network by name, which no feature depends on."""


def by_name(
    name: str, weights: str | os.PathLike[str], image_size: tuple[int, int], *, plugins: Sequence[str] = ()
) -> SavedModel:
    """The network `name` with `weights`: imagenet, a file, or the folder of a run; gray values are normalised as ImageNet's.

    Raises `UserError` for an unknown name and for weights that do not fit."""
    load_plugins(plugins)
    known = [entry.name for entry in MODELS]
    if name not in known:
        raise UserError(
            f"{name} is neither the folder of a run nor a model file, and no model has that name{closest(name, known)}: "
            "`cxr-ray models` lists them"
        )
    if name == "linear":
        raise UserError("the linear model has no features: choose a network that `cxr-ray models` lists")
    mean, deviation = IMAGENET_GRAY
    made = factory.build(
        cfg.Model(name=name, weights=os.fspath(weights)),
        outputs=OUTPUTS,
        image_size=image_size,
        mean=mean,
        deviation=deviation,
    )
    return SavedModel(made.eval(), tuple(f"output {i}" for i in range(OUTPUTS)), "multilabel", "auto")


def saved_model(run: runs.Run) -> SavedModel:
    """The trained model of a run that is no ensemble, from images to its labels.

    That of a run on features is the network that made them, with the run's head. Raises `UserError`, also if the features of the
    training are gone."""
    saved = serialization.read(run.weights)
    return saved if run.config.data.features is None else _on_network(saved, features_of(run))


def features_of(run: runs.Run) -> FeatureStore:
    """The features that `run` was trained on. Raises `UserError` if others are there now, or none."""
    found = features.open(run.config.data.features)
    features.check_unchanged(found, run.info)
    return found


def _on_network(head: SavedModel, source: FeatureStore) -> SavedModel:
    """The network that made the features of `source`, with the linear `head` that was trained on them. Every byte of it is checked:
    the head fits no other."""
    assert isinstance(head.model.backbone, Linear)
    source.check_bytes([source.embedder.name])
    saved = serialization.read(source.embedder)
    model = with_head(saved.model, *head.model.backbone.of_raw_values())
    return SavedModel(model, head.labels, head.task, source.manifest.precision)
