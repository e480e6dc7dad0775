"""Rows of one image joined to one, compared with a loop over the images."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ray.datasets.joined_rows import group_rows, max_labels, same_values
from cxr_ray.datasets.tables import TEXT
from cxr_ray.errors import UserError

PATH = Path("table.csv")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([1.0, 0.0, -1.0, np.nan])), min_size=1, max_size=20))
def test_the_strongest_value_of_the_rows_counts(rows: list[tuple[str, float]]) -> None:
    groups = group_rows(pd.Series([key for key, _ in rows], dtype=TEXT))
    order = list(dict.fromkeys(key for key, _ in rows))
    found = max_labels(np.array([value for _, value in rows], np.float32), groups)
    for at, key in enumerate(order):
        of_image = [value for k, value in rows if k == key]
        expected = next((value for value in (1.0, -1.0, 0.0) if value in of_image), np.nan)
        np.testing.assert_array_equal(found[at], np.float32(expected))
        assert rows[groups.first_G[at]][0] == key and key not in [k for k, _ in rows[: groups.first_G[at]]]


def test_other_columns_must_agree_where_they_are_not_blank() -> None:
    groups = group_rows(pd.Series(["a", "b", "a", "a", "c"], dtype=TEXT))
    text = pd.Series([np.nan, "M", "F", np.nan, np.nan], dtype=TEXT, name="sex")
    assert same_values(text, groups, PATH).fillna("-").tolist() == ["F", "M", "-"]
    ages = pd.Series([np.nan, 50.0, 3.0, 3.0, np.nan], name="age")
    np.testing.assert_array_equal(same_values(ages, groups, PATH), [3, 50, np.nan])
    with pytest.raises(UserError) as caught:
        same_values(pd.Series(["M", "M", "F", "F", "M"], dtype=TEXT, name="sex"), groups, PATH)
    assert str(caught.value) == (
        "table.csv, row 2 (counted from 0): 'sex' is 'F', but 'M' in row 0, which is joined to it; correct one of them"
    )
