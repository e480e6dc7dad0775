"""The model that a run saves: its weights taken from the checkpoint of the selected epoch."""

from cxr_ray import models
from cxr_ray.data.plan import Plan
from cxr_ray.models import serialization
from cxr_ray.runs import Run
from cxr_ray.training import checkpoint as checkpoints
from cxr_ray.training.checkpoint import Tensors

EMA = "ema."
"""Before the names of the moving average's tensors, which a checkpoint holds beside the model's."""


def save_model(run: Run, model: models.Classifier, plan: Plan, *, select: str, precision: str) -> dict[str, int] | None:
    """Write the run's `model.safetensors` from the checkpoint of the epoch that `select` (best, last) says; its epoch and step,
    or None where no epoch was judged yet. `model` is the run's architecture; its own weights are not read."""
    # Not `last`: that one may lie within an epoch, and its predictions of val are those of the epoch before.
    place = checkpoints.pointed(run.path / "checkpoints", "judged" if select == "last" else select)
    if place is None:
        return None
    tensors, _, state, _ = checkpoints.load(place)
    weights, average = split_ema(tensors)
    serialization.write(run.weights, model, average or weights, labels=plan.labels, task=plan.task, precision=precision)
    return {"epoch": state["epoch"], "step": state["step"]}


def merge_ema(weights: Tensors, average: Tensors) -> Tensors:
    """A model's weights and their moving average (empty where none is kept) as one checkpoint holds them."""
    return {**weights, **{EMA + name: value for name, value in average.items()}}


def split_ema(tensors: Tensors) -> tuple[Tensors, Tensors]:
    """What `joined` has joined."""
    weights = {name: value for name, value in tensors.items() if not name.startswith(EMA)}
    return weights, {name.removeprefix(EMA): value for name, value in tensors.items() if name.startswith(EMA)}
