"""The model that a run trains and keeps: built as its config and its data say, its weights from the checkpoint to be kept."""

from typing import Any, Protocol

from cxr_ray import checkpoints, models, shards
from cxr_ray import config as cfg
from cxr_ray.batches import Images
from cxr_ray.checkpoints import Tensors
from cxr_ray.models import saved
from cxr_ray.plan import Plan
from cxr_ray.runs import Run

EMA = "ema."
"""Before the names of the moving average's tensors, which a checkpoint holds beside the model's."""


class Data(Images, Protocol):
    """What a training needs of a store."""

    @property
    def index(self) -> Any: ...


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
    mean, deviation = shards.pooled(store.index[store.index["row"].isin(plan.rows["train"])])
    return mean / 255.0, max(deviation / 255.0, 1e-6)


def keep(run: Run, model: models.Classifier, plan: Plan, *, select: str, precision: str) -> dict[str, int] | None:
    """Write the run's `model.safetensors` from the checkpoint of the epoch that `select` (best, last) says; its epoch and step,
    or None where no epoch was judged yet. `model` is the run's architecture; its own weights are not read."""
    # Not `last`: that one may lie within an epoch, and its predictions of val are those of the epoch before.
    place = checkpoints.pointed(run.path / "checkpoints", "judged" if select == "last" else select)
    if place is None:
        return None
    tensors, _, state, _ = checkpoints.load(place)
    weights, average = parted(tensors)
    saved.write(run.weights, model, average or weights, labels=plan.labels, task=plan.task, precision=precision)
    return {"epoch": state["epoch"], "step": state["step"]}


def joined(weights: Tensors, average: Tensors) -> Tensors:
    """A model's weights and their moving average (empty where none is kept) as one checkpoint holds them."""
    return {**weights, **{EMA + name: value for name, value in average.items()}}


def parted(tensors: Tensors) -> tuple[Tensors, Tensors]:
    """What `joined` has joined."""
    weights = {name: value for name, value in tensors.items() if not name.startswith(EMA)}
    return weights, {name.removeprefix(EMA): value for name, value in tensors.items() if name.startswith(EMA)}
