"""The model that an evaluation is of, and its predictions: computed once and saved in the run's folder, so that they are reused."""
# N rows, L labels

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray import runs
from cxr_ray.data import store as stores
from cxr_ray.data import store_check
from cxr_ray.data.plan import Plan
from cxr_ray.evaluation import baselines
from cxr_ray.inference import predictor
from cxr_ray.metrics import compute_metrics
from cxr_ray.metrics.names import MEAN
from cxr_ray.runs import ensemble
from cxr_ray.runtime import progress
from cxr_ray.runtime.context import pick_device
from cxr_ray.training import epoch_model

FITTED = ("thumbnail", "border")
"""Baselines that are fitted for every evaluation."""
UNTRAINED = "untrained"
"""The untrained model as a baseline, of parts that it was evaluated on."""
SAME = 0.01
"""Difference of two mean Brier scores that the arithmetic of another machine may cause."""


@dataclass(frozen=True)
class EvaluatedModel:
    """A run's model: the selected one, or that of an epoch, whose predictions lie in a folder of their own."""

    run: runs.Run
    plan: Plan
    """Of the training."""
    store: stores.Store
    """Of the training."""
    epoch: int | None = None
    """None: the selected epoch; 0: the untrained model."""
    _intact: set[str] = field(default_factory=set, compare=False, repr=False)
    """Stores whose bytes were checked."""

    @property
    def folder(self) -> str:
        """Where predictions of this model are, below `predictions/`: nothing, or `epoch-0003/`."""
        return "" if self.epoch is None else f"epoch-{self.epoch:04d}/"

    def rows(self, store: stores.Store, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Probabilities [N, L] for rows [N] of a store. Progress is printed. Raises `UserError` if a byte of the store has changed
        (`data.verify`)."""
        if self.epoch is None:
            model = predictor.load(self.run)
        else:
            saved = epoch_model.load(self.run, self.epoch, self.plan, self.store)
            model = predictor.Predictor(saved, pick_device("auto"), run=self.run)
        with self._checked(store), progress.Progress("predict") as show:
            return model.rows(store, rows, batch_size=self.run.config.train.batch_size, progress=show)

    @contextmanager
    def _checked(self, store: stores.Store) -> Iterator[None]:
        """Check the bytes of each store once, while its images are used for the first time."""
        with store_check.checked(store, "none" if store.origin in self._intact else self.run.config.data.verify):
            yield
        self._intact.add(store.origin)

    def saved(self, name: str, rows: npt.NDArray[np.int64]) -> pd.DataFrame | None:
        """The predictions `name` if they are of exactly these rows in this order, else None."""
        return _read(self.run, f"{self.folder}{name}", rows)

    def write(self, name: str, table: pd.DataFrame) -> None:
        """Save the predictions `name`."""
        self.run.write_predictions(f"{self.folder}{name}", table)

    def predictions(self, part: str) -> pd.DataFrame:
        """The predictions of a part. Computed and saved if there are none of exactly these rows."""
        rows = self.plan.rows[part]
        if (saved := self.saved(part, rows)) is not None:
            return saved
        if part == "val" and self.epoch is not None:  # as the training saved them, with `report.keep_predictions`
            saved = _read(self.run, f"epochs/{self.epoch:04d}-val", rows)
            if saved is not None:
                return saved
        if part == "val" and (members := self.run.members):  # a member must not predict rows that it was trained on
            table = ensemble.out_of_fold(members)
        else:
            prob_NL = self.rows(self.store, rows)
            table = runs.predictions_table(self.store.index, rows, self.plan.labels, self.plan.truth[part], prob_NL)
        self.write(part, table)
        return table

    def baselines(self, part: str) -> dict[str, npt.NDArray[np.float64]]:
        """The probabilities [N, L] of the baselines by name: those of `FITTED`, fitted once per run and part, and `UNTRAINED` if the
        untrained model was evaluated on this part."""
        labels, rows, run = self.plan.labels, self.plan.rows[part], self.run
        found: dict[str, npt.NDArray[np.float64]]
        if (saved := _read(run, f"rivals-{part}", rows)) is not None:
            found = {name: saved[[f"{name}/{k}" for k in labels]].to_numpy(float) for name in FITTED}
        else:
            with self._checked(self.store), progress.shown():
                found = baselines.fit_baselines(self.store, self.plan, part, seed=run.config.seed)
            frame = pd.DataFrame({f"{name}/{k}": found[name][:, j] for name in FITTED for j, k in enumerate(labels)})
            run.write_predictions(f"rivals-{part}", pd.concat([pd.DataFrame({"row": rows}), frame], axis=1))
        untrained = None if self.epoch == 0 else _read(run, f"epoch-0000/{part}", rows)
        if untrained is not None:
            found[UNTRAINED] = untrained[[f"prob/{k}" for k in labels]].to_numpy(float)
        return found

    def check_logged(self, val: pd.DataFrame) -> list[str]:
        """A note if the predictions of an epoch on val are not those that the training logged: another version of a library may
        draw other first weights. Empty if they are, or if nothing was logged."""
        logged = self.run.metrics
        logged = logged[
            (logged["epoch"] == self.epoch)
            & (logged["part"] == "val")
            & (logged["metric"] == "brier")
            & (logged["label"] == MEAN)
        ]
        labels, task = self.plan.labels, self.plan.task
        truth_NL, prob_NL = (val[[f"{kind}/{k}" for k in labels]].to_numpy() for kind in ("true", "prob"))
        values = compute_metrics(truth_NL, prob_NL, labels=labels, task=task, thresholds_L=[0.5] * len(labels))
        found = [v.value for v in values if (v.metric, v.label) == ("brier", MEAN)]
        if not found or not len(logged) or abs(found[0] - float(logged["value"].iloc[0])) <= SAME:
            return []
        return [
            f"the model of epoch {self.epoch} is not the one that the training logged: its mean Brier score on val is {found[0]:.3f}, "
            f"and was {float(logged['value'].iloc[0]):.3f}; versions of libraries differ, or the file of its initial weights has changed"
        ]


def _read(run: runs.Run, name: str, rows: npt.NDArray[np.int64]) -> pd.DataFrame | None:
    """The run's `predictions/NAME.parquet` if it has exactly these rows in this order, else None."""
    file: Path = run.path / "predictions" / f"{name}.parquet"
    table = pd.read_parquet(file) if file.exists() else None
    return table if table is not None and table["row"].tolist() == rows.tolist() else None
