"""Names of metrics: read, written, checked before a training, and which direction is better."""

import numpy as np
import pytest

from cxr_ray.config import mode_of
from cxr_ray.config.metric_names import join_name
from cxr_ray.errors import UserError
from cxr_ray.metrics import MAIN_METRICS, TABLE_METRICS, compute_metrics, find, parse
from tests.metrics.definitions import LABELS, as_dict


def test_recall_comes_first_then_roc_auc_then_precision() -> None:
    assert MAIN_METRICS == ("recall", "auroc", "precision") == TABLE_METRICS[:3]


@pytest.mark.parametrize("task", ["multilabel", "binary", "multiclass"])
def test_every_metric_has_the_right_direction(task: str) -> None:
    """Correct predictions against those of the previous row, for each metric that both define."""
    labels = LABELS[:1] if task == "binary" else [*LABELS, "Mass"]
    truth = np.array([[1.0], [0.0], [1.0]]) if task == "binary" else np.eye(4)
    right, wrong = (
        as_dict(compute_metrics(truth, prob, labels=labels, task=task, thresholds_L=np.full(len(labels), 0.5)))
        for prob in (0.1 + 0.8 * truth, 0.1 + 0.8 * np.roll(truth, 1, axis=0))
    )
    compared = {key for key in right.keys() & wrong.keys() if "positives" not in key[0]}
    assert {"brier", "ece", "auroc"} <= {metric for metric, _ in compared}
    for metric, label in compared:
        gain = right[metric, label] - wrong[metric, label]
        better = gain if mode_of(join_name("val", metric, label)) == "max" else -gain
        # Both reach a low minimum precision.
        assert better > 0 or (better == 0 and metric.startswith("recall_at")), (metric, label)


def test_a_value_is_found_by_its_name() -> None:
    values = {"val": compute_metrics([[1.0], [0.0]], [[0.9], [0.1]], labels=["a"], task="binary", thresholds_L=[0.5])}
    assert join_name("val", "auroc", "Edema") == "val/auroc/Edema" and join_name("val", "accuracy") == "val/accuracy"
    assert join_name("val", "f1", "macro") == "val/f1/mean"
    assert find(values, "val/auroc/mean") == find(values, "val/auroc/macro") == 1.0
    assert find(values, "val/accuracy") == 1.0
    assert find(values, "test/auroc/mean") is None
    for value in values["val"]:
        assert find(values, join_name("val", value.metric, value.label)) == value.value


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("val/aurc/mean", "did you mean 'auroc'"),
        ("vall/auroc/mean", "did you mean 'val'"),
        ("val/auroc/Edma", "did you mean 'Edema'"),
        ("val/auroc", "use val/auroc/mean or val/auroc/Atelectasis"),
        ("val/exact_match/Edema", "of all labels together: use val/exact_match instead of"),
        ("val/accuracy", "unknown metric 'accuracy'"),
        ("val/positives/mean", "unknown label 'mean'"),
        (
            "val/recall_at_precision_0.55/mean",
            r"unknown metric 'recall_at_precision_0.55'.*did you mean 'recall_at_precision_0\.5",
        ),
    ],
)
def test_a_wrong_name_is_an_error_before_training(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(name, labels=LABELS, task="multilabel")


def test_parse_reads_the_names_of_all_computed_metrics() -> None:
    for task, labels in (("multilabel", LABELS), ("binary", ["a"]), ("multiclass", LABELS)):
        truth = np.eye(3)[:, : len(labels)]
        for v in compute_metrics(
            truth, np.full(truth.shape, 0.4), labels=labels, task=task, thresholds_L=np.full(len(labels), 0.3)
        ):
            assert parse(join_name("val", v.metric, v.label), labels=labels, task=task) == ("val", v.metric, v.label)
    assert parse("val/loss", labels=LABELS, task="multilabel") == ("val", "loss", "")
    assert parse("val/loss/Edema", labels=LABELS, task="multilabel") == ("val", "loss", "Edema")
    name = "val/recall_at_precision_0.5/macro"
    assert parse(name, labels=LABELS, task="multilabel") == ("val", "recall_at_precision_0.5", "mean")
