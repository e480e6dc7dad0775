"""The sweep folder: a config, the trials' run folders under `trials/`, and what each trial came to. It knows no Ray."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from cxr_ray import config as cfg
from cxr_ray import runs
from cxr_ray.config.loading import value_at
from cxr_ray.errors import UserError, unknown
from cxr_ray.runs import selected_values
from cxr_ray.storage.atomic import write_atomic
from cxr_ray.tuning import space
from cxr_ray.tuning.ranking import Ranked, constraints, front, ranked
from cxr_ray.tuning.trial import ENDED, FAILED, FINISHED, WAITING, Trial

SETTLED = 30
"""Steps before which good and bad knobs look alike: of grids whose trials were compared after 9 to 18, two of five lost their winner
(benchmarks/README.md, sweep)."""


@dataclass(frozen=True)
class Sweep:
    """A sweep folder, opened. Everything is read when asked for."""

    path: Path

    @property
    def config(self) -> cfg.Config:
        """The config with its `tune` block."""
        return cfg.load(str(self.path / "config.yaml"))

    @property
    def grace(self) -> int:
        """Epochs that every trial has: `tune.grace_epochs`, or those of `SETTLED` steps as the config is written, at most a third of all."""
        config = self.config
        if config.tune.grace_epochs != "auto":
            return config.tune.grace_epochs
        steps = -(-int(self.info["rows"]["train"]) // config.train.batch_size)
        return max(1, min(-(-SETTLED // max(1, steps)), config.train.epochs // 3))

    @property
    def info(self) -> dict[str, Any]:
        """`sweep.json`: status, name, labels, task, store, knobs, metrics (names), modes, constraints (text), planned (trials),
        seconds, best (trial's name or null), worth (see `winner.conclude`), test_looks, warnings."""
        return json.loads((self.path / "sweep.json").read_text(encoding="utf-8"))

    def update(self, **changes: Any) -> None:
        """Lay `changes` on `sweep.json`, whole or not at all."""
        runs.update_json(self.path / "sweep.json", changes)

    @property
    def trials(self) -> list[Trial]:
        """Every trial that was started or is to be, by number and fold, with what its own run folder says now."""
        held = self._recorded()
        if not held:
            return []
        monitor = self.config.train
        return [self._now(one, monitor) for one in held]

    def _recorded(self) -> list[Trial]:
        """The trials as `trials.json` lists them, without what their run folders say."""
        try:
            listed = json.loads((self.path / "trials.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return []
        return [Trial(hyperparameters=one.pop("knobs"), **one) for one in listed]

    def write_trials(self, trials: Sequence[Trial]) -> None:
        """Keep which trials there are and how each stands; what it came to is read from its run folder."""
        kept = [
            {
                "name": t.name,
                "number": t.number,
                "knobs": t.sampled,
                "fold": t.fold,
                "base": t.base,
                "status": t.status,
                "error": t.error,
            }
            for t in sorted(trials, key=lambda t: (t.number, t.fold or 0))
        ]
        write_atomic(self.path / "trials.json", json.dumps(kept, indent=1))

    def retry_failed(self) -> None:
        """Let the trials that failed wait to go on from their last checkpoints: what made them fail was mended."""
        trials = self.trials
        for trial in trials:
            run = runs.Run(self.path / "trials" / trial.name)
            if trial.status == FAILED and (run.path / "run.json").exists():
                run.update(status="stopped", error=None)
        self.write_trials([replace(t, status=WAITING, error=None) if t.status == FAILED else t for t in trials])

    def trial(self, name: str) -> Trial:
        """The trial of that name. Raises `UserError` naming the closest one."""
        held = {t.name: t for t in self._recorded()}
        if name not in held:
            raise unknown("trial", name, held, where=f" of {self.path.name}")
        return self._now(held[name], self.config.train)

    def run(self, trial: Trial | str) -> runs.Run:
        """The run folder of a trial. Raises `UserError` where it was not started."""
        return runs.load(self.path / "trials" / (trial if isinstance(trial, str) else trial.name))

    def trial_config(self, trial: Trial) -> cfg.Config:
        """The config that a trial trains."""
        config = self.config
        base = config.model_copy(update={"tune": cfg.Tune()})
        made = space.apply(base, trial.hyperparameters, self.info["labels"], where=f"trial {trial.name}")
        if trial.fold is not None:
            assert config.tune.folds is not None
            made = made.model_copy(update={"data": of_fold(made.data, config.tune.folds, trial.fold)})
        return made.model_copy(update={"name": trial.name, "output": str(self.path / "trials")})

    def ranked(self) -> list[Ranked]:
        """The combinations whose folds have all been judged, the best first: what meets the constraints before what does not,
        then by the first metric; an undefined one comes last."""
        return ranked(self.trials, self.config.tune, constraints(self.config.tune))

    @property
    def test_looks(self) -> int:
        """How often test was looked at in this sweep: by its run folders, and by those that gave way to others."""
        looks = int(self.info.get("looks_of_gone", 0))
        for file in (f for place in ("*", "trials/*", "folds/*") for f in self.path.glob(f"{place}/run.json")):
            with suppress(ValueError):  # a broken run folder does not hide the sweep
                looks += int(runs.Run(file.parent).info.get("test_looks", 0))
        return looks

    def table(self, trials: Sequence[Trial] | None = None) -> pd.DataFrame:
        """`trial, fold, status, epochs, epoch, seconds, KNOBS..., pareto, METRIC/LABEL...` (val, at the kept epoch), a row a
        trial; of `trials` where they are read already. pareto, of several objectives: whether it is on the `front`."""
        trials, info = self.trials if trials is None else trials, self.info
        tune = self.config.tune
        on = front(ranked(trials, tune, constraints(tune)), tune.modes) if len(tune.metrics) > 1 else None
        named = list(dict.fromkeys(name for t in trials for name in t.values))
        folds = any(t.fold is not None for t in trials)
        base = self.config.model_dump()
        rows = []
        for t in trials:
            row: dict[str, Any] = {"trial": t.name, **({"fold": t.fold} if folds else {}), "status": t.status, "epochs": t.epochs,
                                   "epoch": t.epoch, "seconds": round(t.seconds, 2)}  # fmt: skip
            row |= {
                hyperparameter: t.hyperparameters.get(hyperparameter, value_at(base, hyperparameter))
                for hyperparameter in info["knobs"]
            }
            row |= {} if on is None else {"pareto": t.number in on}
            rows.append(row | {name.removeprefix("val/"): t.values.get(name) for name in named})
        return pd.DataFrame(rows)

    def _now(self, trial: Trial, train: cfg.Train) -> Trial:
        run = runs.Run(self.path / "trials" / trial.name)
        try:
            info = run.info
        except (OSError, ValueError):
            return trial
        status = trial.status
        if info["status"] == "finished" or (status not in ENDED and info["status"] == "failed"):
            status = FINISHED if info["status"] == "finished" else FAILED
        table, values, epoch = selected_values(run, train)
        done = int(table["epoch"].max()) if len(table) else 0
        seconds = float(info.get("seconds") or trial.seconds)
        used: dict[str, Any] = {"hyperparameters": trial.hyperparameters, "before": None}
        if changes := info.get("changes"):
            trained_with = [c["knobs"] for c in changes if epoch is not None and c["epoch"] < epoch]
            used = {
                "hyperparameters": trained_with[-1] if trained_with else trial.hyperparameters,
                "before": trial.hyperparameters,
            }
        return replace(trial, status=status, error=trial.error or info.get("error"), epochs=done, epoch=epoch, seconds=seconds,
                       values=values, **used)  # fmt: skip


def of_fold(data: cfg.Data, folds: int, fold: int) -> cfg.Data:
    """`data` with one of `folds` folds as val; an official val gives way, since both say what val is."""
    val = cfg.Split().val if data.split.val == "official" else data.split.val
    split = data.split.model_copy(update={"folds": folds, "fold": fold, "val": val})
    return data.model_copy(update={"split": split})


def load(path: str | Path) -> Sweep:
    """The sweep in the folder `path`. Raises `UserError` where it is no sweep, naming a close neighbour."""
    return Sweep(runs.folder_of(path, "sweep"))


def create(config: cfg.Config, *, store: Mapping[str, Any], about: Mapping[str, Any]) -> Sweep:
    """The folder of `config`'s sweep: made new, or the unfinished one of the same name, config and store, to go on with; then
    `take_over` lays on it what may have changed, once nobody else holds it.

    Raises `UserError` where the name is taken by another sweep or a run, or this one is finished."""
    name = config.name or runs.default_name(config, kind="sweep")
    runs.check_name(name)
    path = Path(config.output).resolve() / name
    settled = config.model_copy(update={"name": name, "output": str(path.parent)})
    sweep = Sweep(path)
    if (path / "sweep.json").is_file():
        _check_same(sweep, settled, store)
        return sweep
    if path.exists() and any(path.iterdir()):
        raise UserError(f"{path} exists and is not a sweep folder; give another --name")
    path.mkdir(parents=True, exist_ok=True)
    write_atomic(path / "config.yaml", settled.to_yaml())
    sweep.update(status="started", name=name, store=dict(store), seconds=0.0, best=None, worth=None, **about)
    return sweep


def take_over(sweep: Sweep, config: cfg.Config) -> None:
    """Let a sweep go on by `config`, which `create` has allowed: more trials, say. For the holder of the sweep's lease alone."""
    made = config.model_copy(update={"name": sweep.path.name, "output": str(sweep.path.parent)})
    write_atomic(sweep.path / "config.yaml", made.to_yaml())


def _check_same(sweep: Sweep, config: cfg.Config, store: Mapping[str, Any]) -> None:
    name = sweep.path.name
    # More trials, another pace or another end of time make no other sweep: its first trials are the same.
    free: Any = {
        "name": True,
        "output": True,
        "tune": {"trials", "max_concurrent", "max_time", "retries", "hang_minutes", "ensemble"},
    }
    before, now = (c.model_dump(mode="json", exclude=free) for c in (sweep.config, config))
    changed = runs.differences(before, now)
    if changed:
        raise UserError(
            f"the folder of {name} holds another sweep ({'; '.join(changed)}); give a new --name, or the same config to go on"
        )
    if sweep.info["store"]["fingerprint"] != store["fingerprint"]:
        raise UserError(f"the store {store['path']} has changed since the sweep {name} was started; give a new --name")
