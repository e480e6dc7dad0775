"""A trained model as one file: weights in safetensors, and in its header what rebuilds the module. No pickle."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from cxr_ray.errors import UserError
from cxr_ray.models import classifier
from cxr_ray.models import factory as models
from cxr_ray.storage.atomic import write_atomic

FORMAT = "cxr_ray model 1"


@dataclass(frozen=True)
class Saved:
    """A model read back: the module in eval mode, and what its outputs mean."""

    model: classifier.Classifier
    labels: tuple[str, ...]
    task: str
    precision: str


def write(
    path: Path,
    model: classifier.Classifier,
    tensors: Mapping[str, torch.Tensor],
    *,
    labels: Sequence[str],
    task: str,
    precision: str,
) -> None:
    """Write `tensors` (a `state_dict()` of `model`) to `path`, whole or not at all."""
    header = {"labels": list(labels), "task": task, "precision": precision, "model": model.describe()}
    body = save(
        {name: t.detach().contiguous().cpu() for name, t in tensors.items()},
        metadata={"format": FORMAT, "cxr_ray": json.dumps(header, sort_keys=True)},
    )
    write_atomic(path, body)


def read(path: Path) -> Saved:
    """The model in `path`, on the processor. Raises `UserError` where the file is not one of ours or is cut."""
    try:
        with safe_open(path, framework="pt", device="cpu") as held:
            meta: dict[str, Any] = held.metadata() or {}
            tensors = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118 - not a mapping
    except FileNotFoundError:
        raise UserError(f"no model at {path}; the run has not finished its first epoch") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a whole safetensors file ({error}); copy it again or train again") from None
    if meta.get("format") != FORMAT:
        raise UserError(
            f"{path} was not written by this project: its header says {meta.get('format')!r}, not {FORMAT!r}"
        )
    header = json.loads(meta["cxr_ray"])
    model = models.from_description(header["model"])
    model.load_state_dict(tensors)
    return Saved(model, tuple(header["labels"]), header["task"], header["precision"])
