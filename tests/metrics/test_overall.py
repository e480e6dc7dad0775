"""Metrics of all labels together against scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics as sk

from cxr_ray.metrics import compute_metrics
from tests.metrics.definitions import LABELS, as_dict, random_table


def test_overall_metrics_match_scikit_learn() -> None:
    truth, prob = random_table(np.random.default_rng(1), 400, unknown=0.0, levels=1000)
    predicted = prob >= 0.5
    actual = as_dict(compute_metrics(truth, prob, labels=LABELS, task="multilabel", thresholds_L=np.full(3, 0.5)))
    assert actual["exact_match", ""] == pytest.approx(sk.accuracy_score(truth, predicted), abs=1e-12)
    assert actual["hamming", ""] == pytest.approx(sk.hamming_loss(truth, predicted), abs=1e-12)
    finding = truth.any(axis=1)
    for metric, name in ((sk.recall_score, "recall"), (sk.precision_score, "precision"), (sk.f1_score, "f1")):
        samples = metric(truth, predicted, average="samples", zero_division=0)
        assert actual[f"sample_{name}", ""] == pytest.approx(samples, abs=1e-12)
        samples = metric(truth[finding], predicted[finding], average="samples", zero_division=0)
        assert actual[f"finding_{name}", ""] == pytest.approx(samples, abs=1e-12)


@pytest.mark.parametrize("width", [3, 4, 6])
def test_top_k_counts_the_classes_ahead_of_the_true_one(width: int) -> None:
    """Only for k below the number of classes; of equal probabilities the first class is ahead."""
    rng = np.random.default_rng(width)
    class_N = rng.integers(0, width, 200)
    prob = rng.integers(1, 4, (200, width)).astype(float)
    prob /= prob.sum(axis=1, keepdims=True)
    labels = [str(k) for k in range(width)]
    values = compute_metrics(
        np.eye(width)[class_N], prob, labels=labels, task="multiclass", thresholds_L=np.full(width, 0.5)
    )
    actual = {v.metric: v.value for v in values if v.label == ""}
    assert set(actual) == {"accuracy", *(f"top{k}" for k in (2, 3, 5) if k < width)}
    ranks = [sorted(range(width), key=lambda c: (-p[c], c)).index(t) for p, t in zip(prob, class_N, strict=True)]
    for name, value in actual.items():
        k = 1 if name == "accuracy" else int(name[3:])
        assert value == pytest.approx(np.mean([rank < k for rank in ranks]), abs=1e-12), name
