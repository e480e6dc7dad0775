"""Numbers of positives of each label in a part."""
# N rows, L labels

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd


def prevalence(
    truth_NL: npt.ArrayLike, *, labels: Sequence[str], patients: "pd.Series[Any] | None" = None
) -> dict[str, Any]:
    """`{"rows": n, "patients": n or None, "labels": {label: {"positives": n, "known": n}}}`, ready for JSON.

    `truth_NL` is 0, 1 or NaN (unknown); `patients` [N] is the patient of each row, None if unknown for all rows."""
    truth = np.asarray(truth_NL, dtype=np.float32).reshape(-1, len(labels))
    known_L, positives_L = (~np.isnan(truth)).sum(axis=0), (truth == 1.0).sum(axis=0)
    people = None if patients is None or patients.isna().all() else int(patients.nunique())
    counts = {k: {"positives": int(p), "known": int(n)} for k, p, n in zip(labels, positives_L, known_L, strict=True)}
    return {"rows": len(truth), "patients": people, "labels": counts}
