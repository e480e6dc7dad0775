"""The one judge: truth and probabilities in, named numbers out. An undefined number is absent, never filled in."""
# N rows, L labels

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cxr_ray.metrics.names import Value
from cxr_ray.metrics.overall import table_values
from cxr_ray.metrics.per_label import label_values
from cxr_ray.metrics.table import decide


def compute_metrics(
    truth_NL: npt.ArrayLike, prob_NL: npt.ArrayLike, *, labels: Sequence[str], task: str, thresholds_L: npt.ArrayLike
) -> list[Value]:
    """Every defined metric of a table of truth (0, 1, NaN unknown) and probabilities, both [N, L]; no rows, no values.

    - per label, and as `mean` over the labels that define it: recall, specificity, precision, npv, f1, auroc, ap, brier,
      ece, recall_at_precision_P (`values.AT_PRECISION`); all of them up to ap with several labels also `micro` (cells pooled) and
      `weighted` (by positives); per label the counts positives, predicted_positives, true_positives. Classes are judged one against the rest.
    - of the whole table: see `whole_table.row_sums`.

    The decision is probability >= `thresholds_L` [L], or the largest probability for classes. Undefined: recall, AUROC,
    AP and recall at a precision without a positive, specificity and AUROC without a negative, precision where nothing is called positive, NPV where
    all is, F1 where neither is. Raises `ValueError` for shapes or truth that are wrong, `UserError` for probabilities outside
    [0, 1] or NaN.
    """
    table = decide(truth_NL, prob_NL, labels=labels, task=task, thresholds_L=thresholds_L)
    return [*label_values(table), *table_values(table)] if len(table.prob_NL) else []


def confusion(truth_NL: npt.ArrayLike, prob_NL: npt.ArrayLike, *, threshold: float = 0.5) -> npt.NDArray[np.int64]:
    """Rows of each true class (down) called each class (across), rows of unknown class left out.

    For classes [L, L]; for one column (binary) [2, 2] with the negative first, decided by `threshold`."""
    width = np.asarray(prob_NL).shape[-1]
    task = "binary" if width == 1 else "multiclass"
    names = [str(i) for i in range(width)]
    table = decide(truth_NL, prob_NL, labels=names, task=task, thresholds_L=np.full(width, threshold))
    true, said = table.true_NL[table.known_NL[:, 0]], table.positive_NL[table.known_NL[:, 0]]
    if width == 1:
        true, said = np.hstack([~true, true]), np.hstack([~said, said])
    return true.T.astype(np.int64) @ said.astype(np.int64)
