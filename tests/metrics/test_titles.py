"""Metrics in words."""

import numpy as np
import pytest

from cxr_ray.metrics.intervals import p_value, smallest_p
from cxr_ray.metrics.titles import metric_text, metric_title, p_text


def test_metrics_in_words() -> None:
    assert metric_text("val/auroc/mean") == "mean ROC AUC"
    assert metric_text("val/recall/Edema") == "recall of Edema" and metric_text("val/accuracy") == "accuracy"
    assert metric_title("val/f1/micro") == "Micro F1" and metric_title("val/loss") == "Loss"


def test_a_p_value_says_that_the_resamples_bound_it() -> None:
    difference_R = np.linspace(0.1, 0.3, 1000)
    p = p_value(difference_R)
    assert p == smallest_p(1000) == pytest.approx(2 / 1001)
    assert p_text({"p": p, "p_is_bound": True}, 1000) == "≤ 0.002 (1,000 resamples)"
    assert p_text({"p": 0.0312}, 1000) == "0.031" and p_text({"p": 0.0004}, 100_000) == "0.0004"
    assert p_text({"p": p, "p_is_bound": True}) == "≤ 0.002"
    assert p_text({}, 1000) == p_text({"p": None}, 1000) == ""
