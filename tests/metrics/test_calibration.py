"""Calibration against scikit-learn, and against simulated distortions that it must remove."""

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import expit, logit, softmax
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from cxr_ray.metrics import calibration, compute_metrics
from cxr_ray.metrics.calibration import apply, fit, shift, slope, unshift
from cxr_ray.metrics.table import Table, decide

Array = npt.NDArray[Any]


def table_of(truth: Array, prob: Array, task: str = "multilabel") -> Table:
    labels = [f"l{i}" for i in range(truth.shape[1])]
    return decide(truth, prob, labels=labels, task=task, thresholds_L=np.full(len(labels), 0.5))


def simulated(rng: np.random.Generator, rows: int, labels: int = 2) -> tuple[Array, Array]:
    """Truth sampled from known probabilities [N, L]."""
    prob = expit(rng.normal(-1, 1.5, (rows, labels)))
    return (rng.random(prob.shape) < prob).astype(float), prob


def ece(truth: Array, prob: Array, label: str = "l0") -> float:
    labels = [f"l{i}" for i in range(truth.shape[1])]
    values = compute_metrics(truth, prob, labels=labels, task="multilabel", thresholds_L=np.full(len(labels), 0.5))
    return next(v.value for v in values if (v.metric, v.label) == ("ece", label))


@pytest.mark.parametrize("method", calibration.METHODS)
def test_every_method_corrects_a_distortion_and_is_plain_json(method: calibration.Method) -> None:
    truth, prob = simulated(np.random.default_rng(0), 20_000)
    distorted = expit(2.5 * logit(prob) + (0.0 if method == "temperature" else 1.0))
    calibrator = json.loads(json.dumps(fit(table_of(truth[:10_000], distorted[:10_000]), method)))
    calibrated = apply(calibrator, distorted[10_000:], ["l0", "l1"])
    assert ece(truth[10_000:], distorted[10_000:]) > 0.05 > 0.02 > ece(truth[10_000:], calibrated)
    assert ((calibrated >= 0) & (calibrated <= 1)).all() and calibrator["too_few"] == {}
    if method == "temperature":
        assert calibrator["labels"]["l0"]["temperature"] == pytest.approx(2.5, rel=0.05)
    # The order within a label stays: ranking metrics do not change.
    order = np.argsort(distorted[10_000:, 0])
    assert (np.diff(calibrated[order, 0]) >= -1e-12).all()


def test_platt_is_logistic_regression() -> None:
    truth, prob = simulated(np.random.default_rng(1), 3000, 1)
    found = fit(table_of(truth, prob), "platt")["labels"]["l0"]
    known = LogisticRegression(C=np.inf, tol=1e-10).fit(logit(prob), truth[:, 0])
    assert found["slope"] == pytest.approx(known.coef_[0, 0], abs=5e-3)  # Platt's targets are slightly inside (0, 1)
    assert found["intercept"] == pytest.approx(known.intercept_[0], abs=5e-3)
    measured = slope(truth[:, 0] == 1, prob[:, 0])
    assert measured is not None and measured[0] == pytest.approx(known.coef_[0, 0], abs=1e-6)


def test_the_interval_of_the_slope_has_its_nominal_coverage() -> None:
    rng, covered = np.random.default_rng(2), 0
    for _ in range(300):
        truth, prob = simulated(rng, 400, 1)
        found = slope(truth[:, 0] == 1, prob[:, 0])
        assert found is not None
        covered += found[1] <= 1.0 <= found[2]
    assert 273 <= covered <= 296  # 285 expected
    overconfident = slope(truth[:, 0] == 1, expit(2 * logit(prob[:, 0])))
    assert overconfident is not None and overconfident[2] < 1.0


