"""A trained model as one safetensors file: weights, and in the header what rebuilds the module. No pickle."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from cxr_ray.errors import UserError, unknown
from cxr_ray.labels import Task
from cxr_ray.models.classifier import Classifier, ClassifierSpec
from cxr_ray.models.factory import rebuild
from cxr_ray.storage.atomic import write_atomic

FORMAT = "cxr_ray model 1"


@dataclass(frozen=True)
class SavedModel:
    """A model read from a file: the module in eval mode, and what its outputs mean."""

    model: Classifier
    labels: tuple[str, ...]
    task: str
    precision: str


def write(
    path: Path,
    model: Classifier,
    tensors: Mapping[str, torch.Tensor],
    *,
    labels: Sequence[str],
    task: str,
    precision: str,
) -> None:
    """Write `tensors` (a `state_dict()` of `model`) to `path` atomically."""
    header = {"labels": list(labels), "task": task, "precision": precision, "model": model.describe()}
    write_atomic(path, to_bytes(tensors, {"format": FORMAT, "cxr_ray": json.dumps(header, sort_keys=True)}))


def to_bytes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file. Equal tensors and metadata give equal bytes: the library itself orders metadata at random, so that a checksum
    of the file would differ from run to run."""
    body = save({name: t.detach().contiguous().cpu() for name, t in tensors.items()}, metadata=dict(metadata))
    start = 8 + int.from_bytes(body[:8], "little")
    header = json.loads(body[8:start])
    ordered = {"__metadata__": dict(sorted(header.pop("__metadata__").items())), **header}
    text = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + body[start:]


def save_model(
    path: str | os.PathLike[str], model: torch.nn.Module, *, labels: Sequence[str], task: Task = "multilabel"
) -> None:
    """Save a model of `create_model`, or of a run, with everything that `load_model` and `load_predictor` need to know of it.

    `labels` are the names of its outputs in order; `task` is multilabel, multiclass (each image has exactly one label) or binary.
    Raises `UserError` for any other module, and if `labels` do not match its outputs."""
    if not isinstance(model, Classifier):
        raise UserError(f"save_model saves models of create_model and load_model, got {type(model).__name__}")
    if isinstance(labels, str) or len(labels) != model.spec.outputs or len(set(labels)) < len(labels):
        raise UserError(
            f"labels must be {model.spec.outputs} different names, one per output of the model, got {labels!r}"
        )
    if task not in get_args(Task):
        raise unknown("task", task, get_args(Task))
    if not all(isinstance(label, str) for label in labels):
        raise UserError(f"labels must be names, got {labels!r}")
    file = Path(path)
    if file.is_dir() or not file.absolute().parent.is_dir():
        raise UserError(
            f"save_model writes a file in an existing folder; give a name such as model.safetensors, got {file}"
        )
    write(file, model, model.state_dict(), labels=labels, task=task, precision="fp32")


def read(path: Path) -> SavedModel:
    """The model in `path`, on the CPU. Raises `UserError` if the file is truncated or not a model of this project."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            meta: dict[str, Any] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except FileNotFoundError:
        raise UserError(f"no model at {path}; give a file that `save_model` or a training wrote") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a complete safetensors file ({error}); copy it again or train again") from None
    if meta.get("format") != FORMAT:
        raise UserError(f"{path} was not written by this project: its format is {meta.get('format')!r}, not {FORMAT!r}")
    header = json.loads(meta["cxr_ray"])
    model = rebuild(ClassifierSpec.from_description(header["model"]))
    model.load_state_dict(tensors)
    return SavedModel(model, tuple(header["labels"]), header["task"], header["precision"])
