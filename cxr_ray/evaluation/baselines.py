"""Trivial baselines: logistic regressions on a 16 x 16 thumbnail of the image, and on the border of the thumbnail alone.

A useful model must outperform both. The border contains collimation, letters and padding: if it predicts a label well, the label
depends on where the image comes from.
"""
# N rows, F features, L labels

import warnings
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from cxr_ray.labels import hard_targets
from cxr_ray.runtime.progress import track

Array = npt.NDArray[np.float64]

SIDE = 16
MAX_ROWS = 20_000
"""Train rows that they are fitted on at most."""
CHUNK = 512  # rows read at once: 26 MB at 224 px
# C of scikit-learn. Strong regularisation, because neighbouring pixels are nearly equal. Best of 0.001 to 1 on three classes.
PENALTY = 0.03
MAX_STEPS = 500


class Images(Protocol):
    """The part of a store that is used here."""

    def images(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Gray values 0 to 255 [N, H, W] of global row numbers."""
        ...


class Parts(Protocol):
    """The part of a plan that is used here."""

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
    """Block means [N, 16, 16] of gray images; if 16 does not divide a side, block sizes differ by one row or column."""
    _, height, width = images_NHW.shape
    if min(height, width) < SIDE:
        raise ValueError(f"images of {height} x {width} pixels are smaller than a {SIDE} x {SIDE} thumbnail")
    tops, lefts = (np.arange(SIDE) * side // SIDE for side in (height, width))
    kind = np.uint32 if images_NHW.dtype == np.uint8 else np.float64
    sums = np.add.reduceat(np.add.reduceat(images_NHW, tops, axis=1, dtype=kind), lefts, axis=2)
    sizes = np.outer(np.diff(np.r_[tops, height]), np.diff(np.r_[lefts, width]))
    return (sums / sizes).astype(np.float32)


def border(thumbnails_NSS: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The outermost pixels [N, 60] of thumbnails [N, 16, 16]."""
    frame = np.ones((SIDE, SIDE), dtype=bool)
    frame[1:-1, 1:-1] = False
    return thumbnails_NSS[:, frame]


def fit_baselines(store: Images, plan: Parts, part: str, *, seed: int, max_rows: int = MAX_ROWS) -> dict[str, Array]:
    """Probabilities [N, L] of "thumbnail" and "border" for the rows of `part`, in the order of the plan.

    Fitted on the train rows without oversampling, on at most `max_rows` of them sampled with `seed`; features are standardised on
    those rows. Each label has its own regression on the rows where it is known; classes share one. A label with only one class in
    train gets its constant share of positives; a label that is never known gets 0.5."""
    rng = np.random.default_rng(seed)
    train, truth_NL = plan.rows["train"], hard_targets(plan.truth["train"])
    if len(train) > max_rows:
        chosen = np.sort(rng.choice(len(train), max_rows, replace=False))
        train, truth_NL = train[chosen], truth_NL[chosen]
    fit, predict = _thumbnails(store, train), _thumbnails(store, plan.rows[part])
    features = {"thumbnail": lambda x: x.reshape(len(x), SIDE * SIDE), "border": border}
    fitted = track(features.items(), "baselines", "models", total=len(features))
    return {name: _regression(of(fit), truth_NL, of(predict), plan.task) for name, of in fitted}


def _thumbnails(store: Images, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    thumbnails_NSS = np.empty((len(rows), SIDE, SIDE), np.float32)
    for start in range(0, len(rows), CHUNK):
        here = slice(start, start + CHUNK)
        thumbnails_NSS[here] = thumbnails(store.images(rows[here]))
    return thumbnails_NSS


def _regression(
    fit_NF: npt.NDArray[np.float32], truth_NL: npt.NDArray[np.float32], predict_NF: npt.NDArray[np.float32], task: str
) -> Array:
    """Probabilities [N, L] for `predict_NF` of regressions on `fit_NF` and its targets."""
    mean_F, deviation_F = fit_NF.mean(axis=0), fit_NF.std(axis=0)
    deviation_F[deviation_F == 0] = 1.0
    fit, predict = (fit_NF - mean_F) / deviation_F, (predict_NF - mean_F) / deviation_F
    out_NL = np.zeros((len(predict), truth_NL.shape[1]))
    if task == "multiclass":
        known = ~np.isnan(truth_NL).any(axis=1)
        class_N = truth_NL[known].argmax(axis=1)
        present = np.unique(class_N)
        if len(present) > 1 and len(predict):
            out_NL[:, present] = _fitted(fit[known], class_N).predict_proba(predict)
        elif len(present):
            out_NL[:, present] = 1.0
        else:
            out_NL[:] = 1.0 / out_NL.shape[1]
        return out_NL
    for i, truth_N in enumerate(truth_NL.T):
        known = ~np.isnan(truth_N)
        true_N = truth_N[known] == 1.0
        if true_N.any() and not true_N.all() and len(predict):
            out_NL[:, i] = _fitted(fit[known], true_N).predict_proba(predict)[:, 1]
        else:
            out_NL[:, i] = true_N.mean() if known.any() else 0.5
    return out_NL


def _fitted(fit_NF: npt.NDArray[np.float32], target_N: npt.NDArray[Any]) -> LogisticRegression:
    with warnings.catch_warnings():  # a few steps short of the optimum is good enough for a baseline
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=PENALTY, max_iter=MAX_STEPS).fit(fit_NF, target_N)
