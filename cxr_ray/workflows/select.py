"""The result of a sweep: the best trial as a run folder, evaluated once on test, and the significance of its lead. No training."""

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cxr_ray import config as cfg
from cxr_ray import runs
from cxr_ray.data import store as stores
from cxr_ray.errors import UserError
from cxr_ray.evaluation import compare
from cxr_ray.evaluation.prediction_table import EvaluationSettings, PredictionTable, rule_of
from cxr_ray.runs import ensemble, evaluation_files
from cxr_ray.training import build, export
from cxr_ray.tuning import ranking
from cxr_ray.tuning import sweep as sweeps
from cxr_ray.tuning.ranking import RankedCombination
from cxr_ray.tuning.sweep import Sweep
from cxr_ray.workflows.evaluate import evaluate
from cxr_ray.workflows.evaluation_request import EvaluationRequest

FOLDS = 5
"""Default of `--refit folds`: five or ten are usual (Kohavi, IJCAI 1995), and ten cost twice as much."""
SECOND, BASE = "the second-best trial", "the base configuration"


def select_best(sweep: Sweep, *, log: Callable[[str], None] = print) -> dict[str, Any]:
    """Write the best trial to `best/`, evaluate it once on test, and compare it on val with the second-best trial and the base
    configuration. The result is stored as `worth` in sweep.json and returned. A second call only does what is new: another best or
    second-best trial, or an ensemble.

    Keys of `worth`: best, second, written (names of their trials; `written` is the base configuration), test and ensemble (see
    `_summary`), against (see `_comparisons`), note. Raises `UserError` if no trial was evaluated."""
    ranked = sweep.ranked()
    if not ranked:
        failed = [t for t in sweep.trial_records if t.error]
        reason = f"; the first one failed: {failed[0].error}" if failed else ""
        raise UserError(f"no trial of {sweep.path.name} was evaluated{reason}")
    previous = dict(sweep.info.get("worth") or {})
    compared = _compared_trials(sweep, ranked)
    exists = (sweep.path / "best" / "run.json").exists()
    if exists and all(previous.get(key) == value for key, value in compared.items()):
        return previous
    comparison: dict[str, Any] = {"best": compared["best"], "looks_before": previous.get("looks_before", 0)}
    if not exists or previous.get("best") != compared["best"]:
        for trial in ranked[0].trials:
            complete_model(sweep.run(trial))
        _write_best(sweep, ranked[0])
        comparison["looks_before"] = sweep.test_evaluations
        sweep.update(best=ranked[0].trials[0].name, worth=comparison)
    comparison["test"] = _evaluate_on_test(sweep, sweep.path / "best")
    comparison["against"] = _comparisons(sweep, ranked, log)
    notes = _notes(sweep, ranked[0], comparison)
    # Save the test results before anything else can fail.
    sweep.update(worth={**comparison, "note": "; ".join(notes)})
    if members := compared["members"]:
        if len(members) < sweep.config.tune.ensemble:
            notes.append(
                f"tune.ensemble is {sweep.config.tune.ensemble}, but only {len(members)} trials were evaluated"
            )
        if len(members) > 1:
            comparison["ensemble"] = _ensemble(sweep, members)
    comparison = {**compared, **comparison, "note": "; ".join(notes)}
    sweep.update(worth=comparison, test_looks=sweep.test_evaluations)
    return comparison


def _compared_trials(sweep: Sweep, ranked: list[RankedCombination]) -> dict[str, Any]:
    """The trials that the comparison depends on: if none of them has changed, it is still valid."""
    tune = sweep.config.tune
    members = ranked[: tune.ensemble] if tune.ensemble > 1 and not tune.folds else []
    base = [r for r in ranked[1:] if r.trials[0].base]
    return {
        "best": [t.name for t in ranked[0].trials],
        "second": [t.name for r in ranked[1:2] for t in r.trials],
        "written": [t.name for r in base for t in r.trials],
        "members": [r.trials[0].name for r in members],
        "asked": tune.ensemble,
    }


def _notes(sweep: Sweep, best: RankedCombination, comparison: dict[str, Any]) -> list[str]:
    """Reasons why the values of the best trial may be optimistic."""
    notes = []
    if not best.feasible:
        constraints = " and ".join(sweep.info["constraints"])
        notes.append(f"no trial meets {constraints}: the best trial without this constraint is shown")
    if not comparison["test"]:
        return [
            *notes,
            "there is no test part, and the value on val is optimistic, because the trial was selected on val",
        ]
    notes.append("the value on val is optimistic, because the trial was selected on val")
    if before := comparison["looks_before"]:
        times = "once" if before == 1 else f"{before} times"
        notes.append(f"test was evaluated {times} before in this sweep, so the value on test may be optimistic too")
    else:
        notes[-1] += "; test was not evaluated before"
    return notes


