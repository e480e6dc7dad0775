"""The sweep folder: a config, the trials' run folders under `trials/`, and what each trial came to. It knows no Ray."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray import config as cfg
from cxr_ray import metrics, runs, space
from cxr_ray.durable import write_whole
from cxr_ray.errors import UserError, unknown

WAITING, RUNNING, FINISHED, STOPPED, FAILED = "waiting", "running", "finished", "stopped early", "failed"
ENDED = (FINISHED, STOPPED, FAILED)
"""What is not done again when a sweep goes on."""


@dataclass(frozen=True)
class Trial:
    """One combination of knobs (on one fold), and what it came to."""

    name: str
    """Its run folder's under `trials/`: 0007, or 0007-fold-2."""
    number: int
    knobs: dict[str, Any]
    """By dotted name; empty for the config as written. Where pbt changed them, those that `epoch` was trained with."""
    fold: int | None = None
    base: bool = False
    """Whether this is the config as written, which the search is measured against."""
    status: str = WAITING
    error: str | None = None
    """Why it failed, in one line."""
    epochs: int = 0
    """Done."""
    epoch: int | None = None
    """The one whose model is kept and whose `values` these are."""
    seconds: float = 0.0
    """Of training, over all its starts."""
    values: dict[str, float] = field(default_factory=dict)
    """Val metrics of `epoch` by name (val/auroc/Edema); absent where undefined."""
    before: dict[str, Any] | None = None
    """What it began with, where pbt has changed that."""

    @property
    def drawn(self) -> dict[str, Any]:
        """The knobs that it began with."""
        return self.knobs if self.before is None else self.before


@dataclass(frozen=True)
class Constraint:
    """What a trial must reach besides: `metric`, `above` (or below) `limit`."""

    metric: str
    above: bool
    limit: float

    def met(self, values: Mapping[str, float]) -> bool:
        """Whether `values` reach it; an undefined metric does not."""
        return self.gap(values) <= 0.0

    def gap(self, values: Mapping[str, float]) -> float:
        """By how much `values` miss it, in its metric's unit; at most 0 where it is met, NaN where the metric is undefined."""
        value = values.get(self.metric, math.nan)
        return self.limit - value if self.above else value - self.limit

    def missed(self, values: Mapping[str, float], *, undefined: float) -> float:
        """The `gap`, or `undefined` in the place of NaN."""
        gap = self.gap(values)
        return undefined if math.isnan(gap) else gap

    def __str__(self) -> str:
        return f"{self.metric} {'>=' if self.above else '<='} {self.limit:g}"


@dataclass(frozen=True)
class Ranked:
    """A combination over its folds: the mean of each objective, the deviation (n - 1) between folds."""

    number: int
    trials: tuple[Trial, ...]
    values: tuple[float, ...]
    """Of each of `tune.metrics`; NaN where undefined on a fold."""
    deviation: tuple[float, ...]
    feasible: bool
    """Whether every constraint is met (by the mean over folds)."""

    @property
    def knobs(self) -> dict[str, Any]:
        """The combination."""
        return self.trials[0].knobs


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
        runs.lay_on(self.path / "sweep.json", changes)

    @property
    def trials(self) -> list[Trial]:
        """Every trial that was started or is to be, by number and fold, with what its own run folder says now."""
        held = self._held()
        if not held:
            return []
        monitor = self.config.train
        return [self._now(one, monitor) for one in held]

    def _held(self) -> list[Trial]:
        """The trials as they were written, without what their run folders say."""
        try:
            return [Trial(**one) for one in json.loads((self.path / "trials.json").read_text(encoding="utf-8"))]
        except FileNotFoundError:
            return []

    def write_trials(self, trials: Sequence[Trial]) -> None:
        """Keep which trials there are and how each stands; what it came to is read from its run folder."""
        kept = [
            {
                "name": t.name,
                "number": t.number,
                "knobs": t.drawn,
                "fold": t.fold,
                "base": t.base,
                "status": t.status,
                "error": t.error,
            }
            for t in sorted(trials, key=lambda t: (t.number, t.fold or 0))
        ]
        write_whole(self.path / "trials.json", json.dumps(kept, indent=1))

    def forgive(self) -> None:
        """Let the trials that failed wait to go on from their last checkpoints: what made them fail was mended."""
        trials = self.trials
        for trial in trials:
            run = runs.Run(self.path / "trials" / trial.name)
            if trial.status == FAILED and (run.path / "run.json").exists():
                run.update(status="stopped", error=None)
        self.write_trials([replace(t, status=WAITING, error=None) if t.status == FAILED else t for t in trials])

    def trial(self, name: str) -> Trial:
        """The trial of that name. Raises `UserError` naming the closest one."""
        held = {t.name: t for t in self._held()}
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
        made = space.apply(base, trial.knobs, self.info["labels"], where=f"trial {trial.name}")
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
            row |= {knob: t.knobs.get(knob, at(base, knob)) for knob in info["knobs"]}
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
        table, values, epoch = kept_values(run, train)
        done = int(table["epoch"].max()) if len(table) else 0
        seconds = float(info.get("seconds") or trial.seconds)
        said: dict[str, Any] = {"knobs": trial.knobs, "before": None}
        if changes := info.get("changes"):
            trained_with = [c["knobs"] for c in changes if epoch is not None and c["epoch"] < epoch]
            said = {"knobs": trained_with[-1] if trained_with else trial.knobs, "before": trial.knobs}
        return replace(trial, status=status, error=trial.error or info.get("error"), epochs=done, epoch=epoch, seconds=seconds,
                       values=values, **said)  # fmt: skip


