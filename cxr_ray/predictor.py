"""Batches of images to probabilities: the one way that evaluate, predict and explain use a trained model."""
# N images, L labels

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cxr_ray import batches, losses, precision, runs
from cxr_ray.context import pick_device
from cxr_ray.engine import Data
from cxr_ray.models import saved


class Predictor:
    """A trained model on a device. `predictor(images)` takes uint8 [N, H, W] and gives probabilities float32 [N, L]."""

    def __init__(self, model: saved.Saved, device: torch.device) -> None:
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
        out = [self(pixels) for _, pixels in batches.judging_batches(store, rows, batch_size=batch_size)]
        return np.concatenate(out) if out else np.zeros((0, len(self.labels)), np.float32)


def load(run: runs.Run | str | Path, *, gpu: bool | str = "auto") -> Predictor:
    """The predictor of a run (or its folder). Raises `UserError` where the run has no model yet."""
    opened = run if isinstance(run, runs.Run) else runs.load(run)
    device = pick_device(gpu)
    return Predictor(saved.read(opened.weights), device)
