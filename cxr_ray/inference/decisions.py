"""From probabilities to what is decided: recalibrated probabilities, and yes or no at a run's operating points."""
# N inputs, L labels

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_ray.metrics.table import decide

LARGEST = "the largest probability"
"""How classes are decided."""
Calibrate = Callable[[npt.NDArray[Any]], npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Decisions:
    """The operating points and the calibrator of a run."""

    labels: tuple[str, ...]
    task: str
    thresholds: Mapping[str, float]
    """By label; positive is a probability of at least that. Empty for classes."""
    rule: str
    """How the thresholds were chosen, in words; `LARGEST` for classes."""
    calibration: str | None = None
    """Method of the calibrator, if there is one."""
    calibrate: Calibrate | None = None
    """Probabilities [N, L] to calibrated ones."""
    calibrator: str | None = None
    """Digest of its parameters."""

    def decide(self, prob_NL: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """Whether each label is positive [N, L]. Raises `UserError` for probabilities that are none: the model diverged."""
        unknown = np.full(prob_NL.shape, np.nan, np.float32)
        thresholds_L = [self.thresholds.get(label, np.nan) for label in self.labels]
        table = decide(unknown, prob_NL, labels=self.labels, task=self.task, thresholds_L=thresholds_L)
        return table.positive_NL

    def calibrated(self, prob_NL: npt.NDArray[np.float32]) -> npt.NDArray[np.float32] | None:
        """Calibrated probabilities [N, L]; None without a calibrator."""
        return None if self.calibrate is None else np.asarray(self.calibrate(prob_NL), np.float32)

    def describe(self) -> dict[str, Any]:
        """As plain JSON, for the metadata of an output."""
        return {
            "decision": self.rule,
            "thresholds": dict(self.thresholds) or None,
            "calibration": self.calibration,
            "calibrator": self.calibrator,
        }
