"""The validated table that every metric reads: truth, probability and decision of each cell. Computes no metric."""
# N rows, L labels

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_ray.errors import UserError, unknown
from cxr_ray.metrics.names import OVERALL_METRICS

Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Table:
    """N rows by L labels. Cells of unknown truth are False in `known_NL`; no metric may read them."""

    labels: tuple[str, ...]
    task: str
    known_NL: Bools
    true_NL: Bools
    prob_NL: Floats
    positive_NL: Bools
    """Predicted positive: probability >= threshold; for classes, the largest probability of the row (the first of equal ones)."""


def thresholds(spec: float | Mapping[str, float], labels: Sequence[str]) -> npt.NDArray[np.float64]:
    """Thresholds [L] from one number or from a mapping of labels (0.5 for missing labels).

    Raises `UserError` for an unknown label or a threshold outside [0, 1]."""
    per_label = spec if isinstance(spec, Mapping) else dict.fromkeys(labels, spec)
    for label, value in per_label.items():
        if label not in labels:
            raise unknown("label", label, labels, where=" in the thresholds")
        if not 0.0 <= float(value) <= 1.0:
            raise UserError(f"the threshold of {label!r} is {value}; a threshold is a probability in [0, 1]")
    return np.array([float(per_label.get(label, 0.5)) for label in labels], dtype=np.float64)


def decide(
    truth_NL: npt.ArrayLike, prob_NL: npt.ArrayLike, *, labels: Sequence[str], task: str, thresholds_L: npt.ArrayLike
) -> Table:
    """Validate truth (0, 1, NaN unknown) and probabilities, both [N, L], and decide every cell.

    Thresholds are first cast to the type of the probabilities, so that a float32 0.7 is `>= 0.7`.
    For classes (one column per class, truth one-hot) a row with an unknown cell is entirely unknown; thresholds are unused.
    Raises `ValueError` for wrong shapes or truth values, `UserError` for probabilities that are NaN or outside [0, 1]."""
    truth = np.asarray(truth_NL, dtype=np.float32)
    prob = np.asarray(prob_NL)
    if prob.dtype not in (np.float32, np.float64):
        prob = prob.astype(np.float64)
    if task not in OVERALL_METRICS:
        raise ValueError(f"task is {task!r}, not one of {', '.join(OVERALL_METRICS)}")
    if truth.ndim != 2 or truth.shape != prob.shape or truth.shape[1] != len(labels):
        raise ValueError(
            f"truth {truth.shape} and probabilities {prob.shape} are not both [rows, {len(labels)} labels]"
        )
    if task == "binary" and len(labels) != 1:
        raise ValueError(f"a binary table has one column, not {len(labels)}")
    known = ~np.isnan(truth)
    true = truth == 1.0
    if not (true | (truth == 0.0) | ~known).all():
        raise ValueError("truth has values other than 0, 1 and NaN: apply the label policy first")
    inside = (prob >= 0.0) & (prob <= 1.0)  # False for NaN too
    if not inside.all():
        column = int(np.argmin(inside.all(axis=0)))
        bad = prob[~inside[:, column], column]
        shown = "NaN" if np.isnan(bad[0]) else f"{bad[0]:g}"
        raise UserError(
            f"{bad.size} of {len(prob)} probabilities of {labels[column]!r} are outside [0, 1] (the first: {shown}); "
            "if the model was just trained, it diverged: lower optim.lr or set optim.clip_norm"
        )
    if task == "multiclass":
        known = np.repeat(known.all(axis=1, keepdims=True), len(labels), axis=1)
        classes = true.sum(axis=1)
        if not ((classes == 1) | ~known[:, 0]).all():
            raise ValueError("truth of a multiclass table must name exactly one class in every known row")
        positive = np.zeros(prob.shape, dtype=bool)
        if len(prob):
            positive[np.arange(len(prob)), np.argmax(prob, axis=1)] = True
    else:
        at_L = np.asarray(thresholds_L, dtype=np.float64).astype(prob.dtype)
        if at_L.shape != (len(labels),):
            raise ValueError(f"thresholds {at_L.shape} must be one per label ({len(labels)})")
        positive = prob >= at_L[None, :]
    return Table(tuple(labels), task, known, true & known, prob, positive)
