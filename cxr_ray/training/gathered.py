"""Model outputs of an epoch: collected batch by batch on each rank, then gathered from all ranks for the metrics."""
# N rows of this rank, M rows of all ranks, S samples of an epoch, L labels

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
    """This rank's train outputs of an epoch in progress: at most `samples` S rows of `labels` L on `device`.

    They are copied into buffers that are made once. Kept as they come, one after each step, they would lie in the blocks that the
    step's activations have left, those of the next step would find no place there, and memory would grow with every step."""

    def __init__(self, samples: int, labels: int, *, device: torch.device) -> None:
        self._position_S = np.empty(samples, np.int64)
        self._logit_SL = torch.empty((samples, labels), device=device)
        self._rows = 0
        self.batches = 0
        """Global batches done since the epoch began."""

    def add(self, positions_N: npt.NDArray[np.int64], logits_NL: torch.Tensor) -> None:
        """Add a batch: its positions in the epoch's order and its logits. Does not wait for the device."""
        self._append(positions_N, logits_NL)
        self.batches += 1

    def restore(self, positions_N: npt.NDArray[np.int64], logits_NL: torch.Tensor, *, batches: int) -> None:
        """Replace all by outputs that a checkpoint holds, of the first `batches` of the epoch."""
        self._rows = 0
        self._append(positions_N, logits_NL)
        self.batches = batches

    def clear(self) -> None:
        """Prepare for the next epoch."""
        self._rows = self.batches = 0

    def _append(self, positions_N: npt.NDArray[np.int64], logits_NL: torch.Tensor) -> None:
        here = slice(self._rows, self._rows + len(positions_N))
        self._position_S[here], self._logit_SL[here] = positions_N, logits_NL
        self._rows = here.stop

    def gather(self) -> tuple[npt.NDArray[np.int64], torch.Tensor]:
        """Positions in the epoch's order [M] and logits [M, L] of all ranks, on the CPU. Every rank calls it.

        They may be views, valid until the next `add`."""
        own = slice(self._rows)
        positions = torch.from_numpy(self._position_S[own]).to(self._logit_SL.device)
        logits = distributed.gather_rows(self._logit_SL[own]).cpu()
        return distributed.gather_rows(positions).cpu().numpy(), logits
