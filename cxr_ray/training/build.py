"""The model that a run trains and keeps: built as its config and its data say, its weights from the checkpoint to be kept."""

from cxr_ray import config as cfg
from cxr_ray import models
from cxr_ray.data.loader import Data
from cxr_ray.data.plan import Plan
from cxr_ray.imaging import statistics


def build(config: cfg.Config, plan: Plan, store: Data) -> models.Classifier:
    """The model of a config for the plan's labels, normalised by the store's grays; weights as `model.weights` says."""
    mean, deviation = gray_statistics(store, plan, config.data.normalize)
    size = config.data.image_size or store.size
    return models.build(config.model, outputs=len(plan.labels), image_size=size, mean=mean, deviation=deviation)


def gray_statistics(store: Data, plan: Plan, normalize: str | tuple[float, float]) -> tuple[float, float]:
    """Mean and deviation, of gray values in 0 to 1, that the model's input is normalised by.

    dataset: over all pixels of the undrawn train rows, from the mean and variance that ingest kept of each image;
    imagenet: the mean over the colours of torchvision's (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225)."""
    if not isinstance(normalize, str):
        return float(normalize[0]), float(normalize[1])
    if normalize == "imagenet":
        return 0.449, 0.226
    if normalize == "none":
        return 0.0, 1.0
    mean, deviation = statistics.pooled(store.index[store.index["row"].isin(plan.rows["train"])])
    return mean / 255.0, max(deviation / 255.0, 1e-6)
