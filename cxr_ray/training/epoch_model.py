"""The model of a run at one of its epochs: from a checkpoint that is still there, or the untrained one, built as a training starts."""

from pathlib import Path

import torch

from cxr_ray.data.loader import TrainingStore
from cxr_ray.data.plan import Plan
from cxr_ray.errors import UserError, listed
from cxr_ray.models import serialization
from cxr_ray.runs import Run
from cxr_ray.training import build, checkpoint, export

UNTRAINED = 0


def available(run: Run) -> list[int]:
    """The epochs whose model can be read or built, ascending. `UNTRAINED` is always among them."""
    kept = run.info.get("kept")
    return sorted({UNTRAINED, *_checkpoints(run), *([int(kept["epoch"])] if kept and run.weights.exists() else [])})


def load(run: Run, epoch: int, plan: Plan, store: TrainingStore) -> serialization.SavedModel:
    """The model of `run` after `epoch`; 0 is the untrained one, built again from the run's seed and initial weights.

    `plan` and `store` are those of the training. Where the training averaged its weights, it is their average. Raises `UserError` for
    an ensemble, and with the available epochs if the one asked for is not among them."""
    check(run, epoch)
    info = run.info
    precision = str(info.get("precision") or "fp32")
    labels, task = tuple(info["labels"]), str(info["task"])
    if epoch == UNTRAINED:
        with torch.random.fork_rng(devices=[]):
            _, model = build.initial(run.config, plan, store)
        return serialization.SavedModel(model.eval(), labels, task, precision)
    saved = serialization.read(run.weights)
    path = _checkpoints(run).get(epoch)
    if path is not None:
        weights, average = export.split_ema(checkpoint.load(path).model)
        saved.model.load_state_dict(average or weights)
    return saved


def check(run: Run, epoch: int) -> None:
    """Raise `UserError` unless the model of `epoch` is available."""
    if run.info.get("members"):
        raise UserError(
            f"{run.path.name} is an ensemble, and each of its members has epochs of its own: evaluate a member, such as "
            f"{run.members[0].path}"
        )
    known = available(run)
    if epoch not in known:
        raise UserError(
            f"the model of epoch {epoch} of {run.path.name} is not kept: a training keeps the checkpoints of the last and of the "
            f"selected epoch; there are {listed([str(e) for e in known])} (0 is the untrained model)"
        )


def _checkpoints(run: Run) -> dict[int, Path]:
    """Epoch to its complete checkpoint. Those within an epoch are none of an epoch."""
    found = {}
    for path in sorted((run.path / "checkpoints").glob("step-*")):
        if checkpoint.is_complete(path):
            state = checkpoint.read_state(path)
            if not state["batches"]:
                found[int(state["epoch"])] = path
    return found
