"""Filters: pandas queries over a table of records, or a store's index. Which ones apply is decided by the plan and the ingest."""

import re
from collections.abc import Iterable

import pandas as pd

from cxr_ray.data.store_format import RESERVED
from cxr_ray.errors import UserError, closest
from cxr_ray.labels import LABEL_PREFIX, Filter

COLUMN_PREFIX = "column/"
"""In a filter, of a column whose name a label shares."""


def refuse_ambiguous(query: str, table: pd.DataFrame) -> None:
    """Raises `UserError` if a query that a user wrote has a name that a label and another column of `table` share."""
    quoted, bare = re.findall(r"`([^`]+)`", query), re.sub(r"""`[^`]*`|'[^']*'|"[^"]*\"""", " ", query)
    for name in [*quoted, *re.findall(r"[^\W\d]\w*", bare)]:
        if name in _shared_names(table):
            raise UserError(
                f"the filter {query!r} names {name}, which is a label and another column of the dataset; "
                f"write `{LABEL_PREFIX}{name}` for the label, `{COLUMN_PREFIX}{name}` for the column, in backticks"
            )


def _shared_names(table: pd.DataFrame) -> list[str]:
    """Names that a label and another column of `table` share."""
    labels = [str(name).removeprefix(LABEL_PREFIX) for name in table.columns if str(name).startswith(LABEL_PREFIX)]
    return [name for name in labels if name in table.columns or name in RESERVED]


def dropping_filter(table: pd.DataFrame, filters: Iterable[Filter]) -> "pd.Series[str]":
    """For each row (index as in `table`) the name of the first filter that drops it, or "" if none does.

    A name that a label shares with another column means the column, as in the filters of a source; `label/NAME` and
    `column/NAME` in backticks name either. Raises `UserError` for a query that cannot be evaluated or names an unknown column."""
    shared = {f"{COLUMN_PREFIX}{name}": table[name] for name in _shared_names(table) if name in table.columns}
    table = table.assign(**shared) if shared else table
    out = pd.Series("", index=table.index, dtype=object)
    for rule in filters:
        try:
            keep = table.eval(rule.query, local_dict={}, global_dict={})
        except pd.errors.UndefinedVariableError as error:
            name = str(error).split("'")[1]
            raise UserError(
                f"the filter {rule.query!r} names an unknown column {name!r}{closest(name, table.columns)}"
            ) from None
        except (SyntaxError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"the filter {rule.query!r} is not a query over the records: {' '.join(str(error).split())}"
            ) from None
        if not isinstance(keep, pd.Series) or not pd.api.types.is_bool_dtype(keep):
            raise UserError(
                f"the filter {rule.query!r} is not true or false for each row; write a comparison such as view == 'PA'"
            )
        out[(out == "") & ~keep.fillna(False).astype(bool)] = rule.name
    return out