def judged(run: runs.Run) -> pd.DataFrame:
    """The val rows of a run's metrics.csv, all epochs."""
    table = run.metrics
    return table[(table["part"] == "val") & (table["metric"] != "confusion")]


def named(rows: pd.DataFrame) -> dict[str, float]:
    """The values of one epoch's val rows by name, such as val/auroc/Edema."""
    return {
        metrics.name("val", m, k): float(v)
        for m, k, v in zip(rows["metric"], rows["label"], rows["value"], strict=True)
    }


def of_fold(data: cfg.Data, folds: int, fold: int) -> cfg.Data:
    """`data` with one of `folds` folds as val; an official val gives way, since both say what val is."""
    val = cfg.Split().val if data.split.val == "official" else data.split.val
    split = data.split.model_copy(update={"folds": folds, "fold": fold, "val": val})
    return data.model_copy(update={"split": split})


def kept_values(run: runs.Run, train: cfg.Train | None = None) -> tuple[pd.DataFrame, dict[str, float], int | None]:
    """The val rows of a run's metrics.csv, the values by name at the epoch that it keeps by `train` (its own where not given),
    and that epoch (see `kept_epoch`)."""
    table = judged(run)
    epoch = kept_epoch(table, train or run.config.train)
    return table, {} if epoch is None else named(table[table["epoch"] == epoch]), epoch


def kept_epoch(table: pd.DataFrame, train: cfg.Train) -> int | None:
    """The epoch whose model a run keeps by `train.select` and `train.monitor`, from the val rows of its metrics.csv; None
    before the first is judged."""
    if not len(table):
        return None
    if (table["epoch"] > 0).any():  # the untrained model is kept only until there is a trained one
        table = table[table["epoch"] > 0]
    _, _, rest = train.monitor.partition("/")
    metric, _, label = rest.partition("/")
    held = table[(table["metric"] == metric) & (table["label"] == label)]
    if train.select == "last" or not len(held):
        return int(table["epoch"].max())
    values = held["value"].to_numpy(float)
    return int(held["epoch"].iloc[int(np.argmax(values if train.mode == "max" else -values))])


def constraints(tune: cfg.Tune) -> list[Constraint]:
    """`tune.constraint`, read. Raises `UserError`."""
    said = [] if tune.constraint is None else [tune.constraint] if isinstance(tune.constraint, str) else tune.constraint
    out = []
    for text in said:
        found = re.fullmatch(r"\s*(\S.*?)\s*(>=|<=)\s*([-+0-9.eE]+)\s*", text)
        try:
            assert found is not None
            out.append(Constraint(found[1], found[2] == ">=", float(found[3])))
        except (AssertionError, ValueError):
            raise UserError(f'tune.constraint: cannot read {text!r}; say "METRIC >= NUMBER" or "METRIC <= NUMBER", '
                            'such as "val/recall/mean >= 0.8"') from None  # fmt: skip
    return out


