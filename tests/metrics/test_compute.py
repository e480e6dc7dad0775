"""The judge against slow definitions and scikit-learn, ties, masks and one-sided labels included."""

import math
import warnings
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from cxr_ray.config import mode_of
from cxr_ray.config.metric_names import join_name
from cxr_ray.errors import UserError
from cxr_ray.metrics import Value, compute_metrics, confusion, find, parse, prevalence, thresholds

Array = npt.NDArray[np.float64]
LABELS = ["Atelectasis", "Edema", "Fracture"]


# Slow definitions, in plain Python.


def slow_auroc(true: list[bool], score: list[float]) -> float | None:
    """Every pair of a positive and a negative: 1 where the positive is above, one half where they are equal."""
    above = [1.0 if p > n else 0.5 if p == n else 0.0 for p, t in zip(score, true, strict=True) if t
             for n, u in zip(score, true, strict=True) if not u]  # fmt: skip
    return sum(above) / len(above) if above else None


def slow_ap(true: list[bool], score: list[float]) -> float | None:
    """Lower the threshold through every score: each gain of recall counts the precision there."""
    if not any(true):
        return None
    total, before = 0.0, 0.0
    for limit in sorted(set(score), reverse=True):
        said = [t for t, s in zip(true, score, strict=True) if s >= limit]
        recall = sum(said) / sum(true)
        total += (recall - before) * sum(said) / len(said)
        before = recall
    return total


def slow_label(truth: Array, prob: Array, limit: float) -> dict[str, float | None]:
    """Every metric of one label by a loop over its rows."""
    tp = fp = fn = tn = 0
    true, score = [], []
    for t, p in zip(truth, prob, strict=True):
        if math.isnan(t):
            continue
        true.append(t == 1)
        score.append(float(p))
        tp += t == 1 and p >= limit
        fp += t == 0 and p >= limit
        fn += t == 1 and p < limit
        tn += t == 0 and p < limit
    return {
        "positives": tp + fn,
        "predicted_positives": tp + fp,
        "true_positives": tp,
        "recall": tp / (tp + fn) if tp + fn else None,
        "specificity": tn / (tn + fp) if tn + fp else None,
        "precision": tp / (tp + fp) if tp + fp else None,
        "f1": 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else None,
        "npv": tn / (tn + fn) if tn + fn else None,
        "auroc": slow_auroc(true, score),
        "ap": slow_ap(true, score),
        "brier": sum((p - t) ** 2 for p, t in zip(score, true, strict=True)) / len(true) if true else None,
        "ece": slow_ece(true, score),
        **{f"recall_at_precision_{p}": slow_recall_at(true, score, p) for p in ("0.1", "0.25", "0.5", "0.75", "0.9")},
    }


def slow_recall_at(true: list[bool], score: list[float], least: str) -> float | None:
    """Every threshold in turn, and the one above all scores, by whole numbers alone."""
    if not any(true):
        return None
    best = 0.0
    for limit in set(score):
        said = [t for t, s in zip(true, score, strict=True) if s >= limit]
        if Fraction(sum(said), len(said)) >= Fraction(least):
            best = max(best, sum(said) / sum(true))
    return best


def slow_ece(true: list[bool], score: list[float]) -> float | None:
    """Fifteen equal bins: each row counts how far its bin's share of positives is from the bin's mean probability."""
    bins: dict[int, list[tuple[bool, float]]] = {}
    for t, p in zip(true, score, strict=True):
        bins.setdefault(min(int(p * 15), 14), []).append((t, p))
    gaps = [len(b) * abs(sum(t for t, _ in b) / len(b) - sum(p for _, p in b) / len(b)) for b in bins.values()]
    return sum(gaps) / len(true) if true else None


