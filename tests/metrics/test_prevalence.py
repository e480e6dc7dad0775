"""Counts of known and positive cells by label."""

import numpy as np
import pandas as pd

from cxr_ray.metrics import prevalence


def test_prevalence_counts_known_cells() -> None:
    truth = np.array([[1.0, np.nan], [0, 1], [1, 0]])
    assert prevalence(truth, labels=["a", "b"], patients=pd.Series(["p", "p", "q"])) == {
        "rows": 3,
        "patients": 2,
        "labels": {"a": {"positives": 2, "known": 3}, "b": {"positives": 1, "known": 2}},
    }
    assert prevalence(np.zeros((0, 1)), labels=["a"])["patients"] is None
