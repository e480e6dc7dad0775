"""The model that a run saves: weights from the checkpoint of the selected epoch. File format: models/serialization.py."""

from cxr_ray import models
from cxr_ray.data.plan import Plan
from cxr_ray.models import serialization
from cxr_ray.runs import Run
from cxr_ray.training import checkpoint as checkpoints
from cxr_ray.training.checkpoint import Tensors

EMA = "ema."
"""Prefix of the moving average's tensors in a checkpoint."""


def save_model(run: Run, model: models.Classifier, plan: Plan, *, select: str, precision: str) -> dict[str, int] | None:
    """Write the run's `model.safetensors` from the checkpoint of the epoch selected by `select` (best or last).

    Returns its epoch and step, or None if no epoch was evaluated yet. `model` gives the architecture; its weights are not used."""
    # Not the pointer `last`: its checkpoint may lie within an epoch, whereas val.parquet is of the epoch before.
    path = checkpoints.pointer_target(run.path / "checkpoints", "judged" if select == "last" else select)
    if path is None:
        return None
    tensors, _, state, _ = checkpoints.load(path)
    weights, average = split_ema(tensors)
    serialization.write(run.weights, model, average or weights, labels=plan.labels, task=plan.task, precision=precision)
    return {"epoch": state["epoch"], "step": state["step"]}


def merge_ema(weights: Tensors, average: Tensors) -> Tensors:
    """A model's weights and their moving average (empty if there is none) in one mapping, as a checkpoint stores them."""
    return {**weights, **{EMA + name: value for name, value in average.items()}}


def split_ema(tensors: Tensors) -> tuple[Tensors, Tensors]:
    """The inverse of `merge_ema`."""
    weights = {name: value for name, value in tensors.items() if not name.startswith(EMA)}
    return weights, {name.removeprefix(EMA): value for name, value in tensors.items() if name.startswith(EMA)}
