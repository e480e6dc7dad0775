"""Metrics of all labels together. Each is a quotient of two sums over rows, so a resample costs no more than the table itself."""
# N rows, L labels

import numpy as np
import numpy.typing as npt

from cxr_ray.metrics.names import Value
from cxr_ray.metrics.table import Table

Array = npt.NDArray[np.float64]


def row_sums(table: Table) -> dict[str, tuple[Array, Array]]:
    """(numerator [N], denominator [N]) of each overall metric, which is the quotient of their sums.

    Unknown cells are ignored, and so are rows without a known cell:

    - `exact_match`: share of rows whose known cells are all predicted correctly;
    - `hamming`: share of known cells predicted wrongly;
    - `sample_recall`, `sample_precision`, `sample_f1`: the rate of each row over its known cells, averaged over rows; 0/0
      counts as 0 (scikit-learn's `average="samples", zero_division=0`);
    - `finding_recall`, `finding_precision`, `finding_f1`: the same, only over rows with a known positive;
    - `accuracy` (binary and classes): share of known rows predicted correctly;
    - `top2`, `top3`, `top5` (more classes than that): share of known rows whose class is among the 2, 3 or 5 largest
      probabilities; of equal ones the first class is ahead.
    """
    known, true = table.known_NL, table.true_NL
    predicted = table.positive_NL & known
    row: Array = np.asarray(known.any(axis=1), dtype=np.float64)
    right: Array = row * (true == predicted).all(axis=1)  # both are False where unknown
    if table.task == "multiclass":
        rank: Array = _rank_of_truth(table)
        tops = {f"top{k}": (row * (rank < k), row) for k in (2, 3, 5) if k < len(table.labels)}
        return {"accuracy": (right, row), **tops}
    wrong: Array = np.asarray((true != predicted).sum(axis=1), dtype=np.float64)
    tp: Array = np.asarray((true & predicted).sum(axis=1), dtype=np.float64)
    positives, alarms = true.sum(axis=1), predicted.sum(axis=1)
    sums: dict[str, tuple[Array, Array]] = {
        "exact_match": (right, row),
        "hamming": (wrong, known.sum(axis=1).astype(np.float64)),
        "sample_recall": (tp / np.maximum(positives, 1), row),
        "sample_precision": (tp / np.maximum(alarms, 1), row),
        "sample_f1": (2 * tp / np.maximum(positives + alarms, 1), row),
    }
    has_finding = (positives > 0).astype(np.float64)
    sums |= {
        metric.replace("sample", "finding"): (sums[metric][0] * has_finding, has_finding)
        for metric in ("sample_recall", "sample_precision", "sample_f1")
    }
    return {"accuracy": (right, row), **sums} if table.task == "binary" else sums


def _rank_of_truth(table: Table) -> Array:
    """Rank of the true class [N] among the probabilities of its row, 0 for the largest; of equal ones the first class is ahead."""
    prob, at = table.prob_NL, table.true_NL.argmax(axis=1)
    own = np.take_along_axis(prob, at[:, None], axis=1)
    before = (prob > own) | ((prob == own) & (np.arange(prob.shape[1]) < at[:, None]))
    return before.sum(axis=1).astype(np.float64)


def overall_values(table: Table) -> list[Value]:
    """The defined overall metrics, with label ""."""
    positives, rows = int(table.true_NL.sum()), int(table.known_NL.any(axis=1).sum())
    return [
        Value(metric, "", float(numerator.sum() / denominator.sum()), positives, rows)
        for metric, (numerator, denominator) in row_sums(table).items()
        if denominator.sum() > 0
    ]
