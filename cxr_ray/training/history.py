"""Metrics of every epoch of a training: `metrics.csv`, and lookups while it runs. Computing them: epoch_metrics.py."""

import csv
import io
from collections.abc import Mapping, Sequence

from cxr_ray import metrics
from cxr_ray.metrics import Value
from cxr_ray.runs import METRIC_COLUMNS, Run
from cxr_ray.storage.atomic import write_atomic


class History:
    """The metrics of every evaluated epoch of a run. Only rank 0 has one: it writes the file."""

    def __init__(self) -> None:
        self._epochs: dict[int, tuple[int, dict[str, list[Value]]]] = {}

    @classmethod
    def until(cls, epoch: int, run: Run) -> "History":
        """The run's metrics.csv up to `epoch`; later epochs are trained again."""
        history, table = cls(), run.metrics
        for row in table[table["epoch"] <= epoch].to_dict("records"):
            _, parts = history._epochs.setdefault(row["epoch"], (row["step"], {}))
            parts.setdefault(row["part"], []).append(Value(*(row[field] for field in Value._fields)))
        return history

    def add(self, epoch: int, step: int, parts: Mapping[str, Sequence[Value]], run: Run) -> None:
        """Add the values of each part of an epoch that ended after `step` steps, also to the run's metrics.csv."""
        self._epochs[epoch] = step, {part: list(values) for part, values in parts.items()}
        rows = [
            (row_epoch, row_step, part, *value)
            for row_epoch, (row_step, row_parts) in self._epochs.items()
            for part, values in row_parts.items()
            for value in values
        ]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([METRIC_COLUMNS, *rows])
        write_atomic(run.path / "metrics.csv", text.getvalue())

    def of(self, epoch: int) -> dict[str, list[Value]]:
        """An epoch's values per part; empty if it was not evaluated."""
        _, parts = self._epochs.get(epoch, (0, {}))
        return parts

    def curve(self, metric: str, *, until: int) -> list[float | None]:
        """The metric named `metric` of epochs 0 to `until`; None where it is undefined."""
        return [metrics.find(self.of(epoch), metric) for epoch in range(until + 1)]
