"""One trial of a sweep: its hyperparameters, status and metrics. It reads and writes no files."""

from dataclasses import dataclass, field
from typing import Any

WAITING, RUNNING, FINISHED, STOPPED, FAILED = "waiting", "running", "finished", "stopped early", "failed"

ENDED = (FINISHED, STOPPED, FAILED)
"""Statuses of trials that a resumed sweep does not train again."""


@dataclass(frozen=True)
class Trial:
    """One combination of hyperparameters (on one fold), and its results."""

    name: str
    """Name of its run folder in `trials/`: 0007, or 0007-fold-2."""
    number: int
    hyperparameters: dict[str, Any]
    """By dotted name; empty for the base configuration. If PBT changed them, those that `epoch` was trained with."""
    fold: int | None = None
    base: bool = False
    """Whether this is the base configuration, which the search is compared with."""
    status: str = WAITING
    error: str | None = None
    """Why it failed, in one line."""
    epochs: int = 0
    """Number of epochs done."""
    epoch: int | None = None
    """The selected epoch: that of the saved model and of `values`."""
    seconds: float = 0.0
    """Training time over all starts."""
    values: dict[str, float] = field(default_factory=dict)
    """Val metrics of `epoch` by name (val/auroc/Edema); undefined ones are absent."""
    changed_from: dict[str, Any] | None = None
    """Hyperparameters at the start, if PBT changed them since."""

    @property
    def initial(self) -> dict[str, Any]:
        """Hyperparameters at the start."""
        return self.hyperparameters if self.changed_from is None else self.changed_from
