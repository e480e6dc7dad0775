"""Metrics of the whole table, each a quotient of two sums over rows, so that a resample is as cheap as the table."""
# N rows, L labels

import numpy as np
import numpy.typing as npt

from cxr_ray.metrics.names import Value
from cxr_ray.metrics.table import Table

Array = npt.NDArray[np.float64]


def row_sums(table: Table) -> dict[str, tuple[Array, Array]]:
    """Of each whole-table metric the (numerator [N], denominator [N]); the metric is the quotient of their sums.

    Unknown cells are left out of their row, and rows without a known cell are left out altogether:

    - `exact_match`: share of rows whose known cells are all decided rightly;
    - `hamming`: share of known cells decided wrongly;
    - `sample_recall`, `sample_precision`, `sample_f1`: the rate of each row over its known cells, averaged over rows; a
      row where it is 0/0 counts 0 (scikit-learn's `average="samples", zero_division=0`);
    - `finding_recall`, `finding_precision`, `finding_f1`: the same over the rows with a known positive alone;
    - `accuracy` (binary and classes): share of known rows decided rightly;
    - `top2`, `top3`, `top5` (more classes than that): share of known rows whose class is among so many of the largest
      probabilities, the first of equals ahead.
    """
    known, true = table.known_NL, table.true_NL
    said = table.positive_NL & known
    row: Array = np.asarray(known.any(axis=1), dtype=np.float64)
    right: Array = row * (true == said).all(axis=1)  # both are False where unknown
    if table.task == "multiclass":
        place: Array = _place_of_truth(table)
        tops = {f"top{k}": (row * (place < k), row) for k in (2, 3, 5) if k < len(table.labels)}
        return {"accuracy": (right, row), **tops}
    wrong: Array = np.asarray((true != said).sum(axis=1), dtype=np.float64)
    tp: Array = np.asarray((true & said).sum(axis=1), dtype=np.float64)
    positives, predicted = true.sum(axis=1), said.sum(axis=1)
    sums: dict[str, tuple[Array, Array]] = {
        "exact_match": (right, row),
        "hamming": (wrong, known.sum(axis=1).astype(np.float64)),
        "sample_recall": (tp / np.maximum(positives, 1), row),
        "sample_precision": (tp / np.maximum(predicted, 1), row),
        "sample_f1": (2 * tp / np.maximum(positives + predicted, 1), row),
    }
    holds = (positives > 0).astype(np.float64)
    sums |= {
        metric.replace("sample", "finding"): (sums[metric][0] * holds, holds)
        for metric in ("sample_recall", "sample_precision", "sample_f1")
    }
    return {"accuracy": (right, row), **sums} if table.task == "binary" else sums


def _place_of_truth(table: Table) -> Array:
    """How many classes stand before the true one [N] when a row's probabilities are sorted; the first of equals ahead."""
    prob, at = table.prob_NL, table.true_NL.argmax(axis=1)
    own = np.take_along_axis(prob, at[:, None], axis=1)
    before = (prob > own) | ((prob == own) & (np.arange(prob.shape[1]) < at[:, None]))
    return before.sum(axis=1).astype(np.float64)


def table_values(table: Table) -> list[Value]:
    """The defined whole-table metrics, with label ""."""
    positives, rows = int(table.true_NL.sum()), int(table.known_NL.any(axis=1).sum())
    return [
        Value(metric, "", float(top.sum() / below.sum()), positives, rows)
        for metric, (top, below) in row_sums(table).items()
        if below.sum() > 0
    ]
