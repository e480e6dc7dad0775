"""Probabilities for batches of images from a trained run or an ensemble. Every prediction of a trained model is made here."""
# N images, H height, W width, L labels

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cxr_ray import losses, runs
from cxr_ray.data import loader
from cxr_ray.data.loader import TrainingStore
from cxr_ray.errors import UserError
from cxr_ray.models import serialization
from cxr_ray.runtime import precision
from cxr_ray.runtime.context import pick_device


class Predictor:
    """A trained model on a device. `predictor(images)` takes uint8 [N, H, W] and gives probabilities float32 [N, L]."""

    def __init__(self, saved: serialization.SavedModel, device: torch.device) -> None:
        self.labels, self.task = saved.labels, saved.task
        self._device = device
        self._precision = precision.pick(saved.precision if precision.has_bf16(device) else "fp32", device)
        self._model = saved.model.to(device, memory_format=self._precision.layout).eval()

    def __call__(self, images_NHW: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Probabilities [N, L] of gray images [N, H, W] of values 0 to 255; for classes each row sums to one."""
        with torch.inference_mode(), self._precision.autocast(self._device):
            logits = self._model(torch.from_numpy(np.ascontiguousarray(images_NHW)).to(self._device)).float()
        return losses.probabilities(logits, task=self.task).cpu().numpy()

    def rows(
        self, store: TrainingStore, rows: npt.NDArray[np.int64], *, batch_size: int = 64
    ) -> npt.NDArray[np.float32]:
        """Probabilities [N, L] of store rows [N], in their order."""
        batches = [self(pixels) for _, pixels in loader.eval_batches(store, rows, batch_size=batch_size)]
        return np.concatenate(batches) if batches else np.zeros((0, len(self.labels)), np.float32)


class Ensemble(Predictor):
    """The mean probabilities of several predictors. Each has its own image size and normalisation."""

    def __init__(self, members: Sequence[Predictor]) -> None:
        self.labels, self.task = members[0].labels, members[0].task
        self._members = members

    def __call__(self, images_NHW: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Mean probabilities [N, L] of gray images [N, H, W]."""
        mean = np.mean([member(images_NHW) for member in self._members], axis=0, dtype=np.float64)
        return np.asarray(mean, dtype=np.float32)


def load(run: runs.Run | str | Path, *, gpu: bool | str = "auto") -> Predictor:
    """The predictor of a run or its folder; for an ensemble, of all its members.

    Raises `UserError` if the run or a member has no model, and if a member's labels or task differ from the ensemble's."""
    run = run if isinstance(run, runs.Run) else runs.load(run)
    device = pick_device(gpu)
    members = run.members
    if not members:
        return Predictor(serialization.read(run.weights), device)
    predictors = [Predictor(serialization.read(member.weights), device) for member in members]
    labels, task = tuple(run.info["labels"]), run.info["task"]
    for member, predictor in zip(members, predictors, strict=True):
        if (predictor.labels, predictor.task) != (labels, task):
            raise UserError(
                f"the ensemble {run.path.name} is of {task} {', '.join(labels)}, and its member {member.path.name} of "
                f"{predictor.task} {', '.join(predictor.labels)}; create the ensemble again"
            )
    return Ensemble(predictors)
