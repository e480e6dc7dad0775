"""The table of a result by label, as a DataFrame and as HTML. Computes no metric."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from cxr_ray.config.metric_names import MEAN
from cxr_ray.metrics.names import TABLE_METRICS
from cxr_ray.metrics.titles import NAMES


def label_table(values: Iterable[Mapping[str, Any]], labels: Sequence[str]) -> pd.DataFrame:
    """One row per label, then `mean` if there are several labels; the index is the label.

    `values` are mappings with metric, label and value, and where known positives, rows, low and high. Columns: `TABLE_METRICS`
    (recall first, then auroc, then precision), `positives` and `rows` (known ones), then METRIC_low and METRIC_high of each metric
    that has an interval. NaN where a metric is undefined."""
    by_key = {(v["metric"], v["label"]): v for v in values}
    index = [*labels, *([MEAN] if len(labels) > 1 else [])]

    def column(metric: str, key: str) -> list[float]:
        return [_number(by_key.get((metric, label), {}).get(key)) for label in index]

    columns = {metric: column(metric, "value") for metric in TABLE_METRICS}
    for name in ("positives", "rows"):
        counts = [next((v[name] for (_, of), v in by_key.items() if of == k and name in v), np.nan) for k in labels]
        columns[name] = [float(n) for n in counts] + [np.nan] * (len(index) - len(labels))
    for metric in TABLE_METRICS:
        low, high = column(metric, "low"), column(metric, "high")
        if not np.isnan(low).all():
            columns |= {f"{metric}_low": low, f"{metric}_high": high}
    table = pd.DataFrame(columns, index=pd.Index(index, name="label"))
    return table.astype({"positives": "Int64", "rows": "Int64"})


def to_html(table: pd.DataFrame) -> str:
    """A `label_table` as an HTML table: three decimals with the interval in brackets, a dash where a metric is undefined."""
    shown = {}
    for metric in TABLE_METRICS:
        low, high = (table.get(f"{metric}_{end}", pd.Series(np.nan, table.index)) for end in ("low", "high"))
        shown[NAMES[metric]] = [_cell(*cells) for cells in zip(table[metric], low, high, strict=True)]
    shown |= {
        name.capitalize(): ["" if pd.isna(n) else f"{n:,}" for n in table[name]] for name in ("positives", "rows")
    }
    return pd.DataFrame(shown, index=pd.Index(table.index, name=None)).to_html(border=0)


def card(title: str, *parts: str, about: str = "") -> str:
    """HTML of a result in a notebook: a title, a line about it, and parts that are HTML already."""
    line = f"<div>{escape(about)}</div>" if about else ""
    return f"<div><div><strong>{escape(title)}</strong></div>{line}{''.join(parts)}</div>"


def _cell(value: float, low: float, high: float) -> str:
    if np.isnan(value):
        return "–"
    return f"{value:.3f}" + ("" if np.isnan(low) else f" ({low:.2f} to {high:.2f})")


def _number(value: Any) -> float:
    return np.nan if value is None else float(value)
