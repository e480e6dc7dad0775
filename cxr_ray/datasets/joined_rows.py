"""Several rows of a table for one image or one study (a box each, a mask each), joined to one."""
# N rows, G groups of rows with one key

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray.datasets.cells import Floats
from cxr_ray.datasets.tables import row_error
from cxr_ray.errors import quoted
from cxr_ray.storage.remote import AnyPath

ORDER = np.array([np.nan, 0.0, -1.0, 1.0], dtype=np.float32)
"""Values of a label from the weakest to the strongest: not mentioned, negative, uncertain, positive."""


@dataclass(frozen=True)
class RowGroups:
    """Which rows of a table have the same key. Groups are in the order of their first rows."""

    code_N: npt.NDArray[np.int64]
    """Group of each row."""
    first_G: npt.NDArray[np.int64]
    """First row of each group."""

    def __len__(self) -> int:
        return len(self.first_G)


def group_rows(keys: "pd.Series[str]") -> RowGroups:
    """The rows [N] of a table by their keys."""
    code_N, _ = pd.factorize(keys)
    return RowGroups(code_N.astype(np.int64), np.unique(code_N, return_index=True)[1].astype(np.int64))


def max_labels(values_N: Floats, groups: RowGroups) -> Floats:
    """The value of each group [G]: positive if one of its rows is, else uncertain, else negative, else not mentioned."""
    rank_N = np.select([values_N == value for value in ORDER[1:]], [1, 2, 3], default=0)
    rank_G = np.zeros(len(groups), dtype=np.int64)
    np.maximum.at(rank_G, groups.code_N, rank_N)
    return ORDER[rank_G]


def same_values(column: "pd.Series[Any]", groups: RowGroups, path: AnyPath) -> "pd.Series[Any]":
    """The value of each group [G]: that of its rows that have one. Raises `UserError` if they differ; `column` has its name."""
    known_N = column.notna().to_numpy()
    row_of_G = np.full(len(groups), -1)
    rows = np.flatnonzero(known_N)[::-1]
    row_of_G[groups.code_N[rows]] = rows  # the first row that has a value is written last
    source_N = row_of_G[groups.code_N]
    values = column.to_numpy()
    differs_N = known_N & (values != values[source_N])
    if differs_N.any():
        row = int(np.argmax(differs_N))
        other = int(source_N[row])
        both = f"{quoted(column.name)} is {quoted(values[row])}, but {quoted(values[other])} in row {other}"
        raise row_error(path, row, f"{both}, which is joined to it; correct one of them")
    joined = column.iloc[np.maximum(row_of_G, 0)].reset_index(drop=True)
    return joined.mask(row_of_G < 0)
