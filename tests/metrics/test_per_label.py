"""Metrics of single labels and their averages against scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics as sk

from cxr_ray.metrics import compute_metrics
from tests.metrics.definitions import LABELS, as_dict, random_table


def test_labels_and_averages_match_scikit_learn() -> None:
    truth, prob = random_table(np.random.default_rng(1), 400, unknown=0.0, levels=1000)
    predicted = prob >= 0.5
    actual = as_dict(compute_metrics(truth, prob, labels=LABELS, task="multilabel", thresholds_L=np.full(3, 0.5)))
    for metric, name in ((sk.recall_score, "recall"), (sk.precision_score, "precision"), (sk.f1_score, "f1")):
        assert actual[name, "mean"] == pytest.approx(metric(truth, predicted, average="macro"), abs=1e-12)
        for average in ("micro", "weighted"):
            assert actual[name, average] == pytest.approx(metric(truth, predicted, average=average), abs=1e-12)
    for average, label in (("macro", "mean"), ("micro", "micro"), ("weighted", "weighted")):
        assert actual["auroc", label] == pytest.approx(sk.roc_auc_score(truth, prob, average=average), abs=1e-12)
        ap = sk.average_precision_score(truth, prob, average=average)
        assert actual["ap", label] == pytest.approx(ap, abs=1e-12)
    for i, label in enumerate(LABELS):
        assert actual["brier", label] == pytest.approx(sk.brier_score_loss(truth[:, i], prob[:, i]), abs=1e-12)
