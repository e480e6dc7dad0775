"""The selected epoch, whose model a run saves, and its metrics. The rule is defined only here."""

from collections.abc import Mapping
from typing import Any, Protocol

import pandas as pd

from cxr_ray import config as cfg
from cxr_ray.config.metric_names import Mode, best_of, join_name, split_name


class RunLike(Protocol):
    """What the selection reads of a run."""

    @property
    def config(self) -> cfg.Config: ...

    @property
    def metrics(self) -> pd.DataFrame: ...


def best_epoch(values: Mapping[int, float | None], mode: Mode) -> int | None:
    """The best epoch by the monitored value of each epoch (None: undefined); None without epochs.

    The untrained model (epoch 0) counts only if no trained epoch exists, however good its value. Of equal values the earliest epoch is
    best. If all values are undefined, the latest epoch is best."""
    trained = sorted(epoch for epoch in values if epoch > 0) or sorted(values)
    position = best_of([values[epoch] for epoch in trained], mode)
    if position is not None:
        return trained[position]
    return trained[-1] if trained else None


def val_metrics(run: RunLike) -> pd.DataFrame:
    """The val rows of metrics.csv, all epochs."""
    table = run.metrics
    return table[(table["part"] == "val") & (table["metric"] != "confusion")]


def values_by_name(rows: pd.DataFrame) -> dict[str, float]:
    """The values of the val rows of one epoch by name, such as val/auroc/Edema."""
    return {
        join_name("val", metric, label): float(value)
        for metric, label, value in zip(rows["metric"], rows["label"], rows["value"], strict=True)
    }


def selected_values(run: RunLike, train: cfg.Train | None = None) -> tuple[pd.DataFrame, dict[str, float], int | None]:
    """The val rows of metrics.csv, the values by name at the selected epoch, and that epoch. `train` are the settings to select by,
    by default the run's own."""
    table = val_metrics(run)
    epoch = selected_epoch(table, train or run.config.train)
    return table, {} if epoch is None else values_by_name(table[table["epoch"] == epoch]), epoch


def selected_epoch(table: pd.DataFrame, train: cfg.Train) -> int | None:
    """The epoch whose model a run saves, by `train.select` and `train.monitor`, from the val rows of metrics.csv. None before the
    first epoch is evaluated."""
    epochs = sorted({int(epoch) for epoch in table["epoch"]})
    if train.select == "last" or not epochs:
        return epochs[-1] if epochs else None
    _, metric, label = split_name(train.monitor)
    monitored = table[(table["metric"] == metric) & (table["label"] == label)]
    by_epoch: dict[int, float | None] = dict.fromkeys(epochs)
    by_epoch |= {int(epoch): float(value) for epoch, value in zip(monitored["epoch"], monitored["value"], strict=True)}
    return best_epoch(by_epoch, train.mode)


def is_selected_on_val(info: Mapping[str, Any], train: cfg.Train) -> bool:
    """Whether val selected the epoch of a run with this run.json: not with `select: last`, and not if the monitored metric was
    undefined in every epoch, when the last one is kept."""
    best = info.get("best")
    return train.select == "best" and (best is None or best["value"] is not None)


def selected_text(info: Mapping[str, Any], train: cfg.Train) -> str:
    """The selected epoch of a run with this run.json, in the words of logs, commands and pages."""
    best = info.get("best")
    if train.select == "best" and best is None:
        return f"the best epoch by {train.monitor}"
    if best is not None and is_selected_on_val(info, train):
        return f"epoch {best['epoch']}, the best by {best['metric']} ({best['value']:.3f})"
    epoch = (info.get("kept") or {}).get("epoch", None if best is None or train.select == "last" else best["epoch"])
    last = "the last" if epoch is None else f"the last ({epoch})"
    return last if train.select == "last" else f"{last}, because {train.monitor} is undefined in every epoch"
