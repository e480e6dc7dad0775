"""One trial of a sweep: its hyperparameters, status and values."""

from dataclasses import dataclass, field
from typing import Any

WAITING, RUNNING, FINISHED, STOPPED, FAILED = "waiting", "running", "finished", "stopped early", "failed"

ENDED = (FINISHED, STOPPED, FAILED)
"""What is not done again when a sweep goes on."""


@dataclass(frozen=True)
class Trial:
    """One combination of knobs (on one fold), and what it came to."""

    name: str
    """Its run folder's under `trials/`: 0007, or 0007-fold-2."""
    number: int
    hyperparameters: dict[str, Any]
    """By dotted name; empty for the config as written. Where pbt changed them, those that `epoch` was trained with."""
    fold: int | None = None
    base: bool = False
    """Whether this is the config as written, which the search is measured against."""
    status: str = WAITING
    error: str | None = None
    """Why it failed, in one line."""
    epochs: int = 0
    """Done."""
    epoch: int | None = None
    """The one whose model is kept and whose `values` these are."""
    seconds: float = 0.0
    """Of training, over all its starts."""
    values: dict[str, float] = field(default_factory=dict)
    """Val metrics of `epoch` by name (val/auroc/Edema); absent where undefined."""
    before: dict[str, Any] | None = None
    """What it began with, where pbt has changed that."""

    @property
    def sampled(self) -> dict[str, Any]:
        """The knobs that it began with."""
        return self.hyperparameters if self.before is None else self.before