@pytest.mark.parametrize("method", ["platt", "temperature"])
def test_the_interval_of_a_calibrated_slope_includes_the_uncertainty_of_the_fit(method: calibration.Method) -> None:
    """Patients with one to three equal images; val is half as large as test. The plain interval of the slope, which is all that
    most packages give, covers 1 far too rarely."""
    rng, covered, bare, runs = np.random.default_rng(7), 0, 0, 300

    def sample(patients: int) -> tuple[Array, Array, Array]:
        of = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
        score = rng.normal(0.0, 1.5, patients)
        return (rng.random(patients) < expit(score))[of, None].astype(float), expit(2 * score)[of, None], of

    for _ in range(runs):
        (truth, prob, of), (truth_t, prob_t, of_t) = sample(200), sample(400)
        fitted = fit(table_of(truth, prob, "binary"), method, of)
        calibrated = apply(fitted, prob_t, ["l0"])[:, 0]
        found = slope(truth_t[:, 0] == 1, calibrated, of_t, fit_error=fitted["labels"]["l0"]["slope_error"])
        plain = slope(truth_t[:, 0] == 1, calibrated)
        assert found is not None and plain is not None and found[0] == pytest.approx(plain[0])
        covered += found[1] <= 1.0 <= found[2]
        bare += plain[1] <= 1.0 <= plain[2]
    assert 273 <= covered <= 297 and bare < 240  # 285 expected


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_the_error_of_a_fitted_slope_is_the_deviation_of_many_fits(task: str) -> None:
    rng, slopes, errors = np.random.default_rng(8), [], []
    method: calibration.Method = "temperature" if task == "multiclass" else "platt"
    for _ in range(200):
        of = np.repeat(np.arange(250), 2)  # every image twice
        logits = np.repeat(rng.normal(size=(250, 3)), 2, axis=0)
        if task == "multiclass":
            prob = softmax(logits, axis=1)
            truth = np.repeat(np.eye(3)[[rng.choice(3, p=p) for p in prob[::2]]], 2, axis=0)
        else:
            prob = expit(logits[:, :1])
            truth = np.repeat((rng.random((250, 1)) < prob[::2]).astype(float), 2, axis=0)
        found = fit(table_of(truth, prob, task), method, of)["labels"]["l0"]
        slopes.append(found["slope"] if method == "platt" else 1 / found["temperature"])
        errors.append(found["slope_error"] * slopes[-1])
    assert np.mean(errors) == pytest.approx(np.std(slopes), rel=0.15)


def test_classes_share_a_temperature() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(5000, 3))
    prob = softmax(logits, axis=1)
    truth = np.eye(3)[[rng.choice(3, p=p) for p in prob]]
    calibrator = fit(table_of(truth, softmax(3 * logits, axis=1), "multiclass"), "temperature")
    assert calibrator["labels"]["l1"]["temperature"] == pytest.approx(3.0, rel=0.08)
    calibrated = apply(calibrator, softmax(3 * logits, axis=1), ["l0", "l1", "l2"])
    assert np.abs(calibrated - prob).max() < 0.05 and calibrated.sum(axis=1) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="share one temperature"):
        fit(table_of(truth, prob, "multiclass"), "platt")


def test_a_label_with_too_few_rows_is_listed_and_not_calibrated() -> None:
    truth, prob = simulated(np.random.default_rng(4), 10, 1)
    for method in calibration.METHODS:
        calibrator = fit(table_of(truth, prob), method)
        assert calibrator["labels"] == {} and "needed" in calibrator["too_few"]["l0"]
        np.testing.assert_array_equal(apply(calibrator, prob, ["l0"]), prob)
    assert slope(truth[:, 0] == 1, prob[:, 0]) is None
    classes = fit(table_of(np.eye(3), np.full((3, 3), 1 / 3), "multiclass"), "temperature")
    assert classes["labels"] == {} and classes["too_few"]["l2"] == "3 rows"
    np.testing.assert_array_equal(apply(classes, np.full((3, 3), 1 / 3), ["l0", "l1", "l2"]), np.full((3, 3), 1 / 3))


def test_unknown_cells_are_ignored() -> None:
    truth, prob = simulated(np.random.default_rng(5), 600)
    partly_unknown = truth.copy()
    partly_unknown[300:, 0] = np.nan
    assert (
        fit(table_of(partly_unknown, prob), "platt")["labels"]["l0"]
        == fit(table_of(truth[:300], prob[:300]), "platt")["labels"]["l0"]
    )


