"""What a sweep has won: the best trial as a run folder, judged once on test, and how much of its lead is noise. No training."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cxr_ray import compare, engine, ensembles, models, runs, shards
from cxr_ray import config as cfg
from cxr_ray.errors import UserError
from cxr_ray.evaluate import evaluate
from cxr_ray.sweeps import Ranked, Sweep

TOLD = ("recall", "auroc", "precision")
"""The order of worth."""


def conclude(sweep: Sweep, *, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Write `best/`, judge it on test once, compare it on val with the second and with the config as written; keep all that as
    `worth` in sweep.json and return it. Gone through again, it does nothing twice.

    Raises `UserError` where no trial came to an end."""
    ranked = sweep.ranked()
    if not ranked:
        failed = [t for t in sweep.trials if t.error]
        why = f"; the first one failed: {failed[0].error}" if failed else ""
        raise UserError(f"no trial of {sweep.path.name} was judged{why}")
    knobs = sweep.config.tune
    best = ranked[0]
    notes = []
    if not best.feasible:
        said = " and ".join(sweep.info["constraints"])
        notes.append(f"no trial meets {said}: the best without it is shown")
    held = sweep.info.get("worth") or {}
    if held.get("best") == [t.name for t in best.trials] and (sweep.path / "best" / "run.json").exists():
        return dict(held)
    for trial in best.trials:
        whole(sweep.run(trial))
    folder = _best(sweep, best)
    worth: dict[str, Any] = {"best": [t.name for t in best.trials], "against": _against(sweep, ranked, say)}
    if (runs.Run(sweep.path / "best").plan["part"] == "test").any():
        worth["test"] = _told(evaluate(folder, split="test", say=lambda line: None).found)
        notes.append("val chose the winner, so its value there flatters; test was not looked at before")
    else:
        notes.append("there is no test part: the winner's value on val flatters, since val chose it")
    if knobs.ensemble > 1 and not knobs.folds:
        worth["ensemble"] = _ensemble(sweep, ranked[: knobs.ensemble])
    worth["note"] = "; ".join(notes)
    sweep.update(best=best.trials[0].name, worth=worth)
    return worth


def refit(sweep: Sweep) -> cfg.Config:
    """The config of the winner's knobs on all rows: without `data.limit`, on one split, as the run `refit` in the sweep folder."""
    config = sweep.trial_config(replace(sweep.ranked()[0].trials[0], fold=None))
    data = config.data.model_copy(update={"limit": None})
    return config.model_copy(update={"data": data, "name": "refit", "output": str(sweep.path)})


def whole(run: runs.Run) -> None:
    """Write the model of a run whose scheduler ended it before it could; Ray may have taken its process first."""
    if run.weights.exists():
        return
    config = run.config
    store = shards.open(run.info["store"]["path"], verify="manifest", cache=config.data.cache)
    plan = runs.plan_of(run, store)
    mean, deviation = engine.gray_statistics(store, plan, config.data.normalize)
    size = config.data.image_size or store.size
    model = models.build(config.model, outputs=len(plan.labels), image_size=size, mean=mean, deviation=deviation)
    kept = engine.keep(run, model, plan, select=config.train.select, precision=config.train.precision)
    run.update(status="stopped", kept=kept)


def _best(sweep: Sweep, best: Ranked) -> Path:
    """`best/`: the winner's run folder, copied; over folds, the ensemble of its folds."""
    folder = sweep.path / "best"
    shutil.rmtree(folder, ignore_errors=True)
    if len(best.trials) > 1:
        ensembles.make(folder, [sweep.run(t) for t in best.trials])
        return folder
    source = sweep.run(best.trials[0]).path
    shutil.copytree(
        source, folder, ignore=shutil.ignore_patterns("checkpoints", "rows", "ray", "lease.json", "stop", "report.html")
    )
    return folder


def _against(sweep: Sweep, ranked: list[Ranked], say: Callable[[str], None]) -> list[dict[str, Any]]:
    """The winner less the second, and less the config as written: paired over val's patients."""
    best = ranked[0]
    others = [("the second", ranked[1])] if len(ranked) > 1 else []
    others += [("the config as written", r) for r in ranked[1:] if r.trials[0].base]
    out = []
    for what, other in others:
        if len(best.trials) > 1:
            out += _paired_folds(what, best, other, sweep)
            continue
        pair = [sweep.run(other.trials[0]), sweep.run(best.trials[0])]
        try:
            found = compare.compare(pair, split="val")
        except UserError as error:
            say(f"warning: {what} cannot be compared with the winner: {error}")
            continue
        rows = {(r["metric"], r["label"]): r for r in found["pairs"][0]["rows"]}
        labels = found["labels"]
        for metric in TOLD:
            row = rows.get((metric, "mean" if len(labels) > 1 else labels[0]))
            if row is not None:
                out.append({"what": what, "trial": other.trials[0].name, "part": "val", **row})
    return out


def _paired_folds(what: str, best: Ranked, other: Ranked, sweep: Sweep) -> list[dict[str, Any]]:
    """The mean difference over folds, and how many of them it favours: too few for an interval that would mean much."""
    name = sweep.config.tune.metrics[0]
    gaps = [
        a.values.get(name, float("nan")) - b.values.get(name, float("nan"))
        for a, b in zip(best.trials, other.trials, strict=True)
    ]
    _, _, metric = name.partition("/")
    return [
        {
            "what": what,
            "trial": other.trials[0].name,
            "part": "val",
            "metric": metric.partition("/")[0],
            "label": metric.partition("/")[2],
            "value": sum(gaps) / len(gaps),
            "folds": len(gaps),
            "folds_better": sum(g > 0 for g in gaps),
        }
    ]


def _ensemble(sweep: Sweep, members: list[Ranked]) -> dict[str, Any]:
    """The best so many trials, their probabilities averaged, judged on test."""
    for one in members:
        whole(sweep.run(one.trials[0]))
    folder = sweep.path / "ensemble"
    shutil.rmtree(folder, ignore_errors=True)
    ensembles.make(folder, [sweep.run(one.trials[0]) for one in members])
    told: dict[str, Any] = {"members": [one.trials[0].name for one in members]}
    if (runs.Run(folder).plan["part"] == "test").any():
        told["test"] = _told(evaluate(folder, split="test", say=lambda line: None).found)
    return told


def _told(found: dict[str, Any]) -> dict[str, Any]:
    """Mean recall, AUROC and precision with their intervals, of one label its own."""
    rows = {(v["metric"], v["label"]): v for v in found["values"]}
    label = "mean" if len(found["labels"]) > 1 else found["labels"][0]
    return {
        metric: {k: rows[metric, label][k] for k in ("value", "low", "high") if k in rows[metric, label]}
        for metric in TOLD
        if (metric, label) in rows
    }
