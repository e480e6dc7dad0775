"""All metrics of a table of targets and probabilities; the only entry point. An undefined metric is absent, never filled in."""
# N rows, L labels

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cxr_ray.metrics.names import Value
from cxr_ray.metrics.overall import overall_values
from cxr_ray.metrics.per_label import label_values
from cxr_ray.metrics.table import decide


def compute_metrics(
    truth_NL: npt.ArrayLike, prob_NL: npt.ArrayLike, *, labels: Sequence[str], task: str, thresholds_L: npt.ArrayLike
) -> list[Value]:
    """Every defined metric of truth (0, 1, NaN unknown) and probabilities, both [N, L]; an empty list without rows.

    - Per label, and as `mean` over the labels that define it: recall, specificity, precision, npv, f1, auroc, ap, brier, ece and
      recall_at_precision_P (`names.AT_PRECISION`). With several labels, all up to ap also as `micro` (cells pooled) and `weighted`
      (by positives). Per label also the counts positives, predicted_positives and true_positives. Classes are scored one-vs-rest.
    - Metrics that plugins registered (`registry.METRICS`), per label and as `mean`.
    - Overall metrics of the table: see `overall.row_sums`.

    Predicted positive is probability >= `thresholds_L` [L]; for classes, the largest probability. Undefined are: recall, AUROC, AP and
    recall at a precision without positives; specificity and AUROC without negatives; precision without predicted positives; NPV without
    predicted negatives; F1 without positives and predicted positives. Raises `ValueError` for wrong shapes or truth values, `UserError`
    for probabilities that are NaN or outside [0, 1].
    """
    table = decide(truth_NL, prob_NL, labels=labels, task=task, thresholds_L=thresholds_L)
    return [*label_values(table), *overall_values(table)] if len(table.prob_NL) else []


def confusion(truth_NL: npt.ArrayLike, prob_NL: npt.ArrayLike, *, threshold: float = 0.5) -> npt.NDArray[np.int64]:
    """Confusion matrix: true class by row, predicted class by column. Rows of unknown class are left out.

    [L, L] for classes; [2, 2] for one column (binary), the negative first, decided by `threshold`."""
    width = np.asarray(prob_NL).shape[-1]
    task = "binary" if width == 1 else "multiclass"
    names = [str(i) for i in range(width)]
    table = decide(truth_NL, prob_NL, labels=names, task=task, thresholds_L=np.full(width, threshold))
    known_N = table.known_NL[:, 0]
    true, predicted = table.true_NL[known_N], table.positive_NL[known_N]
    if width == 1:
        true, predicted = np.hstack([~true, true]), np.hstack([~predicted, predicted])
    return true.T.astype(np.int64) @ predicted.astype(np.int64)
