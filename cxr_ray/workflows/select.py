"""What a sweep has won: the best trial as a run folder, judged once on test, and how much of its lead is noise. No training."""

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cxr_ray import config as cfg
from cxr_ray import runs
from cxr_ray.data import store as stores
from cxr_ray.errors import UserError
from cxr_ray.evaluation import compare
from cxr_ray.evaluation.results import rule_of
from cxr_ray.runs import ensemble
from cxr_ray.training import build, export
from cxr_ray.tuning import ranking
from cxr_ray.tuning import sweep as sweeps
from cxr_ray.tuning.ranking import Ranked
from cxr_ray.tuning.sweep import Sweep
from cxr_ray.workflows.evaluate import evaluate

FOLDS = 5
"""Of the winner alone, where `tune.folds` says nothing: five or ten are usual (Kohavi, IJCAI 1995), and ten cost twice as much."""


def conclude(sweep: Sweep, *, log: Callable[[str], None] = print) -> dict[str, Any]:
    """Write `best/`, judge it on test once, compare it on val with the second and with the config as written; keep all that as
    `worth` in sweep.json and return it. Gone through again, it does what is new: a winner, a second, an ensemble.

    `worth` holds best, second, written (names of their trials), test and ensemble (see `_told`), against (see `_against`),
    note. Raises `UserError` where no trial came to an end."""
    ranked = sweep.ranked()
    if not ranked:
        failed = [t for t in sweep.trials if t.error]
        why = f"; the first one failed: {failed[0].error}" if failed else ""
        raise UserError(f"no trial of {sweep.path.name} was judged{why}")
    held = dict(sweep.info.get("worth") or {})
    hangs_on = _hangs_on(sweep, ranked)
    there = (sweep.path / "best" / "run.json").exists()
    if there and all(held.get(key) == value for key, value in hangs_on.items()):
        return held
    worth: dict[str, Any] = {"best": hangs_on["best"], "looks_before": held.get("looks_before", 0)}
    if not there or held.get("best") != hangs_on["best"]:
        for trial in ranked[0].trials:
            whole(sweep.run(trial))
        _best(sweep, ranked[0])
        worth["looks_before"] = sweep.test_looks
        sweep.update(best=ranked[0].trials[0].name, worth=worth)
    worth["test"] = _on_test(sweep, sweep.path / "best")
    worth["against"] = _against(sweep, ranked, log)
    notes = _notes(sweep, ranked[0], worth)
    sweep.update(
        worth={**worth, "note": "; ".join(notes)}
    )  # what was seen on test is kept before anything else may fail
    if members := hangs_on["members"]:
        if len(members) < sweep.config.tune.ensemble:
            notes.append(f"tune.ensemble asks for {sweep.config.tune.ensemble} trials, and {len(members)} were judged")
        if len(members) > 1:
            worth["ensemble"] = _ensemble(sweep, members)
    worth = {**hangs_on, **worth, "note": "; ".join(notes)}
    sweep.update(worth=worth, test_looks=sweep.test_looks)
    return worth


def _hangs_on(sweep: Sweep, ranked: list[Ranked]) -> dict[str, Any]:
    """The trials that what a win is worth hangs on: where none of them changed, nothing is to be said anew."""
    tune = sweep.config.tune
    members = ranked[: tune.ensemble] if tune.ensemble > 1 and not tune.folds else []
    written = [r for r in ranked[1:] if r.trials[0].base]
    return {
        "best": [t.name for t in ranked[0].trials],
        "second": [t.name for r in ranked[1:2] for t in r.trials],
        "written": [t.name for r in written for t in r.trials],
        "members": [r.trials[0].name for r in members],
        "asked": tune.ensemble,
    }


def _notes(sweep: Sweep, best: Ranked, worth: dict[str, Any]) -> list[str]:
    """What is to be known before the winner's values are believed."""
    notes = []
    if not best.feasible:
        said = " and ".join(sweep.info["constraints"])
        notes.append(f"no trial meets {said}: the best without it is shown")
    if not worth["test"]:
        return [*notes, "there is no test part: the winner's value on val flatters, since val chose it"]
    notes.append("val chose the winner, so its value there flatters")
    if before := worth["looks_before"]:
        times = "once" if before == 1 else f"{before} times"
        notes.append(f"test was looked at {times} before in this sweep, so its value there may flatter too")
    else:
        notes[-1] += "; test was not looked at before"
    return notes