def ranked(trials: Sequence[Trial], tune: cfg.Tune, limits: Sequence[Constraint]) -> list[Ranked]:
    """See `Sweep.ranked`."""
    out = []
    for number in sorted({t.number for t in trials}):
        here = tuple(t for t in trials if t.number == number)
        if any(t.status == FAILED or t.epoch is None for t in here) or len(here) < (tune.folds or 1):
            continue
        mean = {
            name: float(np.mean([t.values.get(name, math.nan) for t in here]))
            for name in {n for t in here for n in t.values}
        }
        values = tuple(mean.get(name, math.nan) for name in tune.metrics)
        spread = tuple(
            float(np.std([t.values.get(name, math.nan) for t in here], ddof=1)) if len(here) > 1 else math.nan
            for name in tune.metrics
        )
        out.append(Ranked(number, here, values, spread, all(c.met(mean) for c in limits)))
    sign = 1.0 if tune.modes[0] == "max" else -1.0

    def order(one: Ranked) -> tuple[bool, float]:
        value = one.values[0]
        return not one.feasible, math.inf if math.isnan(value) else -sign * value

    return sorted(out, key=order)


def pareto(values_NM: npt.ArrayLike, modes: Sequence[cfg.Mode]) -> npt.NDArray[np.bool_]:
    """Which of N rows no other row matches in all M objectives and beats in one; a row with NaN is none."""
    gain_NM = np.asarray(values_NM, float) * np.where(np.asarray(modes) == "max", 1.0, -1.0)
    known_N = ~np.isnan(gain_NM).any(axis=1)
    beaten_N = np.array([
        bool(((gain_NM[known_N] >= row).all(axis=1) & (gain_NM[known_N] > row).any(axis=1)).any()) for row in gain_NM
    ], bool)  # fmt: skip
    return known_N & ~beaten_N


def front(order: Sequence[Ranked], modes: Sequence[cfg.Mode]) -> set[int]:
    """Numbers of the combinations, of those that meet every constraint, that no other of them beats in all objectives."""
    met = [r for r in order if r.feasible]
    on = pareto(np.array([r.values for r in met], float).reshape(len(met), len(modes)), modes)
    return {r.number for r, yes in zip(met, on, strict=True) if yes}


def headline(objectives: Sequence[str], labels: Sequence[str]) -> list[tuple[str, str]]:
    """(metric, label) of what a win is told by: the objectives, each of its own label, then the order of worth over all labels."""
    mean = metrics.MEAN if len(labels) > 1 else labels[0]
    parsed = [name.split("/", 2)[1:] for name in objectives]
    wanted = [(metric, rest[0] if rest else "") for metric, *rest in parsed]
    wanted = [(metric, mean if label == metrics.MEAN else label) for metric, label in wanted]
    return list(dict.fromkeys([*wanted, *((metric, mean) for metric in metrics.WORTH)]))


def at(values: Mapping[str, Any], knob: str) -> Any:
    """The value of `knob` in a config's `model_dump()`; None where it is not said. A label's policy is its own or that of all."""
    here: Any = values
    parts = knob.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(here, Mapping):
            return here
        whole = ".".join(parts[depth:])
        if whole in here:
            return here[whole]
        here = here.get(part)
    return here


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
    write_whole(path / "config.yaml", settled.to_yaml())
    sweep.update(status="started", name=name, store=dict(store), seconds=0.0, best=None, worth=None, **about)
    return sweep


def take_over(sweep: Sweep, config: cfg.Config) -> None:
    """Let a sweep go on by `config`, which `create` has allowed: more trials, say. For the holder of the sweep's lease alone."""
    made = config.model_copy(update={"name": sweep.path.name, "output": str(sweep.path.parent)})
    write_whole(sweep.path / "config.yaml", made.to_yaml())


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
