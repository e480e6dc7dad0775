"""The table by label: order, undefined metrics, intervals, HTML."""

import numpy as np
import pandas as pd

from cxr_ray.metrics import label_table as tables

VALUES = [
    {"metric": "positives", "label": "Edema", "value": 3.0, "positives": 3, "rows": 10},
    {"metric": "recall", "label": "Edema", "value": 0.5, "positives": 3, "rows": 10, "low": 0.2, "high": 0.8},
    {"metric": "auroc", "label": "Edema", "value": 0.75, "positives": 3, "rows": 10},
    {"metric": "recall", "label": "mean", "value": 0.5, "positives": 3, "rows": 10},
]


def test_recall_comes_first_and_undefined_is_nan() -> None:
    table = tables.label_table(VALUES, ["Edema", "<Mass>"])
    assert list(table.index) == ["Edema", "<Mass>", "mean"] and table.index.name == "label"
    assert list(table)[:3] == ["recall", "auroc", "precision"]
    assert table.loc["Edema", "recall"] == 0.5 and table.loc["Edema", "recall_low"] == 0.2
    assert "auroc_low" not in table and table["precision"].isna().all() and table.loc["<Mass>"].isna().all()
    assert table.loc["Edema", "positives"] == 3 and table.loc["Edema", "rows"] == 10
    assert pd.isna(table["rows"].loc["mean"])


def test_one_label_needs_no_mean() -> None:
    assert list(tables.label_table(VALUES, ["Edema"]).index) == ["Edema"]


def test_html_shows_intervals_and_dashes_and_escapes_labels() -> None:
    page = tables.to_html(tables.label_table(VALUES, ["Edema", "<Mass>"]))
    assert "0.500 (0.20 to 0.80)" in page and "<td>0.750</td>" in page and "–" in page
    assert "&lt;Mass&gt;" in page and "<Mass>" not in page and "nan" not in page.lower()
    assert page.index("Recall") < page.index("ROC AUC") < page.index("Precision")
    empty = tables.label_table([], ["Edema"])
    assert np.isnan(empty["recall"]).all() and "–" in tables.to_html(empty)


def test_a_card_escapes_its_title() -> None:
    assert tables.card("a <b>", "<p></p>", about="c & d") == (
        "<div><div><strong>a &lt;b&gt;</strong></div><div>c &amp; d</div><p></p></div>"
    )
