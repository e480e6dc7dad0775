"""Calibration of probabilities: calibrators fitted on one part and applied to another, and the shift that training weights cause.

A calibrator is plain JSON. Each label has its own calibrator; classes share one temperature.
"""
# N rows, L labels, P coefficients, G groups of rows (patients)

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, logit, ndtri, softmax
from sklearn.isotonic import IsotonicRegression

from cxr_ray.metrics.table import Bools, Table

Array = npt.NDArray[np.float64]
Groups = npt.NDArray[np.int64]
Method = Literal["temperature", "platt", "isotonic"]

METHODS: tuple[Method, ...] = ("temperature", "platt", "isotonic")
MIN_ROWS = {"temperature": 10, "platt": 20, "isotonic": 50}
"""Rows of the rarer class that each method needs: ten per parameter (Peduzzi 1996, doi:10.1016/S0895-4356(96)00236-3); isotonic
regression overfits below some hundreds of rows (Niculescu-Mizil and Caruana 2005, doi:10.1145/1102351.1102430)."""
EPSILON = 1e-6  # probabilities are clipped to [EPSILON, 1 - EPSILON] before their logit is taken
NEWTON_STEPS = 50  # at most


def shift(pos_weight_L: npt.ArrayLike, truth_NL: npt.ArrayLike, repeats_N: npt.ArrayLike) -> Array:
    """The shift of the log odds of each label [L] by training: by positive-class weights and by oversampling.

    A loss with positives weighted w times has its minimum where the odds are w times the true ones (Elkan 2001, theorem 2).
    Oversampling multiplies the odds by (positives / negatives after sampling) / (positives / negatives before) (King and Zeng
    2001, doi:10.1093/oxfordjournals.pan.a004868, equation 7). The shift is the sum of both logarithms. The second is exact
    if the sampling depends only on this label; oversampling by label vectors depends on all labels, so there it is the mean effect.
    `truth_NL` and `repeats_N` are of the train part; a label with only one class in train has no shift."""
    truth = np.asarray(truth_NL, dtype=np.float64)
    repeats = np.asarray(repeats_N, dtype=np.float64)[:, None]
    positive, negative = truth == 1.0, truth == 0.0
    both = positive.any(axis=0) & negative.any(axis=0)
    out = np.log(np.asarray(pos_weight_L, dtype=np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        out = out + np.log((repeats * positive).sum(axis=0) / (repeats * negative).sum(axis=0))
        out = out - np.log(positive.sum(axis=0) / negative.sum(axis=0))
    return np.where(both, out, 0.0)


def unshift(prob_NL: npt.ArrayLike, shift_L: npt.ArrayLike) -> Array:
    """Probabilities [N, L] with `shift_L` [L] subtracted from the log odds of each label; 0 and 1 do not change."""
    with np.errstate(divide="ignore"):
        return np.asarray(expit(logit(np.asarray(prob_NL, dtype=np.float64)) - np.asarray(shift_L)), dtype=np.float64)


def fit(table: Table, method: Method, group_N: Groups | None = None) -> dict[str, Any]:
    """Fit a calibrator to a table, as JSON: `{"method", "task", "labels": {label: parameters}, "too_few": {label: reason}}`.

    temperature: logits divided by t > 0, t by maximum likelihood (Guo et al. 2017, arXiv:1706.04599); platt: slope and intercept
    of the logit (Platt 1999, with its targets (n1 + 1) / (n1 + 2) and 1 / (n0 + 2)); isotonic: the closest non-decreasing step
    function (Zadrozny and Elkan 2002). A label with fewer rows of either class than `MIN_ROWS` is not calibrated and listed in
    `too_few`. Classes can only have a temperature; other methods raise `ValueError`.

    `slope_error`, of all but isotonic: the relative standard error of the fitted slope (of a temperature, 1 / t), clustered by group
    (patient). It is the uncertainty that this fit adds to a slope measured on other rows (see `slope`)."""
    out: dict[str, Any] = {"method": method, "task": table.task, "labels": {}, "too_few": {}}
    if table.task == "multiclass":
        if method != "temperature":
            raise ValueError("classes share one temperature: platt and isotonic work on one label")
        known = table.known_NL[:, 0]
        if known.sum() < MIN_ROWS[method] * len(table.labels):
            out["too_few"] = dict.fromkeys(table.labels, f"{int(known.sum())} rows")
        else:
            fitted = _class_temperature(
                table.prob_NL[known].astype(np.float64), table.true_NL[known].argmax(axis=1), _select(group_N, known)
            )
            out["labels"] = {label: dict(fitted) for label in table.labels}
        return out
    for i, label in enumerate(table.labels):
        known = table.known_NL[:, i]
        true, prob = table.true_NL[known, i], table.prob_NL[known, i].astype(np.float64)
        group = _select(group_N, known)
        rarer = min(int(true.sum()), int((~true).sum()))
        if rarer < MIN_ROWS[method]:
            out["too_few"][label] = (
                f"{int(true.sum())} positives and {int((~true).sum())} negatives; {MIN_ROWS[method]} needed"
            )
        elif method == "temperature":
            out["labels"][label] = _temperature(true, prob, group)
        elif method == "platt":
            n1, n0 = int(true.sum()), int((~true).sum())
            target = np.where(true, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))
            beta, covariance = _logistic(target, _design(prob), group)
            error = float(covariance[1, 1] ** 0.5 / abs(beta[1]))
            out["labels"][label] = {"intercept": float(beta[0]), "slope": float(beta[1]), "slope_error": error}
        else:
            steps = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(prob, true.astype(float))
            out["labels"][label] = {"x": steps.X_thresholds_.tolist(), "y": steps.y_thresholds_.tolist()}
    return out


def apply(calibrator: dict[str, Any], prob_NL: npt.ArrayLike, labels: Sequence[str]) -> Array:
    """Calibrated probabilities [N, L]; those of labels without parameters are unchanged."""
    prob = np.asarray(prob_NL, dtype=np.float64)
    out = prob.copy()
    if calibrator["task"] == "multiclass":
        if calibrator["labels"]:
            t = next(iter(calibrator["labels"].values()))["temperature"]
            out = softmax(np.log(np.clip(prob, EPSILON, 1.0)) / t, axis=1)
        return out
    for i, label in enumerate(labels):
        parameters = calibrator["labels"].get(label)
        if parameters is None:
            continue
        if "temperature" in parameters:
            out[:, i] = expit(_logit(prob[:, i]) / parameters["temperature"])
        elif "slope" in parameters:
            out[:, i] = expit(parameters["intercept"] + parameters["slope"] * _logit(prob[:, i]))
        else:
            out[:, i] = np.interp(prob[:, i], parameters["x"], parameters["y"])
    return out


def slope(
    true_N: Bools, prob_N: npt.ArrayLike, group_N: Groups | None = None, *, fit_error: float = 0.0
) -> tuple[float, float, float] | None:
    """(slope, low, high) of the logistic regression of the truth on the logit: 1 is calibrated, below 1 is overconfident.

    Cox 1958, doi:10.1093/biomet/45.3-4.562. Wald interval of 95%, clustered by group (Liang and Zeger 1986,
    doi:10.1093/biomet/73.1.13). Calibrated probabilities also have the uncertainty of the calibrator's fit: their slope is the slope of
    its inputs divided by the slope that it fitted, so the relative variances add up. `fit_error` is the calibrator's `slope_error`.
    None if either class has fewer rows than a Platt fit needs (`MIN_ROWS`), or if the classes are separable."""
    true = np.asarray(true_N, dtype=bool)
    if min(int(true.sum()), int((~true).sum())) < MIN_ROWS["platt"]:
        return None
    beta, covariance = _logistic(true.astype(np.float64), _design(np.asarray(prob_N, dtype=np.float64)), group_N)
    value = float(beta[1])
    half = float(ndtri(0.975) * (covariance[1, 1] + (fit_error * value) ** 2) ** 0.5)
    if not np.isfinite(half) or half > 100:
        return None
    return value, value - half, value + half


def _logit(prob_N: Array) -> Array:
    return np.asarray(logit(np.clip(prob_N, EPSILON, 1 - EPSILON)), dtype=np.float64)


def _design(prob_N: Array) -> Array:
    """Design matrix [N, 2] of an intercept and a slope of the logit."""
    return np.stack([np.ones(len(prob_N)), _logit(prob_N)], axis=1)


def _select(group_N: Groups | None, known_N: Bools) -> Groups | None:
    return None if group_N is None else group_N[known_N]


def _temperature(true_N: Bools, prob_N: Array, group_N: Groups | None) -> dict[str, float]:
    logit_N = _logit(prob_N)
    signed = np.where(true_N, 1.0, -1.0) * logit_N
    t = _minimize(lambda t: float(np.logaddexp(0.0, -signed / t).sum()))
    p = expit(logit_N / t)
    return _with_error(t, ((true_N - p) * logit_N)[:, None], np.array([[(p * (1 - p) * logit_N**2).sum()]]), group_N)


def _class_temperature(prob_NL: Array, class_N: npt.NDArray[np.int64], group_N: Groups | None) -> dict[str, float]:
    logits, rows = np.log(np.clip(prob_NL, EPSILON, 1.0)), np.arange(len(class_N))
    t = _minimize(lambda t: float(-log_softmax(logits / t, axis=1)[rows, class_N].sum()))
    p = softmax(logits / t, axis=1)
    mean_N = (p * logits).sum(axis=1)
    information = (p * logits**2).sum(axis=1) - mean_N**2
    return _with_error(t, (logits[rows, class_N] - mean_N)[:, None], np.array([[information.sum()]]), group_N)


def _with_error(t: float, score_N1: Array, information: Array, group_N: Groups | None) -> dict[str, float]:
    """A temperature with the relative standard error of its slope 1 / t."""
    return {"temperature": t, "slope_error": t * float(_covariance(score_N1, information, group_N)[0, 0]) ** 0.5}


def _minimize(cost: Callable[[float], float]) -> float:
    """The temperature between 1/20 and 20 with the lowest cost, searched on a log scale."""
    result = minimize_scalar(
        lambda x: cost(float(np.exp(x))), bounds=(-np.log(20), np.log(20)), method="bounded", options={"xatol": 1e-8}
    )
    return float(np.exp(result.x))


def _logistic(target_N: Array, design_NP: Array, group_N: Groups | None) -> tuple[Array, Array]:
    """Unpenalised logistic regression of targets in [0, 1]: (coefficients [P], their covariance [P, P]).

    Newton steps, halved while the likelihood would fall."""

    def likelihood(beta: Array) -> float:
        eta = design_NP @ beta
        return float((target_N * eta - np.logaddexp(0.0, eta)).sum())

    beta: Array = np.zeros(design_NP.shape[1])
    best = likelihood(beta)
    for _ in range(NEWTON_STEPS):
        p = expit(design_NP @ beta)
        information = design_NP.T @ (design_NP * (p * (1 - p))[:, None])
        step = np.linalg.lstsq(information, design_NP.T @ (target_N - p), rcond=None)[0]
        while likelihood(beta + step) < best - 1e-12 and np.abs(step).max() > 1e-12:
            step = step / 2
        beta = beta + step
        best = likelihood(beta)
        if np.abs(step).max() < 1e-10:
            break
    p = expit(design_NP @ beta)
    information = design_NP.T @ (design_NP * (p * (1 - p))[:, None])
    return beta, _covariance(design_NP * (target_N - p)[:, None], information, group_N)


def _covariance(score_NP: Array, information: Array, group_N: Groups | None) -> Array:
    """Covariance [P, P] of maximum-likelihood estimates: the inverse information; with groups of rows (patients), the clustered
    sandwich estimator, G / (G - 1) times (Liang and Zeger 1986, doi:10.1093/biomet/73.1.13)."""
    bread = np.asarray(np.linalg.pinv(information), dtype=np.float64)
    if group_N is None:
        return bread
    _, at = np.unique(group_N, return_inverse=True)
    summed_GP = np.stack([np.bincount(at, weights=column) for column in score_NP.T], axis=1)
    groups = len(summed_GP)
    meat = summed_GP.T @ summed_GP * (groups / max(groups - 1, 1))
    return np.asarray(bread @ meat @ bread, dtype=np.float64)