def slow_averages(truth: Array, prob: Array, limits: Array) -> dict[tuple[str, str], float]:
    """Micro: every known cell as if of one label. Weighted: over labels that define it, each as often as its positives."""
    cells = [(t, p, p >= limit) for j, limit in enumerate(limits) for t, p in zip(truth[:, j], prob[:, j], strict=True)
             if not math.isnan(t)]  # fmt: skip
    micro = slow_label(np.array([c[0] for c in cells]), np.array([float(c[2]) for c in cells]), 0.5)
    pooled = slow_label(np.array([c[0] for c in cells]), np.array([c[1] for c in cells]), 0.5)
    each = [slow_label(truth[:, j], prob[:, j], limit) for j, limit in enumerate(limits)]
    out: dict[tuple[str, str], float] = {}
    for metric in ("recall", "specificity", "precision", "npv", "f1", "auroc", "ap"):
        value = (pooled if metric in ("auroc", "ap") else micro)[metric]
        if value is not None:
            out[metric, "micro"] = value
        held = [one[metric] for one in each for _ in range(int(one["positives"] or 0)) if one[metric] is not None]
        if held:
            out[metric, "weighted"] = sum(held) / len(held)
    return out


def slow_whole(truth: Array, prob: Array, limits: Array) -> dict[str, float]:
    """The whole-table metrics by a loop over rows and cells, unknown cells left out, rows without a known cell too."""
    exact, recalls, precisions, f1s, finding = [], [], [], [], []
    wrong = known = 0
    for t_row, p_row in zip(truth, prob, strict=True):
        cells = [(t == 1, p >= limit) for t, p, limit in zip(t_row, p_row, limits, strict=True) if not math.isnan(t)]
        if not cells:
            continue
        tp, true, said = sum(t and s for t, s in cells), sum(t for t, _ in cells), sum(s for _, s in cells)
        exact.append(all(t == s for t, s in cells))
        wrong += sum(t != s for t, s in cells)
        known += len(cells)
        recalls.append(tp / true if true else 0.0)
        precisions.append(tp / said if said else 0.0)
        f1s.append(2 * tp / (true + said) if true + said else 0.0)
        finding.append(true > 0)
    if not known:
        return {}
    rows = len(exact)
    among = {
        f"finding_{name}": sum(v for v, holds in zip(values, finding, strict=True) if holds) / sum(finding)
        for name, values in (("recall", recalls), ("precision", precisions), ("f1", f1s))
        if any(finding)
    }
    return among | {
        "exact_match": sum(exact) / rows,
        "hamming": wrong / known,
        "sample_recall": sum(recalls) / rows,
        "sample_precision": sum(precisions) / rows,
        "sample_f1": sum(f1s) / rows,
    }


@pytest.mark.parametrize("task", ["multilabel", "binary", "multiclass"])
def test_every_metric_says_which_way_is_better(task: str) -> None:
    """Right answers against those of the row before, for each number that both define."""
    labels = LABELS[:1] if task == "binary" else [*LABELS, "Mass"]
    truth = np.array([[1.0], [0.0], [1.0]]) if task == "binary" else np.eye(4)
    right, wrong = (
        as_dict(compute_metrics(truth, prob, labels=labels, task=task, thresholds_L=np.full(len(labels), 0.5)))
        for prob in (0.1 + 0.8 * truth, 0.1 + 0.8 * np.roll(truth, 1, axis=0))
    )
    seen = {key for key in right.keys() & wrong.keys() if "positives" not in key[0]}
    assert {"brier", "ece", "auroc"} <= {metric for metric, _ in seen}
    for metric, label in seen:
        gain = right[metric, label] - wrong[metric, label]
        better = gain if mode_of(join_name("val", metric, label)) == "max" else -gain
        assert better > 0 or (better == 0 and metric.startswith("recall_at")), (
            metric,
            label,
        )  # a low bar is met by both


def as_dict(values: list[Value]) -> dict[tuple[str, str], float]:
    keys = [(v.metric, v.label) for v in values]
    assert len(keys) == len(set(keys)), "a metric is named twice"
    return {(v.metric, v.label): v.value for v in values}


def table(
    rng: np.random.Generator, rows: int, labels: int = 3, *, levels: int = 8, unknown: float = 0.2
) -> tuple[Array, Array]:
    """Truth with unknown cells and one rare label; probabilities of few levels, so that ties abound."""
    truth = (rng.random((rows, labels)) < np.linspace(0.6, 0.05, labels)).astype(float)
    prob = np.clip(rng.integers(0, levels + 1, (rows, labels)) / levels, 0, 1)
    return np.where(rng.random(truth.shape) < unknown, np.nan, truth), prob


