"""Mixup: each image of a global batch with another one of it (Zhang et al. 2018), the same at any number of workers.

Which other image and how much of it hangs on (seed, epoch, positions of the global batch) alone. The other image is gathered and
augmented by whoever needs it, as the rank that owns it does, so that ranks need not speak.
"""
# N images of a rank's slice, G images of the global batch, L labels

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import betaincinv
from torch import Tensor

from cxr_ray.data.counter_rng import COLUMNS, RING, SHARE, uniforms


@dataclass(frozen=True)
class Pairs:
    """Who is mixed with whom in a global batch."""

    other: npt.NDArray[np.int64]
    """Place in the batch of the image that each image is mixed with [G]; each image is so taken once."""
    share: npt.NDArray[np.float32]
    """What each image keeps of itself [G], from 0.5 to 1: an image stays more itself than the other."""

    def targets(self, truth_GL: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Mixed targets [G, L]; unknown where either is."""
        share = self.share[:, None]
        return truth_GL * share + truth_GL[self.other] * (1.0 - share)


def pairs(alpha: float, *, seed: int, epoch: int, positions: npt.NDArray[np.int64]) -> Pairs:
    """The pairs of a global batch that stands at `positions` [G] of its epoch.

    The images stand in a ring in the order of their random numbers, and each takes its neighbour: nobody takes itself where
    there are two. Shares are max(l, 1 - l) with l from Beta(alpha, alpha), as fastai has it: the same mixtures as with l, each
    under the name of its larger part, so that metrics of the train part against the image's own label keep their meaning."""
    u = uniforms(seed, epoch, positions, COLUMNS)
    ring = np.argsort(u[:, RING], kind="stable")
    other = np.empty(len(ring), dtype=np.int64)
    other[ring] = np.roll(ring, -1)
    kept = betaincinv(alpha, alpha, u[:, SHARE])
    return Pairs(other, np.maximum(kept, 1.0 - kept).astype(np.float32))


def blend(images_NHW: Tensor, others_NHW: Tensor, share_N: npt.NDArray[np.float32]) -> Tensor:
    """Float32 [N, H, W]: `share_N` of each image and the rest of its other one; values stay gray levels 0 to 255."""
    share = torch.from_numpy(share_N).to(images_NHW.device, non_blocking=True)[:, None, None]
    return images_NHW * share + others_NHW * (1.0 - share)