def refit(sweep: Sweep) -> cfg.Config:
    """The config of the winner's knobs on all rows: without `data.limit`, on one split, as the run `refit` in the sweep folder."""
    config = sweep.trial_config(replace(sweep.ranked()[0].trials[0], fold=None))
    data = config.data.model_copy(update={"limit": None})
    return config.model_copy(update={"data": data, "name": "refit", "output": str(sweep.path)})


def on_folds(sweep: Sweep) -> list[cfg.Config]:
    """The configs of the winner's knobs on all rows, one for each of `tune.folds` (else 5) folds: the runs `folds/fold-K`."""
    made, folds = refit(sweep), sweep.config.tune.folds or FOLDS
    place = {"output": str(sweep.path / "folds")}
    return [
        made.model_copy(update={**place, "name": f"fold-{k}", "data": sweeps.of_fold(made.data, folds, k)})
        for k in range(folds)
    ]


def finished(sweep: Sweep, config: cfg.Config) -> runs.Run | None:
    """The run of a config of `refit` or `on_folds` where it is finished; None where it is still to be trained.

    Raises `UserError` where another winner's knobs were trained under its name."""
    run = runs.Run(Path(config.output) / config.name) if config.name else None
    if run is None or not (run.path / "run.json").exists():
        return None
    before, now = run.config.model_dump(), config.model_dump()
    changed = [
        f"{hyperparameter}: was {was}, is {here}"
        for hyperparameter in sweep.info["knobs"]
        if (was := cfg.value_at(before, hyperparameter)) != (here := cfg.value_at(now, hyperparameter))
    ]
    if changed:
        raise UserError(
            f"{run.path} was trained with the knobs of an earlier winner ({'; '.join(changed)}); move or remove it, and say "
            "--resume and --refit again"
        )
    return run if run.info["status"] == "finished" else None


def folded(sweep: Sweep, members: Sequence[runs.Run]) -> dict[str, Any]:
    """The winner's folds together: `folds/ensemble`, judged on test once, and kept as `folds` in sweep.json: runs (their names),
    objectives (mean, deviation (n - 1) and values over the folds, by name), test (see `_told`)."""
    folder = sweep.path / "folds" / "ensemble"
    ensemble.make(folder, members)
    each = [runs.selected_values(run)[1] for run in members]
    objectives = {}
    for name in sweep.info["metrics"]:
        values = [v[name] for v in each if name in v]
        if len(values) == len(each):  # no mean over a fold that has none
            deviation = float(np.std(values, ddof=1))
            objectives[name] = {"mean": float(np.mean(values)), "deviation": deviation, "values": values}
    told = {"runs": [run.path.name for run in members], "objectives": objectives, "test": _on_test(sweep, folder)}
    sweep.update(folds=told, test_looks=sweep.test_looks)
    return told


def whole(run: runs.Run) -> None:
    """Write the model of a run whose scheduler ended it before it could; Ray may have taken its process first."""
    if run.weights.exists():
        return
    config = run.config
    store = stores.open(run.info["store"]["path"], verify="manifest", cache=config.data.cache)
    plan = runs.plan_of(run, store)
    model = build.build(config, plan, store)
    precision = run.info.get("precision", config.train.precision)
    which = export.save_model(run, model, plan, select=config.train.select, precision=precision)
    run.update(status="stopped", kept=which)


def _best(sweep: Sweep, best: Ranked) -> None:
    """`best/`: the winner's run folder, copied; over folds, the ensemble of its folds."""
    folder = sweep.path / "best"
    _clear(sweep, folder)
    if len(best.trials) > 1:
        ensemble.make(folder, [sweep.run(t) for t in best.trials])
        return
    skipped = ("checkpoints", "rows", "ray", "lease.json", "stop", "report*.html", "evaluation-*.json")
    shutil.copytree(sweep.run(best.trials[0]).path, folder, ignore=shutil.ignore_patterns(*skipped))
    runs.Run(folder).update(test_looks=0)  # the trial's own stay counted with the trial


def _clear(sweep: Sweep, folder: Path) -> None:
    """Make room for another run folder; the looks at test of the one that goes stay counted."""
    if (folder / "run.json").exists():
        gone = int(runs.Run(folder).info.get("test_looks", 0))
        sweep.update(looks_of_gone=int(sweep.info.get("looks_of_gone", 0)) + gone)
    shutil.rmtree(folder, ignore_errors=True)


