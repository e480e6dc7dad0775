"""Slow definitions of the metrics in plain Python, and random tables to compare them on."""

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from cxr_ray.metrics import Value

Array = npt.NDArray[np.float64]
LABELS = ["Atelectasis", "Edema", "Fracture"]
COUNT_NAMES = ("positives", "predicted_positives", "true_positives")


def auroc(true: list[bool], score: list[float]) -> float | None:
    """Every pair of a positive and a negative: 1 if the positive scores higher, one half if they are equal."""
    wins = [1.0 if p > n else 0.5 if p == n else 0.0 for p, t in zip(score, true, strict=True) if t
            for n, u in zip(score, true, strict=True) if not u]  # fmt: skip
    return sum(wins) / len(wins) if wins else None


def average_precision(true: list[bool], score: list[float]) -> float | None:
    """Lower the threshold through every score: each increase of recall is multiplied by the precision there."""
    if not any(true):
        return None
    total, before = 0.0, 0.0
    for threshold in sorted(set(score), reverse=True):
        alarms = [t for t, s in zip(true, score, strict=True) if s >= threshold]
        recall = sum(alarms) / sum(true)
        total += (recall - before) * sum(alarms) / len(alarms)
        before = recall
    return total


def recall_at(true: list[bool], score: list[float], minimum: str) -> float | None:
    """Every threshold in turn, and the one above all scores, in exact fractions."""
    if not any(true):
        return None
    best = 0.0
    for threshold in set(score):
        alarms = [t for t, s in zip(true, score, strict=True) if s >= threshold]
        if Fraction(sum(alarms), len(alarms)) >= Fraction(minimum):
            best = max(best, sum(alarms) / sum(true))
    return best


def calibration_error(true: list[bool], score: list[float]) -> float | None:
    """Fifteen equal bins: each row counts the difference of its bin's share of positives and mean probability."""
    bins: dict[int, list[tuple[bool, float]]] = {}
    for t, p in zip(true, score, strict=True):
        bins.setdefault(min(int(p * 15), 14), []).append((t, p))
    gaps = [len(b) * abs(sum(t for t, _ in b) / len(b) - sum(p for _, p in b) / len(b)) for b in bins.values()]
    return sum(gaps) / len(true) if true else None


def label_metrics(truth: Array, prob: Array, threshold: float) -> dict[str, float | None]:
    """Every metric of one label by a loop over its rows."""
    tp = fp = fn = tn = 0
    true, score = [], []
    for t, p in zip(truth, prob, strict=True):
        if math.isnan(t):
            continue
        true.append(t == 1)
        score.append(float(p))
        tp += t == 1 and p >= threshold
        fp += t == 0 and p >= threshold
        fn += t == 1 and p < threshold
        tn += t == 0 and p < threshold
    return {
        "positives": tp + fn,
        "predicted_positives": tp + fp,
        "true_positives": tp,
        "recall": tp / (tp + fn) if tp + fn else None,
        "specificity": tn / (tn + fp) if tn + fp else None,
        "precision": tp / (tp + fp) if tp + fp else None,
        "f1": 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else None,
        "npv": tn / (tn + fn) if tn + fn else None,
        "auroc": auroc(true, score),
        "ap": average_precision(true, score),
        "brier": sum((p - t) ** 2 for p, t in zip(score, true, strict=True)) / len(true) if true else None,
        "ece": calibration_error(true, score),
        **{f"recall_at_precision_{p}": recall_at(true, score, p) for p in ("0.1", "0.25", "0.5", "0.75", "0.9")},
    }


def averages(truth: Array, prob: Array, thresholds: Array) -> dict[tuple[str, str], float]:
    """Micro: all known cells as one label. Weighted: mean over the labels that define it, each repeated by its positives."""
    cells = [(t, p, p >= at) for j, at in enumerate(thresholds) for t, p in zip(truth[:, j], prob[:, j], strict=True)
             if not math.isnan(t)]  # fmt: skip
    micro = label_metrics(np.array([c[0] for c in cells]), np.array([float(c[2]) for c in cells]), 0.5)
    pooled = label_metrics(np.array([c[0] for c in cells]), np.array([c[1] for c in cells]), 0.5)
    each = [label_metrics(truth[:, j], prob[:, j], at) for j, at in enumerate(thresholds)]
    out: dict[tuple[str, str], float] = {}
    for metric in ("recall", "specificity", "precision", "npv", "f1", "auroc", "ap"):
        value = (pooled if metric in ("auroc", "ap") else micro)[metric]
        if value is not None:
            out[metric, "micro"] = value
        repeated = [v for one in each for _ in range(int(one["positives"] or 0)) if (v := one[metric]) is not None]
        if repeated:
            out[metric, "weighted"] = sum(repeated) / len(repeated)
    return out


def overall_metrics(truth: Array, prob: Array, thresholds: Array) -> dict[str, float]:
    """The overall metrics by a loop over rows and cells, without unknown cells and without rows that have no known cell."""
    exact, recalls, precisions, f1s, has_finding = [], [], [], [], []
    wrong = known = 0
    for t_row, p_row in zip(truth, prob, strict=True):
        cells = [(t == 1, p >= at) for t, p, at in zip(t_row, p_row, thresholds, strict=True) if not math.isnan(t)]
        if not cells:
            continue
        tp, true, alarms = sum(t and a for t, a in cells), sum(t for t, _ in cells), sum(a for _, a in cells)
        exact.append(all(t == a for t, a in cells))
        wrong += sum(t != a for t, a in cells)
        known += len(cells)
        recalls.append(tp / true if true else 0.0)
        precisions.append(tp / alarms if alarms else 0.0)
        f1s.append(2 * tp / (true + alarms) if true + alarms else 0.0)
        has_finding.append(true > 0)
    if not known:
        return {}
    rows = len(exact)
    finding = {
        f"finding_{name}": sum(v for v, f in zip(values, has_finding, strict=True) if f) / sum(has_finding)
        for name, values in (("recall", recalls), ("precision", precisions), ("f1", f1s))
        if any(has_finding)
    }
    return finding | {
        "exact_match": sum(exact) / rows,
        "hamming": wrong / known,
        "sample_recall": sum(recalls) / rows,
        "sample_precision": sum(precisions) / rows,
        "sample_f1": sum(f1s) / rows,
    }


def as_dict(values: list[Value]) -> dict[tuple[str, str], float]:
    keys = [(v.metric, v.label) for v in values]
    assert len(keys) == len(set(keys)), "a metric is listed twice"
    return {(v.metric, v.label): v.value for v in values}


def random_table(
    rng: np.random.Generator, rows: int, labels: int = 3, *, levels: int = 8, unknown: float = 0.2
) -> tuple[Array, Array]:
    """Truth with unknown cells and one rare label; probabilities of few levels, so that many are tied."""
    truth = (rng.random((rows, labels)) < np.linspace(0.6, 0.05, labels)).astype(float)
    prob = np.clip(rng.integers(0, levels + 1, (rows, labels)) / levels, 0, 1)
    return np.where(rng.random(truth.shape) < unknown, np.nan, truth), prob
