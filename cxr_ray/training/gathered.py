"""Model outputs of an epoch: collected batch by batch on each rank, then gathered from all ranks for the metrics."""
# N rows of this rank, M rows of all ranks, L labels

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from cxr_ray.runtime import distributed


class PartOutputs(NamedTuple):
    """A part's store rows [M], logits [M, L] (fp32, CPU, all ranks' rows in order) and their targets [M, L]."""

    rows: npt.NDArray[np.int64]
    logits: torch.Tensor
    truth: npt.NDArray[np.float32]


class EpochOutputs:
    """This rank's train outputs of an epoch in progress."""

    def __init__(self, positions: npt.NDArray[np.int64] | None = None, logits: torch.Tensor | None = None) -> None:
        self._positions = [] if positions is None else [positions]
        self._logits = [] if logits is None else [logits]
        self.batches = 0
        """Global batches done since the epoch began."""

    def add(self, positions_N: npt.NDArray[np.int64], logits_NL: torch.Tensor) -> None:
        """Add a batch: its positions in the epoch's order and its logits."""
        self._positions.append(positions_N)
        self._logits.append(logits_NL)
        self.batches += 1

    def gather(self, device: torch.device) -> tuple[npt.NDArray[np.int64], torch.Tensor]:
        """Positions in the epoch's order [M] and logits [M, L] of all ranks, on the CPU. Every rank calls it."""
        positions = torch.from_numpy(np.concatenate(self._positions)).to(device)
        logits = distributed.gather_rows(torch.cat(self._logits)).cpu()
        return distributed.gather_rows(positions).cpu().numpy(), logits