def check_against_definitions(truth: Array, prob: Array, limits: Array, labels: list[str], task: str) -> None:
    got = as_dict(compute_metrics(truth, prob, labels=labels, task=task, thresholds_L=limits))
    want: dict[tuple[str, str], float] = {}
    means: dict[str, list[float]] = {}
    for i, label in enumerate(labels):
        for metric, value in slow_label(truth[:, i], prob[:, i], limits[i]).items():
            if value is not None:
                want[metric, label] = value
                if metric not in ("positives", "predicted_positives", "true_positives"):
                    means.setdefault(metric, []).append(value)
    want |= {(metric, "mean"): sum(v) / len(v) for metric, v in means.items()}
    want |= {(metric, ""): v for metric, v in slow_whole(truth, prob, limits).items()}
    if len(labels) > 1:
        want |= slow_averages(truth, prob, limits)
    if task == "binary" and ("exact_match", "") in want:
        want["accuracy", ""] = want["exact_match", ""]
    assert set(got) == set(want)
    for key, value in want.items():
        assert got[key] == pytest.approx(value, abs=1e-12), key


def test_recall_at_a_precision_that_is_met_exactly_or_by_no_threshold() -> None:
    """Nine of ten are 0.9; and where the highest score is a false alarm beside every positive, no alarm is all that serves."""
    truth = np.array([[1.0]] * 9 + [[0.0]] + [[1.0]] * 9)
    prob = np.array([[0.8]] * 10 + [[0.2]] * 9)
    prob[10:, 0], truth[10:14] = 0.1, 0.0
    held = as_dict(compute_metrics(truth, prob, labels=["Edema"], task="binary", thresholds_L=[0.5]))
    assert held["recall_at_precision_0.9", "Edema"] == 9 / 14 and held["recall_at_precision_0.75", "mean"] == 9 / 14
    tied = as_dict(compute_metrics([[1], [0], [0]], [[0.7]] * 3, labels=["Edema"], task="binary", thresholds_L=[0.5]))
    assert tied["recall_at_precision_0.5", "Edema"] == 0.0 and tied["recall_at_precision_0.25", "Edema"] == 1.0
    assert parse("val/recall_at_precision_0.5/macro", labels=LABELS, task="multilabel") == (
        "val",
        "recall_at_precision_0.5",
        "mean",
    )
    with pytest.raises(
        UserError, match=r"unknown metric 'recall_at_precision_0.55'.*did you mean 'recall_at_precision_0\.5"
    ):
        parse("val/recall_at_precision_0.55/mean", labels=LABELS, task="multilabel")


cell = st.sampled_from([0.0, 1.0, math.nan])
level = st.integers(0, 4).map(lambda k: k / 4)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_every_metric_meets_its_definition(data: st.DataObject) -> None:
    width = data.draw(st.integers(1, 3))
    rows = data.draw(st.lists(st.tuples(*[st.tuples(cell, level)] * width), min_size=1, max_size=25))
    truth = np.array([[c[0] for c in row] for row in rows])
    prob = np.array([[c[1] for c in row] for row in rows])
    limits = np.array(data.draw(st.lists(level, min_size=width, max_size=width)))
    task = "binary" if width == 1 and data.draw(st.booleans()) else "multilabel"
    check_against_definitions(truth, prob, limits, LABELS[:width], task)


def test_a_longer_table_meets_its_definition() -> None:
    truth, prob = table(np.random.default_rng(0), 301)
    check_against_definitions(truth, prob, np.array([0.5, 0.3, 0.75]), LABELS, "multilabel")