def refit_config(sweep: Sweep, changes: Mapping[str, Any] | None = None) -> cfg.Config:
    """The config of the best trial on all rows: without `data.limit`, on one split, as the run `refit` in the sweep folder. `changes`
    are nested settings that replace the trial's. Raises `UserError` for an invalid one."""
    config = sweep.trial_config(replace(sweep.ranked()[0].trials[0], fold=None))
    data = config.data.model_copy(update={"limit": None})
    config = config.model_copy(update={"data": data, "name": "refit", "output": str(sweep.path)})
    return cfg.validate(cfg.merge(config.model_dump(), dict(changes)), where="the flags") if changes else config


def fold_configs(sweep: Sweep, changes: Mapping[str, Any] | None = None) -> list[cfg.Config]:
    """The configs of `refit_config`, one for each of `tune.folds` folds (else 5): the runs `folds/fold-K`."""
    config, folds = refit_config(sweep, changes), sweep.config.tune.folds or FOLDS
    output = str(sweep.path / "folds")
    return [
        config.model_copy(
            update={"output": output, "name": f"fold-{k}", "data": sweeps.with_fold(config.data, folds, k)}
        )
        for k in range(folds)
    ]


def finished_run(sweep: Sweep, config: cfg.Config, changes: Mapping[str, Any] | None = None) -> runs.Run | None:
    """The run of a config of `refit_config` or `fold_configs` if it is finished, else None.

    Raises `UserError` if a run of that name has the hyperparameters of an earlier best trial, or other settings of `changes`."""
    run = runs.Run(Path(config.output) / config.name) if config.name else None
    if run is None or not (run.path / "run.json").exists():
        return None
    before, now = run.config.model_dump(), config.model_dump()
    compared = dict.fromkeys([*sweep.info["knobs"], "train.epochs", *cfg.dotted_names(changes or {})])
    changed = [
        f"{setting}: was {was}, is {here}"
        for setting in compared
        if (was := cfg.value_at(before, setting)) != (here := cfg.value_at(now, setting))
    ]
    if changed:
        raise UserError(
            f"{run.path} was trained with other settings, or the hyperparameters of an earlier best trial ({'; '.join(changed)}); move "
            "or remove it, then use --resume and --refit again"
        )
    return run if run.info["status"] == "finished" else None


def combine_folds(sweep: Sweep, members: Sequence[runs.Run]) -> dict[str, Any]:
    """Make the ensemble of the refitted folds, `folds/ensemble`, and evaluate it once on test. The result is stored as `folds` in
    sweep.json: runs (names), objectives (mean, deviation (n - 1) and values over the folds, by name), test (see `_summary`)."""
    folder = sweep.path / "folds" / "ensemble"
    ensemble.make(folder, members)
    each = [runs.selected_values(run)[1] for run in members]
    objectives = {}
    for name in sweep.info["metrics"]:
        values = [v[name] for v in each if name in v]
        if len(values) == len(each):  # no mean if the metric is undefined in a fold
            deviation = float(np.std(values, ddof=1))
            objectives[name] = {"mean": float(np.mean(values)), "deviation": deviation, "values": values}
    test = _evaluate_on_test(sweep, folder)
    folds = {"runs": [run.path.name for run in members], "objectives": objectives, "test": test}
    sweep.update(folds=folds, test_looks=sweep.test_evaluations)
    return folds


def complete_model(run: runs.Run) -> None:
    """Write the model file of a trial that has none from its checkpoint: Ray may kill a stopped trial before it writes the file."""
    if run.weights.exists():
        return
    config = run.config
    store = stores.open(run.info["store"]["path"], verify="manifest", cache=config.data.cache)
    plan = runs.plan_of(run, store)
    model = build.build(config, plan, store)
    precision = run.info.get("precision", config.train.precision)
    epoch = export.save_model(run, model, plan, select=config.train.select, precision=precision)
    run.update(status="stopped", kept=epoch)


def _write_best(sweep: Sweep, best: RankedCombination) -> None:
    """Write `best/`: a copy of the best trial's run folder; with folds, the ensemble of its folds."""
    folder = sweep.path / "best"
    _remove_run(sweep, folder)
    if len(best.trials) > 1:
        ensemble.make(folder, [sweep.run(t) for t in best.trials])
        return
    skipped = ("checkpoints", "rows", "ray", "lease.json", "stop", "report*.html", "index.html", "evaluation-*.json")
    shutil.copytree(sweep.run(best.trials[0]).path, folder, ignore=shutil.ignore_patterns(*skipped))
    runs.Run(folder).update(test_looks=0)  # those of the trial itself are counted in its own folder


def _remove_run(sweep: Sweep, folder: Path) -> None:
    """Remove a run folder; its evaluations of test stay counted in sweep.json."""
    if (folder / "run.json").exists():
        evaluations = int(runs.Run(folder).info.get("test_looks", 0))
        sweep.update(looks_of_gone=int(sweep.info.get("looks_of_gone", 0)) + evaluations)
    shutil.rmtree(folder, ignore_errors=True)


