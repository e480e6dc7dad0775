"""The trivial rivals of a model: logistic regressions on a 16 x 16 thumbnail, and on its outer frame alone.

What a model must beat to have learnt something of the picture. The border shows what collimation, letters and padding
give away: a border that ranks well means the labels go with the source of the pictures.
"""
# N rows, F features, L labels

import warnings
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from cxr_ray.labels import nearest

Array = npt.NDArray[np.float64]

SIDE = 16
CHUNK = 512  # rows read at once: 26 MB at 224 px
PENALTY = (
    0.03  # C of scikit-learn, strong: neighbouring pixels say nearly the same. Best of 0.001 to 1 on three classes
)
STEPS = 500


class Images(Protocol):
    """What is needed of a store."""

    def images(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Gray values 0 to 255 [N, H, W] of global row numbers."""
        ...


class Parts(Protocol):
    """What is needed of a plan."""

    @property
    def rows(self) -> dict[str, npt.NDArray[np.int64]]:
        """Store rows [N] of each part."""
        ...

    @property
    def truth(self) -> dict[str, npt.NDArray[np.float32]]:
        """Targets [N, L] of each part, NaN unknown."""
        ...

    @property
    def task(self) -> str:
        """multilabel, multiclass or binary."""
        ...


def thumbnails(images_NHW: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Block means [N, 16, 16] of gray images; where a side does not divide by 16, blocks differ by one row or column."""
    _, height, width = images_NHW.shape
    if min(height, width) < SIDE:
        raise ValueError(f"images of {height} x {width} pixels have no {SIDE} x {SIDE} thumbnail")
    tops, lefts = (np.arange(SIDE) * side // SIDE for side in (height, width))
    kind = np.uint32 if images_NHW.dtype == np.uint8 else np.float64
    sums = np.add.reduceat(np.add.reduceat(images_NHW, tops, axis=1, dtype=kind), lefts, axis=2)
    sizes = np.outer(np.diff(np.r_[tops, height]), np.diff(np.r_[lefts, width]))
    return (sums / sizes).astype(np.float32)


def border(thumbnails_NSS: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The outer ring [N, 60] of thumbnails [N, 16, 16]: a frame of one sixteenth of each side."""
    frame = np.ones((SIDE, SIDE), dtype=bool)
    frame[1:-1, 1:-1] = False
    return thumbnails_NSS[:, frame]


def fit_baselines(store: Images, plan: Parts, part: str, *, seed: int, max_rows: int = 20_000) -> dict[str, Array]:
    """Probabilities [N, L] of "thumbnail" and "border" for the rows of `part`, in the plan's order.

    Fitted on the train rows, each once (no oversampling), at most `max_rows` of them drawn by `seed`; features are
    standardised by those rows. Each label has its own regression over the rows where it is known; classes share one.
    A label (or class) that train shows on one side only gets its constant share; with nothing known, 0.5."""
    rng = np.random.default_rng(seed)
    train, truth_NL = plan.rows["train"], nearest(plan.truth["train"])
    if len(train) > max_rows:
        chosen = np.sort(rng.choice(len(train), max_rows, replace=False))
        train, truth_NL = train[chosen], truth_NL[chosen]
    fit, ask = _thumbnails(store, train), _thumbnails(store, plan.rows[part])
    features = {"thumbnail": lambda x: x.reshape(len(x), SIDE * SIDE), "border": border}
    return {name: _regression(take(fit), truth_NL, take(ask), plan.task) for name, take in features.items()}


def _thumbnails(store: Images, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    chunks = [thumbnails(store.images(rows[i : i + CHUNK])) for i in range(0, len(rows), CHUNK)]
    return np.concatenate(chunks) if chunks else np.zeros((0, SIDE, SIDE), np.float32)


def _regression(
    fit_NF: npt.NDArray[np.float32], truth_NL: npt.NDArray[np.float32], ask_NF: npt.NDArray[np.float32], task: str
) -> Array:
    mean_F, deviation_F = fit_NF.mean(axis=0), fit_NF.std(axis=0)
    deviation_F[deviation_F == 0] = 1.0
    fit, ask = (fit_NF - mean_F) / deviation_F, (ask_NF - mean_F) / deviation_F
    out_NL = np.zeros((len(ask), truth_NL.shape[1]))
    if task == "multiclass":
        known = ~np.isnan(truth_NL).any(axis=1)
        class_N = truth_NL[known].argmax(axis=1)
        present = np.unique(class_N)
        if len(present) > 1 and len(ask):
            out_NL[:, present] = _fitted(fit[known], class_N).predict_proba(ask)
        elif len(present):
            out_NL[:, present] = 1.0
        else:
            out_NL[:] = 1.0 / out_NL.shape[1]
        return out_NL
    for i, truth_N in enumerate(truth_NL.T):
        known = ~np.isnan(truth_N)
        true_N = truth_N[known] == 1.0
        if true_N.any() and not true_N.all() and len(ask):
            out_NL[:, i] = _fitted(fit[known], true_N).predict_proba(ask)[:, 1]
        else:
            out_NL[:, i] = true_N.mean() if known.any() else 0.5
    return out_NL


def _fitted(fit_NF: npt.NDArray[np.float32], target_N: npt.NDArray[Any]) -> LogisticRegression:
    with warnings.catch_warnings():  # a rival a few steps short of its optimum is still that rival
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=PENALTY, max_iter=STEPS).fit(fit_NF, target_N)