def test_known_table_meets_scikit_learn() -> None:
    truth, prob = table(np.random.default_rng(1), 400, unknown=0.0, levels=1000)
    said = prob >= 0.5
    got = as_dict(compute_metrics(truth, prob, labels=LABELS, task="multilabel", thresholds_L=np.full(3, 0.5)))
    assert got["exact_match", ""] == pytest.approx(sk.accuracy_score(truth, said), abs=1e-12)
    assert got["hamming", ""] == pytest.approx(sk.hamming_loss(truth, said), abs=1e-12)
    for metric, ours in ((sk.recall_score, "recall"), (sk.precision_score, "precision"), (sk.f1_score, "f1")):
        samples = metric(truth, said, average="samples", zero_division=0)
        assert got[f"sample_{ours}", ""] == pytest.approx(samples, abs=1e-12)
        assert got[ours, "mean"] == pytest.approx(metric(truth, said, average="macro"), abs=1e-12)
        finding = truth.any(axis=1)
        samples = metric(truth[finding], said[finding], average="samples", zero_division=0)
        assert got[f"finding_{ours}", ""] == pytest.approx(samples, abs=1e-12)
        for average in ("micro", "weighted"):
            assert got[ours, average] == pytest.approx(metric(truth, said, average=average), abs=1e-12)
    for average, label in (("macro", "mean"), ("micro", "micro"), ("weighted", "weighted")):
        assert got["auroc", label] == pytest.approx(sk.roc_auc_score(truth, prob, average=average), abs=1e-12)
        assert got["ap", label] == pytest.approx(sk.average_precision_score(truth, prob, average=average), abs=1e-12)
    for i, label in enumerate(LABELS):
        assert got["brier", label] == pytest.approx(sk.brier_score_loss(truth[:, i], prob[:, i]), abs=1e-12)
    assert got["ap", "mean"] == pytest.approx(sk.average_precision_score(truth, prob, average="macro"), abs=1e-12)


def classes(rng: np.random.Generator, rows: int, width: int, unknown: float = 0.0) -> tuple[Array, Array]:
    truth = np.eye(width)[rng.integers(0, width, rows)]
    truth[rng.random(rows) < unknown] = np.nan
    prob = rng.integers(0, 5, (rows, width)) + 0.25  # ties between classes abound
    return truth, prob / prob.sum(axis=1, keepdims=True)


def test_classes_meet_scikit_learn_with_the_decision_at_the_largest() -> None:
    truth, prob = classes(np.random.default_rng(2), 300, 3, unknown=0.1)
    got = as_dict(compute_metrics(truth, prob, labels=LABELS, task="multiclass", thresholds_L=np.full(3, 0.5)))
    known = ~np.isnan(truth[:, 0])
    true, said = truth[known].argmax(axis=1), prob[known].argmax(axis=1)
    assert got["accuracy", ""] == pytest.approx(sk.accuracy_score(true, said), abs=1e-12)
    assert got["f1", "mean"] == pytest.approx(sk.f1_score(true, said, average="macro"), abs=1e-12)
    assert got["recall", "mean"] == pytest.approx(sk.balanced_accuracy_score(true, said), abs=1e-12)
    for i, label in enumerate(LABELS):
        one = slow_label(np.where(known, truth[:, i], np.nan), (prob.argmax(axis=1) == i).astype(float), 0.5)
        for metric in (
            "positives",
            "predicted_positives",
            "true_positives",
            "recall",
            "precision",
            "npv",
            "f1",
            "specificity",
        ):
            assert got[metric, label] == pytest.approx(one[metric], abs=1e-12)
        assert got["auroc", label] == pytest.approx(slow_auroc(list(true == i), list(prob[known, i])), abs=1e-12)
        assert got["ap", label] == pytest.approx(slow_ap(list(true == i), list(prob[known, i])), abs=1e-12)
    assert {key for key in got if key[1] == ""} == {("accuracy", ""), ("top2", "")}
    assert got["recall", "micro"] == pytest.approx(got["accuracy", ""], abs=1e-12)
    slow = [sorted(range(3), key=lambda c: (-p[c], c)).index(t) < 2 for p, t in zip(prob[known], true, strict=True)]
    assert got["top2", ""] == pytest.approx(sum(slow) / len(slow), abs=1e-12)
    matrix = confusion(truth, prob)
    assert (matrix == sk.confusion_matrix(true, said, labels=[0, 1, 2])).all()


def test_confusion_of_two_has_the_negative_first() -> None:
    truth, prob = np.array([[1.0], [0], [0], [1], [np.nan], [1]]), np.array([[0.5], [0.4], [0.7], [0.1], [0.9], [1.0]])
    assert confusion(truth, prob).tolist() == [[1, 1], [1, 2]]
    assert confusion(truth, prob, threshold=0.45).tolist() == [[1, 1], [1, 2]]
    assert confusion(truth, prob, threshold=0.8).tolist() == [[2, 0], [2, 1]]


