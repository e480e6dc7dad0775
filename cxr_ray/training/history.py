"""What a training has come to, epoch by epoch: metrics.csv, and what is asked of it while the training goes on."""

import csv
import io
from collections.abc import Mapping, Sequence

from cxr_ray import metrics
from cxr_ray.metrics import Value
from cxr_ray.runs import METRIC_COLUMNS, Run
from cxr_ray.storage.atomic import write_atomic


class History:
    """Every epoch of a run that was judged. Rank 0 alone keeps one: it writes the file."""

    def __init__(self) -> None:
        self._epochs: dict[int, tuple[int, dict[str, list[Value]]]] = {}

    @classmethod
    def until(cls, epoch: int, run: Run) -> "History":
        """What the run's metrics.csv says up to `epoch`; later epochs are trained anew."""
        made, table = cls(), run.metrics
        for row in table[table["epoch"] <= epoch].to_dict("records"):
            _, values = made._epochs.setdefault(row["epoch"], (row["step"], {}))
            values.setdefault(row["part"], []).append(Value(*(row[field] for field in Value._fields)))
        return made

    def add(self, epoch: int, step: int, values: Mapping[str, Sequence[Value]], run: Run) -> None:
        """Let an epoch that ended after `step` steps count as judged, each part by its values, also in the run's metrics.csv."""
        self._epochs[epoch] = step, {part: list(held) for part, held in values.items()}
        rows = [
            (at, done, part, *one)
            for at, (done, parts) in self._epochs.items()
            for part, held in parts.items()
            for one in held
        ]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([METRIC_COLUMNS, *rows])
        write_atomic(run.path / "metrics.csv", text.getvalue())

    def of(self, epoch: int) -> dict[str, list[Value]]:
        """An epoch's values by part; empty where it was not judged."""
        _, values = self._epochs.get(epoch, (0, {}))
        return values

    def course(self, wanted: str, *, until: int) -> list[float | None]:
        """The metric named `wanted` of epochs 0 to `until`; None where it is undefined."""
        return [metrics.find(self.of(epoch), wanted) for epoch in range(until + 1)]
