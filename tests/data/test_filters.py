"""Filters: which rows a query drops, and which names it may have."""

import numpy as np
import pandas as pd
import pytest

from cxr_ray.data import filters
from cxr_ray.errors import UserError
from cxr_ray.labels import Filter
from tests.fakes.store import fake_store


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("veiw == 'AP'", "unknown column 'veiw'; did you mean 'view'"),
        ("`veiw` == 'AP'", "unknown column 'veiw'; did you mean 'view'"),
        ("`Pleural efusion` == 1", "unknown column 'Pleural efusion'"),
        ("row > 1 and `label/Mass's` == 1", 'unknown column "label/Mass\'s"'),
        ("view ==", "is not a query"),
        ("row + 1", "is not true or false for each row"),
        ("__import__('os').system('true') == 0", "is not a query|names an unknown column"),
    ],
)
def test_bad_filters(query, message):
    with pytest.raises(UserError, match=message):
        filters.dropping_filter(fake_store(10).index, [Filter(name="x", query=query)])


def test_a_filter_drops_rows_whose_value_is_missing():
    table = fake_store(4).index.assign(age=pd.array([30, None, 10, 50], dtype="Int64"), weight=[1.0, 1.0, np.nan, 1.0])
    assert filters.dropping_filter(table, [Filter(name="age", query="age > 20")]).tolist() == ["", "age", "age", ""]
    assert filters.dropping_filter(table, [Filter(name="w", query="weight > 0")]).tolist() == ["", "", "w", ""]


def test_a_name_that_a_label_shares_with_a_column_is_refused_and_either_can_be_named():
    """The patient's sex, and a label called sex."""
    table = fake_store(4).index.assign(sex=["F", "F", "M", "M"]).rename(columns={"Mass": "label/sex"})
    table["label/sex"] = [1.0, 0.0, 1.0, 0.0]
    for query in ("sex == 'F'", "`sex` == 'F'", "view == 'PA' or sex == 1"):
        with pytest.raises(
            UserError, match=r"names sex, which is a label and another column.*`label/sex`.*`column/sex`"
        ):
            filters.refuse_ambiguous(query, table)

    def kept(query: str) -> list[bool]:
        filters.refuse_ambiguous(query, table)
        return (filters.dropping_filter(table, [Filter(name="x", query=query)]) == "").tolist()

    assert kept("`label/sex` == 1") == [True, False, True, False]
    assert kept("`column/sex` == 'F'") == [True, True, False, False]
    assert kept("`column/sex` == 'F' and `label/sex` == 1") == [True, False, False, False]
    assert kept("view == 'sex' or `label/sex` == 0") == [False, True, False, True]  # the text sex is no name
    declared = [Filter(name="women", query="sex == 'F'")]  # of a source, which knows only its columns
    assert filters.dropping_filter(table, declared).tolist() == ["", "", "women", "women"]
    filters.refuse_ambiguous("sex == 'F'", fake_store(4).index)


def test_records_have_no_column_yet_that_only_the_store_will_have():
    """A label called phash, at ingest: what the message proposes can be written."""
    table = fake_store(4).index.rename(columns={"Mass": "label/phash"})
    with pytest.raises(UserError, match=r"a column that the store will have; write `label/phash` for the label, in"):
        filters.refuse_ambiguous("phash == 1", table)
    assert len(filters.dropping_filter(table, [Filter(name="x", query="`label/phash` == 1")])) == 4