# What is undefined is absent.


def test_a_label_without_positives_has_no_recall_no_auroc_and_no_ap() -> None:
    truth, prob = np.array([[1.0, 0], [0, 0], [1, 0]]), np.array([[0.9, 0.1], [0.2, 0.9], [0.7, 0.2]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # scikit-learn warns and says 0.0 or nan
        got = as_dict(compute_metrics(truth, prob, labels=["a", "b"], task="multilabel", thresholds_L=[0.5, 0.5]))
    assert not {("recall", "b"), ("auroc", "b"), ("ap", "b")} & set(got)
    assert got["positives", "b"] == 0 and got["predicted_positives", "b"] == 1 and got["precision", "b"] == 0.0
    assert got["auroc", "mean"] == got["auroc", "a"] == 1.0
    assert got["specificity", "b"] == pytest.approx(2 / 3)


def test_a_label_without_negatives_has_no_auroc_but_an_ap() -> None:
    got = as_dict(compute_metrics([[1.0], [1]], [[0.9], [0.2]], labels=["a"], task="binary", thresholds_L=[0.5]))
    assert ("auroc", "a") not in got and ("specificity", "a") not in got
    assert got["ap", "a"] == 1.0 and got["recall", "a"] == 0.5


def test_unknown_rows_leave_the_label_and_its_counts() -> None:
    truth = np.array([[1.0, np.nan], [0, np.nan], [np.nan, np.nan]])
    values = compute_metrics(truth, np.full((3, 2), 0.6), labels=["a", "b"], task="multilabel", thresholds_L=[0.5, 0.5])
    rows = {(v.metric, v.label): (v.positives, v.rows) for v in values}
    assert rows["recall", "a"] == (1, 2) and rows["positives", "b"] == (0, 0)
    assert rows["exact_match", ""] == (1, 2) and rows["auroc", "mean"] == (1, 2)
    assert not [
        v for v in values if v.label == "b" and v.metric not in ("positives", "predicted_positives", "true_positives")
    ]


def test_no_rows_give_no_values_and_no_known_cell_gives_only_counts() -> None:
    assert (
        compute_metrics(
            np.zeros((0, 2)), np.zeros((0, 2)), labels=["a", "b"], task="multilabel", thresholds_L=[0.5, 0.5]
        )
        == []
    )
    blank = compute_metrics([[np.nan]], [[0.5]], labels=["a"], task="binary", thresholds_L=[0.5])
    assert {v.metric for v in blank} == {"positives", "predicted_positives", "true_positives"} and not any(
        v.value for v in blank
    )


def test_unknown_truth_changes_nothing_elsewhere() -> None:
    truth, prob = table(np.random.default_rng(3), 120)
    settings_ = {"labels": LABELS, "task": "multilabel", "thresholds_L": np.full(3, 0.5)}
    before = compute_metrics(truth, prob, **settings_)
    blank = np.full((40, 3), np.nan)
    assert compute_metrics(np.vstack([truth, blank]), np.vstack([prob, np.full((40, 3), 0.99)]), **settings_) == before
    order = np.random.default_rng(4).permutation(120)
    shuffled = as_dict(compute_metrics(truth[order], prob[order], **settings_))
    assert shuffled == pytest.approx(as_dict(before), abs=1e-12)


# Thresholds.


def test_positive_is_at_or_above_the_threshold_in_the_type_of_the_probabilities() -> None:
    for kind in (np.float32, np.float64):
        prob = np.array([[0.7], [0.2], [np.nextafter(kind(0.7), kind(0))]], dtype=kind)
        got = as_dict(compute_metrics([[1.0], [1], [1]], prob, labels=["a"], task="binary", thresholds_L=[0.7]))
        assert got["predicted_positives", "a"] == 1, kind  # float32 0.7 is below float64 0.7


def test_thresholds_of_a_number_or_of_labels() -> None:
    assert thresholds(0.3, LABELS).tolist() == [0.3, 0.3, 0.3]
    assert thresholds({"Edema": 0.2}, LABELS).tolist() == [0.5, 0.2, 0.5]
    with pytest.raises(UserError, match="did you mean 'Edema'"):
        thresholds({"Edma": 0.2}, LABELS)
    with pytest.raises(UserError, match=r"'Edema' is 1\.2"):
        thresholds({"Edema": 1.2}, LABELS)


# Bad input.


@pytest.mark.parametrize(
    ("truth", "prob", "error", "said"),
    [
        ([[1.0], [0]], [[0.5], [np.nan]], UserError, "1 of 2 probabilities of 'a'.*NaN"),
        ([[1.0], [0]], [[0.5], [1.01]], UserError, "the first: 1.01"),
        ([[np.nan], [0]], [[-0.1], [0.5]], UserError, "the first: -0.1"),
        ([[1.0], [-1]], [[0.5], [0.5]], ValueError, "label policy"),
        ([[1.0]], [[0.5], [0.5]], ValueError, "not both"),
        ([[1.0, 0]], [[0.5, 0.5]], ValueError, "1 labels"),
        ([1.0], [0.5], ValueError, "not both"),
    ],
)
def test_bad_tables_are_refused(
    truth: list[list[float]], prob: list[list[float]], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        compute_metrics(truth, prob, labels=["a"], task="binary", thresholds_L=[0.5])


def test_classes_must_be_one_hot() -> None:
    for bad in ([[1.0, 1]], [[0.0, 0]]):
        with pytest.raises(ValueError, match="exactly one class"):
            compute_metrics(bad, [[0.5, 0.5]], labels=["a", "b"], task="multiclass", thresholds_L=[0.5, 0.5])


# Names.


def test_names_are_found_again() -> None:
    values = {"val": compute_metrics([[1.0], [0]], [[0.9], [0.1]], labels=["a"], task="binary", thresholds_L=[0.5])}
    assert join_name("val", "auroc", "Edema") == "val/auroc/Edema" and join_name("val", "accuracy") == "val/accuracy"
    assert join_name("val", "f1", "macro") == "val/f1/mean"
    assert find(values, "val/auroc/mean") == find(values, "val/auroc/macro") == 1.0
    assert find(values, "val/accuracy") == 1.0
    assert find(values, "test/auroc/mean") is None
    for value in values["val"]:
        assert find(values, join_name("val", value.metric, value.label)) == value.value


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("val/aurc/mean", "did you mean 'auroc'"),
        ("vall/auroc/mean", "did you mean 'val'"),
        ("val/auroc/Edma", "did you mean 'Edema'"),
        ("val/auroc", "val/auroc/mean"),
        ("val/exact_match/Edema", "whole table"),
        ("val/accuracy", "unknown metric 'accuracy'"),
        ("val/positives/mean", "unknown label 'mean'"),
    ],
)
def test_a_misspelt_name_is_found_before_training(wanted: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse(wanted, labels=LABELS, task="multilabel")


def test_parse_reads_what_judge_writes() -> None:
    for task, labels in (("multilabel", LABELS), ("binary", ["a"]), ("multiclass", LABELS)):
        truth = np.eye(3)[:, : len(labels)]
        for v in compute_metrics(
            truth, np.full(truth.shape, 0.4), labels=labels, task=task, thresholds_L=np.full(len(labels), 0.3)
        ):
            assert parse(join_name("val", v.metric, v.label), labels=labels, task=task) == ("val", v.metric, v.label)
    assert parse("val/loss", labels=LABELS, task="multilabel") == ("val", "loss", "")
    assert parse("val/loss/Edema", labels=LABELS, task="multilabel") == ("val", "loss", "Edema")


def test_prevalence_counts_known_cells() -> None:
    import pandas as pd

    truth = np.array([[1.0, np.nan], [0, 1], [1, 0]])
    out = prevalence(truth, labels=["a", "b"], patients=pd.Series(["p", "p", "q"]))
    assert out == {
        "rows": 3,
        "patients": 2,
        "labels": {"a": {"positives": 2, "known": 3}, "b": {"positives": 1, "known": 2}},
    }
    assert prevalence(np.zeros((0, 1)), labels=["a"])["patients"] is None
