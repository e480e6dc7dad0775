"""Metrics in words."""

from cxr_ray.metrics.titles import metric_text, metric_title


def test_metrics_in_words() -> None:
    assert metric_text("val/auroc/mean") == "mean ROC AUC"
    assert metric_text("val/recall/Edema") == "recall of Edema" and metric_text("val/accuracy") == "accuracy"
    assert metric_title("val/f1/micro") == "Micro F1" and metric_title("val/loss") == "Loss"