def test_the_shift_of_weights_and_oversampling_is_removed() -> None:
    """A regression fitted with weighted, repeated positives is off by exactly the shift: to 0.01 of log odds."""
    rng = np.random.default_rng(6)
    x = rng.normal(size=(400_000, 1))
    true = rng.random(len(x)) < expit(-2.5 + 1.3 * x[:, 0])
    repeats = np.where(true, 3, 1)
    weight = 5.0
    distorted = LogisticRegression(C=np.inf, tol=1e-10).fit(
        x, true, sample_weight=np.where(true, weight, 1.0) * repeats
    )
    plain = LogisticRegression(C=np.inf, tol=1e-10).fit(x, true)
    found = shift([weight], true[:, None].astype(float), repeats)
    assert found[0] == pytest.approx(np.log(15.0), abs=1e-12)
    assert distorted.intercept_[0] - found[0] == pytest.approx(-2.5, abs=0.02)
    # The weighted and the plain fit also differ by chance, so compare with the intercept of the plain fit.
    assert distorted.intercept_[0] - plain.intercept_[0] == pytest.approx(found[0], abs=0.01)
    calibrated = unshift(distorted.predict_proba(x)[:, 1:], found)
    assert np.abs(calibrated[:, 0] - plain.predict_proba(x)[:, 1]).max() < 0.01


def test_without_weights_or_with_one_class_there_is_no_shift() -> None:
    truth = np.array([[1.0, 0, np.nan], [0, 0, 1], [1, 0, np.nan]])
    assert shift([1, 1, 1], truth, [1, 1, 1]).tolist() == [0.0, 0.0, 0.0]
    assert shift([3, 3, 3], truth, [2, 1, 1]).tolist() == pytest.approx([np.log(3 * 3 / 2), 0.0, 0.0])
    np.testing.assert_allclose(unshift([[0.0, 0.5, 1.0]], [1.0, 0.0, -2.0]), [[0.0, 0.5, 1.0]])


@pytest.mark.parametrize("method", calibration.METHODS)
def test_a_fit_needs_its_number_of_rows_of_either_class(method: calibration.Method) -> None:
    least = calibration.MIN_ROWS[method]
    for positives, negatives in ((least, 300), (300, least), (least - 1, 300), (300, least - 1)):
        truth = np.r_[np.ones(positives), np.zeros(negatives)][:, None]
        prob = np.random.default_rng(9).uniform(0.05, 0.95, truth.shape)
        calibrator = fit(table_of(truth, prob), method)
        expected = f"{positives} positives and {negatives} negatives; {least} needed"
        assert calibrator["too_few"] == ({} if min(positives, negatives) == least else {"l0": expected})
        assert ("l0" in calibrator["labels"]) == (min(positives, negatives) == least)


def test_classes_need_ten_known_rows_per_class() -> None:
    rng = np.random.default_rng(10)
    truth, prob = np.eye(3)[rng.integers(0, 3, 40)], softmax(rng.normal(size=(40, 3)), axis=1)
    for known in (30, 29):
        truth[known:] = np.nan
        calibrator = fit(table_of(truth, prob, "multiclass"), "temperature")
        assert calibrator["too_few"] == ({} if known == 30 else dict.fromkeys(["l0", "l1", "l2"], "29 rows"))
        assert len(calibrator["labels"]) == (3 if known == 30 else 0)


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_a_temperature_lies_between_a_twentieth_and_20(task: str) -> None:
    """The best temperature is infinite if probabilities and truth are unrelated, 0 if the larger one is always right."""
    rng = np.random.default_rng(11)
    logits = rng.normal(size=(400, 3 if task == "multiclass" else 1))
    prob = softmax(logits, axis=1) if task == "multiclass" else expit(logits)
    width = prob.shape[1]
    opposite = np.eye(3)[prob.argmin(axis=1)] if task == "multiclass" else (prob < 0.5).astype(float)
    right = np.eye(3)[prob.argmax(axis=1)] if task == "multiclass" else (prob > 0.5).astype(float)
    for truth, limit in ((opposite, 20.0), (right, 0.05)):
        found = fit(table_of(truth, prob, task), "temperature")["labels"]
        assert len(found) == width and found["l0"]["temperature"] == pytest.approx(limit, rel=1e-4)


def slow_error(design: Array, target: Array, beta: Array, group: Array | None) -> float:
    """Standard error of the last coefficient, by loops: the inverse information, or the sandwich of sums by group."""
    p = expit(design @ beta)
    information = sum(q * (1 - q) * np.outer(x, x) for q, x in zip(p, design, strict=True))
    inverse = np.linalg.inv(information)
    if group is None:
        return float(inverse[-1, -1] ** 0.5)
    meat = np.zeros_like(inverse)
    for name in set(group.tolist()):
        score = sum((t - q) * x for t, q, x, g in zip(target, p, design, group, strict=True) if g == name)
        meat += np.outer(score, score)
    groups = len(set(group.tolist()))
    return float((inverse @ meat @ inverse)[-1, -1] ** 0.5 * (groups / (groups - 1)) ** 0.5)


