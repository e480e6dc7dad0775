"""Mixup: each image of a global batch is mixed with another one (Zhang et al. 2018), the same at any number of workers.

The partner and its weight depend only on (seed, epoch, positions of the global batch). A rank that needs a partner reads and
augments it in the same way as the rank that owns it, so ranks need not communicate.
"""
# N images of a rank's slice, G images of the global batch, L labels, H x W pixels

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import betaincinv
from torch import Tensor

from cxr_ray.data.counter_rng import COLUMNS, RING, SHARE, uniforms


@dataclass(frozen=True)
class Pairs:
    """The partners in a global batch."""

    other: npt.NDArray[np.int64]
    """Position in the batch of each image's partner [G], a permutation."""
    share: npt.NDArray[np.float32]
    """Weight of the image itself [G], from 0.5 to 1; its partner has the rest."""

    def targets(self, truth_GL: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Mixed targets [G, L]; NaN if either one is unknown."""
        share = self.share[:, None]
        return truth_GL * share + truth_GL[self.other] * (1.0 - share)


def pairs(alpha: float, *, seed: int, epoch: int, positions: npt.NDArray[np.int64]) -> Pairs:
    """The partners in a global batch at `positions` [G] of its epoch.

    The images form a ring in the order of their random numbers, and the next one is the partner: with two images or more
    nobody is its own partner. Shares are max(l, 1 - l) with l from Beta(alpha, alpha), as in fastai. These are the same
    mixtures as with l, but each has the label of its larger image, so train metrics with the image's own label stay
    meaningful."""
    u = uniforms(seed, epoch, positions, COLUMNS)
    ring = np.argsort(u[:, RING], kind="stable")
    other = np.empty(len(ring), dtype=np.int64)
    other[ring] = np.roll(ring, -1)
    share = betaincinv(alpha, alpha, u[:, SHARE])
    return Pairs(other, np.maximum(share, 1.0 - share).astype(np.float32))


def blend(images_NHW: Tensor, others_NHW: Tensor, share_N: npt.NDArray[np.float32]) -> Tensor:
    """Mixed images, float32 [N, H, W]: `share_N` of each image plus the rest of its partner. Values stay in 0 to 255."""
    share = torch.from_numpy(share_N).to(images_NHW.device, non_blocking=True)[:, None, None]
    return images_NHW * share + others_NHW * (1.0 - share)