def _on_test(sweep: Sweep, folder: Path) -> dict[str, Any] | None:
    """The run in `folder` judged on test (see `_told`); what was judged before is read. None without a test part."""
    run = runs.Run(folder)
    if not (run.plan["part"] == "test").any():
        return None
    if not (folder / "evaluation-test.json").exists():
        evaluate(folder, split="test", log=lambda line: None)
    return _told(run.evaluation("test"), sweep)


def _against(sweep: Sweep, ranked: list[Ranked], log: Callable[[str], None]) -> list[dict[str, Any]]:
    """The winner less the second, and less the config as written: a row for each of `sweeps.headline`, the objectives first,
    with the interval paired over val's patients. Of folds each image is predicted by the model that held it out."""
    best = ranked[0]
    others = [("the second", ranked[1])] if len(ranked) > 1 else []
    others += [("the config as written", r) for r in ranked[1:] if r.trials[0].base]
    out = []
    for what, other in others:
        name = other.trials[0].name if len(other.trials) == 1 else f"{other.number:04d}"
        rows = _less(sweep, best, other, f"warning: no interval against {what}: ", log)
        out += [{"what": what, "trial": name, "part": "val", **row} for row in rows]
    return out


def _less(sweep: Sweep, best: Ranked, other: Ranked, warning: str, log: Callable[[str], None]) -> list[dict[str, Any]]:
    """Rows of metric, label, value (the best less the other), mode (where less is better) and, where they can be found, low,
    high, p; of an objective over folds how many of them favour the best, and by_fold, the difference of the means over folds."""
    info, tune = sweep.info, sweep.config.tune
    held, others = ([sweep.run(t) for t in one.trials] for one in (best, other))
    found: list[dict[str, Any]] = []
    try:
        found = compare.of_tables(
            ensemble.out_of_fold(others), ensemble.out_of_fold(held), labels=info["labels"], task=info["task"],
            thresholds=rule_of(held[0], None, info["labels"]), report=held[0].config.report,
        )  # fmt: skip
    except UserError as error:
        log(f"{warning}{error}")
    paired = {(row["metric"], row["label"]): row for row in found}
    out = []
    for at, (metric, label) in enumerate(ranking.headline(tune.metrics, info["labels"])):
        row = dict(paired.get((metric, label), {}))
        if at < len(tune.metrics):
            sign = cfg.sign_of(tune.modes[at])
            gaps = [
                a.values.get(tune.metrics[at], math.nan) - b.values.get(tune.metrics[at], math.nan)
                for a, b in zip(best.trials, other.trials, strict=True)
            ]
            mean = sum(gaps) / len(gaps)
            if not math.isnan(mean):  # the loss, say, stands in no predictions table
                row = {"value": mean, **row}
                row |= {"mode": "min"} if sign < 0 else {}
            if len(gaps) > 1:
                row |= {"folds": len(gaps), "folds_better": sum(sign * g > 0 for g in gaps)}
                row |= {} if math.isnan(mean) else {"by_fold": mean}
        if "value" in row:
            out.append({**row, "metric": metric, "label": label})
    return out


def _ensemble(sweep: Sweep, members: list[str]) -> dict[str, Any]:
    """The trials `members`, their probabilities averaged, judged on test."""
    folder = sweep.path / "ensemble"
    held = [sweep.run(name) for name in members]
    there = (folder / "run.json").exists() and [m.path.name for m in runs.Run(folder).members] == members
    if not there:
        for run in held:
            whole(run)
        _clear(sweep, folder)
        ensemble.make(folder, held)
    return {"members": members, "test": _on_test(sweep, folder)}


def _told(found: dict[str, Any], sweep: Sweep) -> dict[str, Any]:
    """What an evaluation found of `sweeps.headline`: label, value and its interval, by metric, or metric/label where the label
    is not the mean of all."""
    rows = {(v["metric"], v["label"]): v for v in found["values"]}
    labels, out = found["labels"], {}
    for metric, label in ranking.headline(sweep.config.tune.metrics, labels):
        if (metric, label) in rows:
            whole_of = label in ("", "mean") or len(labels) == 1
            row = rows[metric, label]
            out[metric if whole_of else f"{metric}/{label}"] = {
                k: row[k] for k in ("label", "value", "low", "high") if k in row
            }
    return out
