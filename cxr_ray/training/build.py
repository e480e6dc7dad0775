"""The model that a run trains, built from its config and normalised by its data. Saving it: export.py."""

import numpy as np
import torch

from cxr_ray import config as cfg
from cxr_ray import losses, models
from cxr_ray.data.features import FeatureStore
from cxr_ray.data.loader import TrainingStore
from cxr_ray.data.plan import Plan
from cxr_ray.imaging import statistics
from cxr_ray.models.create import IMAGENET_GRAY
from cxr_ray.models.linear import Linear

SMALLEST_SCALE = 1e-6
"""A feature with a smaller standard deviation counts as constant."""


def initial(config: cfg.Config, plan: Plan, store: TrainingStore) -> tuple[losses.Loss, models.Classifier]:
    """The loss and the model before the first step. All that is random in them follows from the seed, by torch's global generator."""
    torch.manual_seed(config.seed)
    loss = losses.build(
        config.loss,
        task=plan.task,
        weight_L=plan.pos_weight,
        micro_batches=config.train.micro_batch is not None,
        mixed=config.augment.mixup > 0.0,
    )
    return loss, build(config, plan, store)


def build(config: cfg.Config, plan: Plan, store: TrainingStore) -> models.Classifier:
    """The model of `config` for the plan's labels, normalised by the store's gray values, with the weights of `model.weights`.

    On features: standardised by those of the train rows."""
    if isinstance(store, FeatureStore):
        return _on_features(config, plan, store)
    mean, deviation = gray_statistics(store, plan, config.data.normalize)
    size = config.data.image_size or store.size
    return models.build(config.model, outputs=len(plan.labels), image_size=size, mean=mean, deviation=deviation)


def gray_statistics(store: TrainingStore, plan: Plan, normalize: str | tuple[float, float]) -> tuple[float, float]:
    """Mean and standard deviation for the normalisation of gray values scaled to 0 to 1.

    dataset: over all pixels of the train rows, each counted once, from the mean and variance that ingest stored per image;
    imagenet: averages over colours of torchvision's."""
    if not isinstance(normalize, str):
        return float(normalize[0]), float(normalize[1])
    if normalize == "imagenet":
        return IMAGENET_GRAY
    if normalize == "none":
        return 0.0, 1.0
    mean, deviation = statistics.pooled_mean_std(store.index[store.index["row"].isin(plan.rows["train"])])
    return mean / 255.0, max(deviation / 255.0, 1e-6)


def _on_features(config: cfg.Config, plan: Plan, store: FeatureStore) -> models.Classifier:
    """The linear model of `config` on features, as they are, or each standardised by the train rows, counted once."""
    model = models.build(
        config.model, outputs=len(plan.labels), image_size=store.size, mean=0.0, deviation=1.0, value_range=(0.0, 1.0)
    )
    assert isinstance(model.backbone, Linear)
    if config.data.normalize == "dataset":
        train_ND = store.vectors(np.unique(plan.rows["train"])).astype(np.float64)
        scale_D = train_ND.std(axis=0)
        scale_D[scale_D < SMALLEST_SCALE] = 1.0  # a constant feature stays near zero
        model.backbone.standardize(torch.from_numpy(train_ND.mean(axis=0)), torch.from_numpy(scale_D))
    return model