@pytest.mark.parametrize("groups", [None, 2, 3, 40])
def test_the_error_of_a_slope_is_that_of_the_sandwich_estimator(groups: int | None) -> None:
    truth, prob = simulated(np.random.default_rng(12), 240, 1)
    true, score, group = truth[:, 0], logit(prob[:, 0]), None if groups is None else np.arange(240) ** 2 % 97 % groups
    design, n1 = np.c_[np.ones(240), score], int(true.sum())
    target = np.where(true == 1, (n1 + 1) / (n1 + 2), 1 / (240 - n1 + 2))
    found = fit(table_of(truth, prob), "platt", group)["labels"]["l0"]
    beta = np.array([found["intercept"], found["slope"]])
    assert np.abs(design.T @ (target - expit(design @ beta))).max() < 1e-6  # the maximum of Platt's likelihood
    assert found["slope_error"] == pytest.approx(slow_error(design, target, beta, group) / abs(beta[1]), rel=1e-6)
    found = fit(table_of(truth, prob), "temperature", group)["labels"]["l0"]
    beta = np.array([1 / found["temperature"]])
    assert found["slope_error"] == pytest.approx(slow_error(score[:, None], true, beta, group) / beta[0], rel=1e-5)
    measured = slope(true == 1, prob[:, 0], group, fit_error=0.1)
    assert measured is not None
    exact = LogisticRegression(C=np.inf, tol=1e-12).fit(score[:, None], true)
    beta = np.array([exact.intercept_[0], exact.coef_[0, 0]])
    half = 1.959964 * (slow_error(design, true, beta, group) ** 2 + (0.1 * beta[1]) ** 2) ** 0.5
    assert measured == pytest.approx((beta[1], beta[1] - half, beta[1] + half), abs=1e-4)


def test_one_patient_gives_a_finite_error() -> None:
    truth, prob = simulated(np.random.default_rng(13), 100, 1)
    error = fit(table_of(truth, prob), "temperature", np.zeros(100, np.int64))["labels"]["l0"]["slope_error"]
    assert 0 <= error < 1e-3  # the scores of all rows sum to 0 at the maximum


def test_a_slope_needs_twenty_rows_of_either_class() -> None:
    for positives, negatives in ((20, 200), (200, 20), (19, 200), (200, 19)):
        true = np.arange(positives + negatives) < positives
        prob = np.random.default_rng(14).uniform(0.1, 0.9, len(true))
        assert (slope(true, prob) is None) == (min(positives, negatives) < 20)


def test_separable_classes_have_no_slope() -> None:
    true = np.arange(100) < 50
    assert slope(true, np.where(true, 0.6, 0.4)) is None
    assert slope(true, np.linspace(0.9, 0.1, 100)) is None


def test_probabilities_of_0_and_1_are_clipped() -> None:
    limits = logit([calibration.EPSILON, 1 - calibration.EPSILON])
    for parameters, expected in (
        ({"temperature": 2.0}, expit(limits / 2)),
        ({"intercept": 0.3, "slope": 0.5}, expit(0.3 + 0.5 * limits)),
    ):
        calibrator = {"task": "multilabel", "labels": {"a": parameters}}
        found = apply(calibrator, [[0.0, 0.0], [1.0, 1.0]], ["a", "b"])
        np.testing.assert_allclose(found, np.c_[expected, [0.0, 1.0]], rtol=1e-12)
    classes = apply({"task": "multiclass", "labels": {"a": {"temperature": 2.0}}}, [[0.0, 1.0]], ["a", "b"])
    np.testing.assert_allclose(classes, [np.array([1e-3, 1.0]) / 1.001], rtol=1e-9)


def test_isotonic_is_scikit_learns() -> None:
    truth, prob = simulated(np.random.default_rng(15), 500, 1)
    new = np.random.default_rng(16).random((50, 1))
    expected = IsotonicRegression(out_of_bounds="clip").fit(prob[:, 0], truth[:, 0]).predict(new[:, 0])
    np.testing.assert_allclose(apply(fit(table_of(truth, prob), "isotonic"), new, ["l0"])[:, 0], expected, atol=1e-12)
