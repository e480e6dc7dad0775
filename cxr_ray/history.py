"""What a training has come to, epoch by epoch: metrics.csv, and what is asked of it while the training goes on."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from cxr_ray import metrics
from cxr_ray.durable import write_whole
from cxr_ray.metrics import Value
from cxr_ray.runs import METRIC_COLUMNS, Run


class History:
    """Every epoch of a run that was judged. Rank 0 alone keeps one: it writes the file."""

    def __init__(self) -> None:
        self._rows: list[tuple[Any, ...]] = []
        self._epochs: dict[int, dict[str, list[Value]]] = {}

    @classmethod
    def until(cls, epoch: int, run: Run) -> "History":
        """What the run's metrics.csv says up to `epoch`; later epochs are trained anew."""
        made, table = cls(), run.metrics
        epochs: dict[tuple[int, int], dict[str, list[Value]]] = {}
        for row in table[table["epoch"] <= epoch].to_dict("records"):
            value = Value(*(row[field] for field in Value._fields))
            epochs.setdefault((row["epoch"], row["step"]), {}).setdefault(row["part"], []).append(value)
        for (at, step), values in epochs.items():
            made._take(at, step, values)
        return made

    def add(self, epoch: int, step: int, values: Mapping[str, Sequence[Value]], run: Run) -> None:
        """Let an epoch that ended after `step` steps count as judged, each part by its values, also in the run's metrics.csv."""
        self._take(epoch, step, {part: list(held) for part, held in values.items()})
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([METRIC_COLUMNS, *self._rows])
        write_whole(run.path / "metrics.csv", text.getvalue())

    def of(self, epoch: int) -> dict[str, list[Value]]:
        """An epoch's values by part; empty where it was not judged."""
        return self._epochs.get(epoch, {})

    def course(self, wanted: str, *, until: int) -> list[float | None]:
        """The metric named `wanted` of epochs 0 to `until`; None where it is undefined."""
        return [metrics.find(self.of(epoch), wanted) for epoch in range(until + 1)]

    def _take(self, epoch: int, step: int, values: dict[str, list[Value]]) -> None:
        self._epochs[epoch] = values
        for part, held in values.items():
            self._rows += [(epoch, step, part, *one) for one in held]
