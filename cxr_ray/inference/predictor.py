"""Batches of images to probabilities: the one way that a trained model is used."""
# N images, L labels

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cxr_ray import losses, runs
from cxr_ray.data import loader
from cxr_ray.data.loader import Data
from cxr_ray.errors import UserError
from cxr_ray.models import serialization
from cxr_ray.runtime import precision
from cxr_ray.runtime.context import pick_device


class Predictor:
    """A trained model on a device. `predictor(images)` takes uint8 [N, H, W] and gives probabilities float32 [N, L]."""

    def __init__(self, model: serialization.Saved, device: torch.device) -> None:
        self.labels, self.task = model.labels, model.task
        self._device = device
        wanted = model.precision if precision.has_bf16(device) else "fp32"
        self._precision = precision.pick(wanted, device)
        self._model = model.model.to(device, memory_format=self._precision.layout).eval()

    def __call__(self, images_NHW: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Probabilities [N, L] of gray images [N, H, W], values 0 to 255; for classes each row sums to one."""
        with torch.inference_mode(), self._precision.autocast(self._device):
            logits = self._model(torch.from_numpy(np.ascontiguousarray(images_NHW)).to(self._device)).float()
        return losses.probabilities(logits, task=self.task).cpu().numpy()

    def rows(self, store: Data, rows: npt.NDArray[np.int64], *, batch_size: int = 64) -> npt.NDArray[np.float32]:
        """Probabilities [N, L] of store rows [N], in their order."""
        out = [self(pixels) for _, pixels in loader.eval_batches(store, rows, batch_size=batch_size)]
        return np.concatenate(out) if out else np.zeros((0, len(self.labels)), np.float32)


class Ensemble(Predictor):
    """Several predictors as one: the mean of their probabilities. Each resizes and normalises by itself."""

    def __init__(self, members: Sequence[Predictor]) -> None:
        self.labels, self.task = members[0].labels, members[0].task
        self._members = members

    def __call__(self, images_NHW: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Mean probabilities [N, L] of gray images [N, H, W]."""
        mean = np.mean([member(images_NHW) for member in self._members], axis=0, dtype=np.float64)
        return np.asarray(mean, dtype=np.float32)


def load(run: runs.Run | str | Path, *, gpu: bool | str = "auto") -> Predictor:
    """The predictor of a run (or its folder); of an ensemble, of its members together.

    Raises `UserError` where the run, or a member, has no model, and where members say other things than the ensemble."""
    opened = run if isinstance(run, runs.Run) else runs.load(run)
    device = pick_device(gpu)
    members = opened.members
    if not members:
        return Predictor(serialization.read(opened.weights), device)
    held = [Predictor(serialization.read(member.weights), device) for member in members]
    wanted = tuple(opened.info["labels"]), opened.info["task"]
    for member, each in zip(members, held, strict=True):
        if (each.labels, each.task) != wanted:
            raise UserError(
                f"the ensemble {opened.path.name} is of {wanted[1]} {', '.join(wanted[0])}, and its member {member.path.name} of "
                f"{each.task} {', '.join(each.labels)}; make the ensemble anew"
            )
    return Ensemble(held)
