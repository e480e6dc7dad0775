"""The images of a store that are most similar to one of them, by their features."""
# N rows, D features

from typing import Any

import numpy as np
import pandas as pd

from cxr_ray.data.features import FeatureStore
from cxr_ray.errors import UserError
from cxr_ray.labels import label_values

CHUNK = 65_536
"""Rows that are compared at once: 320 MiB at 1,280 features."""


def nearest(features: FeatureStore, store: Any, row: int, count: int) -> pd.DataFrame:
    """The `count` rows of `store` with the most similar features, the most similar first: `row`, `similarity` (the cosine, 1 for equal
    directions), `same_patient` (False where a patient is unknown) and `positive`, the labels that are.

    Raises `UserError` if `row` has no features, or `count` is below 1."""
    if count < 1:
        raise UserError(f"the number of neighbours must be at least 1, got {count}")
    query_D = _unit(features.vectors([row]))[0]
    rows = features.rows
    similarity_N = np.concatenate(
        [_unit(features.vectors(rows[at : at + CHUNK])) @ query_D for at in range(0, len(rows), CHUNK)]
    )
    similarity_N[rows == row] = -np.inf
    order = np.lexsort((rows, -similarity_N))[: min(count, len(rows) - 1)]
    records = store.index.set_index("row")
    found = records.loc[rows[order]]
    patient = records["patient"].get(row)
    positive = label_values(found, store.labels).to_numpy(float) == 1.0
    return pd.DataFrame(
        {
            "row": rows[order],
            "similarity": similarity_N[order],
            "same_patient": (found["patient"] == patient).to_numpy(bool) & (not pd.isna(patient)),
            "positive": [[k for k, is_one in zip(store.labels, each, strict=True) if is_one] for each in positive],
        }
    )


def _unit(values_ND: Any) -> Any:
    """Rows scaled to a length of 1; a row of zeros stays."""
    lengths = np.linalg.norm(values_ND, axis=1, keepdims=True)
    return values_ND / np.where(lengths == 0, 1.0, lengths)