def _evaluate_on_test(sweep: Sweep, folder: Path) -> dict[str, Any] | None:
    """Evaluate the run in `folder` on test (see `_summary`), unless it has an evaluation already. None without a test part."""
    run = runs.Run(folder)
    if not (run.plan["part"] == "test").any():
        return None
    if not evaluation_files.of_part(run, "test").results.exists():
        evaluate(folder, EvaluationRequest(split="test"), log=lambda line: None)
    return _summary(run.evaluation("test"), sweep)


def _comparisons(sweep: Sweep, ranked: list[RankedCombination], log: Callable[[str], None]) -> list[dict[str, Any]]:
    """The best trial minus the second-best trial, and minus the base configuration: a row for each of `ranking.headline_metrics`, the
    objectives first, with the interval paired over the patients of val. With folds, each image is predicted by the model that had
    it in val."""
    best = ranked[0]
    others = [(SECOND, ranked[1])] if len(ranked) > 1 else []
    others += [(BASE, r) for r in ranked[1:] if r.trials[0].base]
    out = []
    for what, other in others:
        name = other.trials[0].name if len(other.trials) == 1 else f"{other.number:04d}"
        try:
            paired = _paired_differences(sweep, best, other)
        except UserError as error:
            log(f"warning: no interval for the difference to {what}: {error}")
            paired = {}
        rows = _difference_rows(sweep, best, other, paired)
        out += [{"what": what, "trial": name, "part": "val", **row} for row in rows]
    return out


def _paired_differences(
    sweep: Sweep, best: RankedCombination, other: RankedCombination
) -> dict[tuple[str, str], dict[str, Any]]:
    """Rows of `compare_tables` on val by metric and label. Raises `UserError` if the val tables have different rows or are missing."""
    info = sweep.info
    best_runs, other_runs = ([sweep.run(t) for t in one.trials] for one in (best, other))
    config = best_runs[0].config
    rows = compare.compare_tables(
        PredictionTable(ensemble.out_of_fold(other_runs), info["labels"], info["task"]),
        PredictionTable(ensemble.out_of_fold(best_runs), info["labels"], info["task"]),
        EvaluationSettings.from_report(config.report, rule_of(best_runs[0], None, info["labels"])),
    )
    return {(row["metric"], row["label"]): row for row in rows}


def _difference_rows(
    sweep: Sweep,
    best: RankedCombination,
    other: RankedCombination,
    paired: dict[tuple[str, str], dict[str, Any]],
) -> list[dict[str, Any]]:
    """Rows of metric, label, value (best minus other), mode (if lower is better) and, from `paired`, low, high and p. For an objective
    over folds also folds, folds_better (how many favour the best) and by_fold (the difference of the means over folds)."""
    tune = sweep.config.tune
    out = []
    for position, (metric, label) in enumerate(ranking.headline_metrics(tune.metrics, sweep.info["labels"])):
        row = dict(paired.get((metric, label), {}))
        if position < len(tune.metrics):
            name, sign = tune.metrics[position], cfg.sign_of(tune.modes[position])
            gaps = [
                a.values.get(name, math.nan) - b.values.get(name, math.nan)
                for a, b in zip(best.trials, other.trials, strict=True)
            ]
            mean = sum(gaps) / len(gaps)
            if not math.isnan(mean):  # some objectives, such as the loss, cannot be computed from a predictions table
                row = {"value": mean, **row}
                row |= {"mode": "min"} if sign < 0 else {}
            if len(gaps) > 1:
                row |= {"folds": len(gaps), "folds_better": sum(sign * g > 0 for g in gaps)}
                row |= {} if math.isnan(mean) else {"by_fold": mean}
        if "value" in row:
            out.append({**row, "metric": metric, "label": label})
    return out


def _ensemble(sweep: Sweep, members: list[str]) -> dict[str, Any]:
    """The ensemble of the trials `members`, evaluated on test."""
    folder = sweep.path / "ensemble"
    trial_runs = [sweep.run(name) for name in members]
    exists = (folder / "run.json").exists() and [m.path.name for m in runs.Run(folder).members] == members
    if not exists:
        for run in trial_runs:
            complete_model(run)
        _remove_run(sweep, folder)
        ensemble.make(folder, trial_runs)
    return {"members": members, "test": _evaluate_on_test(sweep, folder)}


def _summary(results: dict[str, Any], sweep: Sweep) -> dict[str, Any]:
    """Label, value and interval of each of `ranking.headline_metrics` in the results of an evaluation. The key is the metric for the
    mean and for overall metrics, else metric/label."""
    rows = {(v["metric"], v["label"]): v for v in results["values"]}
    labels, out = results["labels"], {}
    for metric, label in ranking.headline_metrics(sweep.config.tune.metrics, labels):
        if (metric, label) in rows:
            name = metric if label in ("", "mean") or len(labels) == 1 else f"{metric}/{label}"
            row = rows[metric, label]
            out[name] = {k: row[k] for k in ("label", "value", "low", "high") if k in row}
    return out
