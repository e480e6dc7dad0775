"""The selected epoch against a slow definition of the rule, and its values in metrics.csv."""

import math
from typing import Any, Literal

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_ray import config as cfg
from cxr_ray import runs
from cxr_ray.runs import best_epoch, is_selected_on_val, selected_epoch, selected_text, values_by_name

VALUES = st.one_of(st.none(), st.just(math.nan), st.integers(-3, 3).map(lambda k: k / 2))


def slow_best(values: dict[int, float | None], mode: str) -> int | None:
    """Go through the epochs in order and replace the best one only by a strictly better one."""
    epochs = sorted(values)
    if any(epoch > 0 for epoch in epochs):
        epochs = [epoch for epoch in epochs if epoch > 0]
    best: int | None = None
    for epoch in epochs:
        value = values[epoch]
        if value is None or math.isnan(value):
            continue
        if best is None:
            best = epoch
            continue
        reference = values[best]
        assert reference is not None
        if (value > reference) if mode == "max" else (value < reference):
            best = epoch
    if best is None and epochs:
        return epochs[-1]
    return best


@given(st.dictionaries(st.integers(0, 8), VALUES, max_size=9), st.sampled_from(["max", "min"]))
def test_the_best_epoch_matches_a_slow_definition(values: dict[int, float | None], mode: Literal["max", "min"]) -> None:
    assert best_epoch(values, mode) == slow_best(values, mode)


@given(
    st.dictionaries(st.integers(0, 8), VALUES, max_size=9),
    st.sampled_from(["max", "min"]),
    st.sampled_from(["best", "last"]),
)
def test_the_selected_epoch_is_the_best_or_the_last_one_of_metrics_csv(
    values: dict[int, float | None], mode: Literal["max", "min"], select: Literal["best", "last"]
) -> None:
    """An undefined metric has no row, or an empty value; rows of other metrics and labels are ignored."""
    rows = [("loss", "", epoch, -5.0) for epoch in values] + [("auroc", "Mass", epoch, 5.0 - epoch) for epoch in values]
    rows += [("auroc", "mean", epoch, value) for epoch, value in values.items() if value is not None]
    table = pd.DataFrame(rows, columns=["metric", "label", "epoch", "value"])
    train = cfg.validate({"train": {"select": select, "monitor": "val/auroc/mean", "monitor_mode": mode}}).train
    expected = slow_best(values, mode) if select == "best" else max(values, default=None)
    assert selected_epoch(table, train) == expected


def test_the_values_at_the_selected_epoch_have_names(tmp_path) -> None:
    config = cfg.validate(
        {"name": "x", "output": str(tmp_path), "train": {"monitor": "val/brier/mean", "select": "best"}}
    )
    plan = pd.DataFrame({"row": [1], "part": ["val"], "drawn": [1]})
    store = {"path": "shards", "fingerprint": "abc", "source": "phantom", "rows": 1, "notes": []}
    run = runs.create(config, store=store, plan=plan, about={})
    assert runs.selected_values(run)[1:] == ({}, None)
    rows = [
        (epoch, part, metric, label, value)
        for epoch, brier in ((0, 0.1), (1, 0.3), (2, 0.2), (3, 0.2))
        for part, metric, label, value in (
            ("train", "brier", "mean", 0.01),
            ("val", "brier", "mean", brier),
            ("val", "accuracy", "", 0.5 + epoch / 10),
            ("val", "auroc", "a/b", 0.9),
        )
    ]
    pd.DataFrame(rows, columns=["epoch", "part", "metric", "label", "value"]).reindex(
        columns=runs.METRIC_COLUMNS
    ).to_csv(run.path / "metrics.csv", index=False)
    table, values, epoch = runs.selected_values(run)
    assert epoch == 2 and set(table["part"]) == {"val"}
    assert values == pytest.approx({"val/brier/mean": 0.2, "val/accuracy": 0.7, "val/auroc/a/b": 0.9})
    assert values == values_by_name(table[table["epoch"] == 2])
    last = config.train.model_copy(update={"select": "last"})
    assert runs.selected_values(run, last)[2] == 3


@pytest.mark.parametrize(
    ("info", "select", "on_val", "text"),
    [
        ({}, "best", True, "the best epoch by val/auroc/mean"),
        ({}, "last", False, "the last"),
        ({"best": {"epoch": 3, "metric": "val/loss", "value": 0.0}}, "best", True, "epoch 3, the best by val/loss (0.000)"),
        ({"best": {"epoch": 3, "metric": "val/loss", "value": 0.0}}, "last", False, "the last"),
        ({"best": {"epoch": 3, "metric": "val/loss", "value": 0.2}, "kept": {"epoch": 4}}, "last", False, "the last (4)"),
        ({"best": {"epoch": 4, "metric": "val/auroc/mean", "value": None}}, "best", False,
         "the last (4), because val/auroc/mean is undefined in every epoch"),
        ({"best": None}, "best", True, "the best epoch by val/auroc/mean"),
    ],
)  # fmt: skip
def test_the_selected_epoch_in_words(
    info: dict[str, Any], select: Literal["best", "last"], on_val: bool, text: str
) -> None:
    train = cfg.Train(select=select, monitor="val/auroc/mean")
    assert is_selected_on_val(info, train) == on_val and selected_text(info, train) == text
