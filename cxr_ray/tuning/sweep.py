"""The sweep folder: configuration, status, trials and the results in their run folders (`trials/`). It knows no Ray."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from cxr_ray import config as cfg
from cxr_ray import runs
from cxr_ray.config.loading import value_at
from cxr_ray.config.metric_names import MEAN, split_name
from cxr_ray.errors import UserError, unknown
from cxr_ray.metrics import TABLE_METRICS, label_table
from cxr_ray.runs import events, selected_values
from cxr_ray.storage.atomic import make_folder, update_json, write_atomic
from cxr_ray.tuning import combinations, space
from cxr_ray.tuning.ranking import RankedCombination, constraints, pareto_front, rank
from cxr_ray.tuning.trial import ENDED, FAILED, FINISHED, WAITING, Trial

if TYPE_CHECKING:  # matplotlib is loaded when a figure is drawn
    from cxr_ray.plotting.plots import Figure
    from cxr_ray.plotting.run_figures import Draw

GRACE_STEPS = 30
"""Optimiser steps before which good and bad hyperparameters look alike: when grids were compared after 9 to 18 steps, two of five lost
their winner (benchmarks/README.md, sweep)."""


@dataclass(frozen=True)
class Sweep:
    """An open sweep folder. Properties read the files at each access."""

    path: Path

    @property
    def config(self) -> cfg.Config:
        """The configuration, with its `tune` section."""
        return cfg.load(str(self.path / "config.yaml"))

    @property
    def grace_epochs(self) -> int:
        """Epochs that every trial is trained for: `tune.grace_epochs`, or as many as `GRACE_STEPS` steps of the base configuration
        take, at most a third of all epochs."""
        config = self.config
        if config.tune.grace_epochs != "auto":
            return config.tune.grace_epochs
        steps = -(-int(self.info["rows"]["train"]) // config.train.batch_size)
        return max(1, min(-(-GRACE_STEPS // max(1, steps)), config.train.epochs // 3))

    @property
    def info(self) -> dict[str, Any]:
        """The content of `sweep.json` (docs/reference/formats.md)."""
        return json.loads((self.path / "sweep.json").read_text(encoding="utf-8"))

    def update(self, **changes: Any) -> None:
        """Change keys of `sweep.json`, atomically."""
        update_json(self.path / "sweep.json", changes)

    @property
    def trial_records(self) -> list[Trial]:
        """All trials, ended or not, by number and fold, with the current results of their run folders."""
        trials = self._read_trials()
        if not trials:
            return []
        train = self.config.train
        return [self._with_results(t, train) for t in trials]

    def _read_trials(self) -> list[Trial]:
        """The trials of `trials.json`, without the results in their run folders."""
        try:
            rows = json.loads((self.path / "trials.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return []
        return [Trial(hyperparameters=row.pop("knobs"), **row) for row in rows]

    def write_trials(self, trials: Sequence[Trial]) -> None:
        """Write `trials.json`: names, hyperparameters and statuses. Results are not in it; they are read from the run folders."""
        rows = [
            {
                "name": t.name,
                "number": t.number,
                "knobs": t.initial,
                "fold": t.fold,
                "base": t.base,
                "status": t.status,
                "error": t.error,
            }
            for t in sorted(trials, key=lambda t: (t.number, t.fold or 0))
        ]
        write_atomic(self.path / "trials.json", json.dumps(rows, indent=1))

    def retry_failed(self) -> None:
        """Set failed trials to waiting, so that they resume from their last checkpoints."""
        trials = self.trial_records
        for trial in trials:
            run = runs.Run(self.path / "trials" / trial.name)
            if trial.status == FAILED and (run.path / "run.json").exists():
                run.update(status="stopped", error=None)
        self.write_trials([replace(t, status=WAITING, error=None) if t.status == FAILED else t for t in trials])

    def trial(self, name: str) -> Trial:
        """The trial of that name. Raises `UserError` with the closest name."""
        trials = {t.name: t for t in self._read_trials()}
        if name not in trials:
            raise unknown("trial", name, trials, where=f" of {self.path.name}")
        return self._with_results(trials[name], self.config.train)

    def run(self, trial: Trial | str) -> runs.Run:
        """The run folder of a trial. Raises `UserError` if the trial was not started."""
        return runs.load(self.path / "trials" / (trial if isinstance(trial, str) else trial.name))

    def trial_config(self, trial: Trial) -> cfg.Config:
        """The configuration that a trial is trained with."""
        config = self.config
        base = config.model_copy(update={"tune": cfg.Tune()})
        made = space.apply(base, trial.hyperparameters, self.info["labels"], where=f"trial {trial.name}")
        if trial.fold is not None:
            assert config.tune.folds is not None
            made = made.model_copy(update={"data": with_fold(made.data, config.tune.folds, trial.fold)})
        return made.model_copy(update={"name": trial.name, "output": str(self.path / "trials")})

    def ranked(self) -> list[RankedCombination]:
        """The evaluated combinations, best first (see `ranking.rank`)."""
        return rank(self.trial_records, self.config.tune, constraints(self.config.tune))

    @property
    def test_evaluations(self) -> int:
        """How often test was evaluated in this sweep: the counts of its run folders and of folders that were replaced."""
        count = int(self.info.get("looks_of_gone", 0))
        for file in (f for place in ("*", "trials/*", "folds/*") for f in self.path.glob(f"{place}/run.json")):
            with suppress(ValueError):  # a damaged run folder does not hide the sweep
                count += int(runs.Run(file.parent).info.get("test_looks", 0))
        return count

    @property
    def trials(self) -> pd.DataFrame:
        """One row per trial with its hyperparameters and val metrics (`trial_table`)."""
        return self.trial_table()

    @property
    def best(self) -> runs.Run | None:
        """The run of the winner, `best/`, evaluated on test; None before there is one."""
        folder = self.path / "best"
        return runs.Run(folder) if (folder / "run.json").is_file() else None

    @property
    def importance(self) -> pd.Series | None:
        """Importance of each hyperparameter for the first objective, the largest first: the loss of R² of a forest when its values are
        shuffled among the trials. None with too few trials (`importance.MIN_TRIALS`)."""
        from cxr_ray.tuning import figures

        info, config = self.info, self.config
        found = figures.importance_of(combinations.evaluated(self._rows()), info, config)
        if found is None:
            return None
        return pd.Series(found.mean, index=info["knobs"], name="importance").sort_values(ascending=False)

    @property
    def table(self) -> pd.DataFrame:
        """Recall, ROC AUC, precision, F1 and average precision by label (`metrics.label_table`) of the leading combination on val:
        means over its folds, NaN before one is evaluated. `best.table` has its results on test."""
        leading = next((row.values for row in self._rows() if row.ranked is not None), {})
        named = ((split_name(name), value) for name, value in leading.items())
        values = [{"metric": metric, "label": label, "value": value} for (_, metric, label), value in named]
        return label_table.label_table(values, self.info["labels"])

    def figure(self, name: str) -> "Figure":
        """A matplotlib figure of the sweep: curves, parallel, hyperparameter-NAME, importance, pareto, map-METRIC. Raises `UserError`
        with the names that it has by now."""
        from cxr_ray.plotting import run_figures

        return run_figures.pick(self._figures(), name, where=f" of the sweep {self.path.name}")

    def _figures(self) -> "dict[str, Draw]":
        from cxr_ray.tuning import figures

        info, rows = self.info, self._rows()
        evaluated = combinations.evaluated(rows)
        made = figures.figures_of(self.path, self.config, info, evaluated, rows)
        made |= figures.heat_figures(evaluated, info["labels"])
        # "knob-" is the prefix of the files, whose names are permanent.
        return {
            name.replace("knob-", "hyperparameter-", 1): partial(draw, *given) for name, (draw, *given) in made.items()
        }

    def _rows(self) -> list[combinations.Row]:
        trials, config = self.trial_records, self.config
        ranked = rank(trials, config.tune, constraints(config.tune))
        return combinations.combination_rows(trials, config, self.info, ranked)

    def __repr__(self) -> str:
        """Never raises: the folder may be gone."""
        try:
            info, trials, ranked = self.info, self.trial_records, self.ranked()
            ended = sum(t.status in ENDED for t in trials)
            words = [info["status"], f"{ended} of {max(int(info.get('planned') or 0), len(trials))} trials ended"]
            if ranked:
                words.append(f"best {ranked[0].trials[0].name}: {info['metrics'][0]} {ranked[0].values[0]:.3f}")
            return f"Sweep({self.path.name}: {', '.join(words)})"
        except (OSError, ValueError, KeyError, TypeError, UserError):
            return f"Sweep({str(self.path)!r})"

    def _repr_html_(self) -> str:
        from cxr_ray.plotting import run_figures

        figures = run_figures.images(self._figures(), ["curves", "importance"])
        labels = "<div>the leading trial on val:</div>" + label_table.to_html(self.table)
        return label_table.card(repr(self), self.trials_html(), labels, figures, about=str(self.path))

    def trials_html(self) -> str:
        """`trials` as an HTML table for a notebook, the best by the first objective on top: hyperparameters, objectives and means."""
        config, table = self.config, self.trials
        objective = config.tune.metrics[0].removeprefix("val/")
        if objective in table:
            table = table.sort_values(
                objective, ascending=config.tune.modes[0] == "min", na_position="last", kind="stable"
            )
        wanted = [name.removeprefix("val/") for name in config.tune.metrics] + [f"{m}/{MEAN}" for m in TABLE_METRICS]
        about = ["trial", "fold", "status", "epochs", "seconds", *self.info["knobs"], "pareto"]
        shown = [name for name in dict.fromkeys([*about, *wanted]) if name in table]
        return table[shown].to_html(index=False, border=0, na_rep="–", max_rows=20, float_format=lambda v: f"{v:.4g}")

    def trial_table(self, trials: Sequence[Trial] | None = None) -> pd.DataFrame:
        """One row per trial: `trial, fold, status, epochs, epoch, seconds, HYPERPARAMETERS..., pareto, METRIC/LABEL...` (val at the
        selected epoch). `trials` avoids reading them again. `pareto`, with several objectives: whether it is on the Pareto front."""
        trials, info = self.trial_records if trials is None else trials, self.info
        tune = self.config.tune
        front = pareto_front(rank(trials, tune, constraints(tune)), tune.modes) if len(tune.metrics) > 1 else None
        metric_names = list(dict.fromkeys(name for t in trials for name in t.values))
        folds = any(t.fold is not None for t in trials)
        base = self.config.model_dump()
        rows = []
        for t in trials:
            row: dict[str, Any] = {"trial": t.name, **({"fold": t.fold} if folds else {}), "status": t.status, "epochs": t.epochs,
                                   "epoch": t.epoch, "seconds": round(t.seconds, 2)}  # fmt: skip
            row |= {name: t.hyperparameters.get(name, value_at(base, name)) for name in info["knobs"]}
            row |= {} if front is None else {"pareto": t.number in front}
            rows.append(row | {name.removeprefix("val/"): t.values.get(name) for name in metric_names})
        return pd.DataFrame(rows)

    def _with_results(self, trial: Trial, train: cfg.Train) -> Trial:
        run = runs.Run(self.path / "trials" / trial.name)
        try:
            info = run.info
        except (OSError, ValueError):
            return trial
        status = trial.status
        if info["status"] == "finished" or (status not in ENDED and info["status"] == "failed"):
            status = FINISHED if info["status"] == "finished" else FAILED
        table, values, epoch = selected_values(run, train)
        epochs = int(table["epoch"].max()) if len(table) else 0
        seconds = float(info.get("seconds") or trial.seconds)
        params: dict[str, Any] = {"hyperparameters": trial.hyperparameters, "changed_from": None}
        if changes := info.get("changes"):
            before_epoch = [c["knobs"] for c in changes if epoch is not None and c["epoch"] < epoch]
            params = {
                "hyperparameters": before_epoch[-1] if before_epoch else trial.hyperparameters,
                "changed_from": trial.hyperparameters,
            }
        return replace(trial, status=status, error=trial.error or info.get("error"), epochs=epochs, epoch=epoch, seconds=seconds,
                       values=values, **params)  # fmt: skip


def with_fold(data: cfg.Data, folds: int, fold: int) -> cfg.Data:
    """`data` with one of `folds` folds as val. An official val split is replaced by the default, because the fold defines val."""
    val = cfg.Split().val if data.split.val == "official" else data.split.val
    split = data.split.model_copy(update={"folds": folds, "fold": fold, "val": val})
    return data.model_copy(update={"split": split})


def load(path: str | os.PathLike[str]) -> Sweep:
    """The sweep in the folder `path`. Raises `UserError` with the closest name if it is not a sweep."""
    found = Sweep(runs.folder_of(path, "sweep"))
    events.settle(found.path / "sweep.json")
    return found


def create(config: cfg.Config, *, store: Mapping[str, Any], about: Mapping[str, Any]) -> Sweep:
    """The folder of `config`'s sweep: a new one, or the unfinished one of the same name, configuration and store, to be resumed. A
    resumed one keeps its config.yaml until `update_config`, because another process may hold its lease.

    `about` are further keys of sweep.json. Raises `UserError` if the name belongs to a different sweep or to a run."""
    name = config.name or runs.default_name(config, kind="sweep")
    runs.check_name(name)
    path = Path(config.output).resolve() / name
    named = config.model_copy(update={"name": name, "output": str(path.parent)})
    sweep = Sweep(path)
    if (path / "sweep.json").is_file():
        events.settle(path / "sweep.json")
        _check_same(sweep, named, store)
        return sweep
    if path.exists() and any(path.iterdir()):
        raise UserError(f"{path} exists and is not a sweep folder; give another name")
    make_folder(path)
    write_atomic(path / "config.yaml", named.to_yaml())
    sweep.update(status="started", name=name, store=dict(store), seconds=0.0, best=None, worth=None, **about)
    return sweep


def update_config(sweep: Sweep, config: cfg.Config) -> None:
    """Write the config.yaml of a resumed sweep, whose settings (more trials, for example) `create` has accepted. Only the holder of the
    sweep's lease may call it."""
    named = config.model_copy(update={"name": sweep.path.name, "output": str(sweep.path.parent)})
    write_atomic(sweep.path / "config.yaml", named.to_yaml())


def _check_same(sweep: Sweep, config: cfg.Config, store: Mapping[str, Any]) -> None:
    name = sweep.path.name
    # These may differ in a resumed sweep: its first trials stay the same.
    may_differ: Any = {
        "name": True,
        "output": True,
        "data": {"verify"},
        "tune": {"trials", "max_concurrent", "max_time", "retries", "hang_minutes", "ensemble"},
    }
    before, now = (c.model_dump(mode="json", exclude=may_differ) for c in (sweep.config, config))
    changed = runs.differences(before, now)
    if changed:
        raise UserError(
            f"the folder of {name} contains a different sweep ({'; '.join(changed)}); give a new name, or the same config to "
            "resume it"
        )
    if sweep.info["store"]["fingerprint"] != store["fingerprint"]:
        raise UserError(f"the store {store['path']} has changed since the sweep {name} was started; give a new name")
