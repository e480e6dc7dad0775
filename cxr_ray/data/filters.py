"""Filters: pandas queries over a table of records, or a store's index. Which ones apply is decided by the plan and the ingest."""

import re
from collections.abc import Iterable

import pandas as pd

from cxr_ray.data.store_format import RESERVED
from cxr_ray.errors import UserError, closest
from cxr_ray.labels import LABEL_PREFIX, Filter

COLUMN_PREFIX = "column/"
"""In a filter, of a column whose name a label shares."""
WHERE = "--where"
"""Name of the filter that the ingest itself applies. The declared filters are applied by the plan."""
PANDAS_PREFIX = "BACKTICK_QUOTED_STRING_"
"""Of the variable that pandas makes, and reports, of a name in backticks."""


def refuse_ambiguous(query: str, table: pd.DataFrame) -> None:
    """Raises `UserError` if a query that a user wrote has a name that a label and another column of `table` share."""
    quoted, bare = _in_backticks(query), re.sub(r"""`[^`]*`|'[^']*'|"[^"]*\"""", " ", query)
    for name in [*quoted, *re.findall(r"[^\W\d]\w*", bare)]:
        if name in _shared_names(table):
            column = f", `{COLUMN_PREFIX}{name}` for the column" if name in table.columns else ""
            other = "another column of the dataset" if column else "a column that the store will have"
            raise UserError(
                f"the filter {query!r} names {name}, which is a label and {other}; "
                f"write `{LABEL_PREFIX}{name}` for the label{column}, in backticks"
            )


def _in_backticks(query: str) -> list[str]:
    return re.findall(r"`([^`]+)`", query)


def _shared_names(table: pd.DataFrame) -> list[str]:
    """Names that a label and another column of `table` share."""
    labels = [str(name).removeprefix(LABEL_PREFIX) for name in table.columns if str(name).startswith(LABEL_PREFIX)]
    return [name for name in labels if name in table.columns or name in RESERVED]


def selected(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """The records that the query `where` of an ingest selects. Raises `UserError` if there are none, and as the functions above and
    below do."""
    refuse_ambiguous(where, table)
    rows = table[dropping_filter(table, [Filter(name=WHERE, query=where)]) == ""]
    if rows.empty:
        raise UserError(f"{WHERE} {where!r} leaves none of the {len(table):,} records; widen it")
    return rows


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
            if name.startswith(PANDAS_PREFIX):
                name = next(quoted for quoted in _in_backticks(rule.query) if quoted not in table.columns)
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
