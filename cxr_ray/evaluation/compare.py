"""Runs beside each other: what differs in config and data, and label by label on the rows that all of them predicted."""
# N rows, L labels

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray.config import Report
from cxr_ray.errors import UserError
from cxr_ray.evaluation.results import choose, columns_of, resampled_by, rule_of, table_of
from cxr_ray.labels import PARTS
from cxr_ray.metrics import MEAN, RATES, TABLE_METRICS, WHOLE_METRICS, Value, compute_metrics, delong, operating_points
from cxr_ray.metrics.intervals import Samples, bca, bootstrap, jackknife, p_value, percentile
from cxr_ray.metrics.names import MICRO, WEIGHTED
from cxr_ray.metrics.table import Table
from cxr_ray.runs import Run, differences


def compare(
    runs: Sequence[Run],
    *,
    split: str | None = None,
    thresholds: operating_points.Rule | None = None,
    resamples: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Runs on the rows that all of them predicted (test where all have it, else val), ready for JSON:

    - `runs`: each one's name, values with intervals, thresholds; `config`, `data`: what differs from the first;
    - `pairs`: of every two runs and every metric (`FIRST` first), by label and as mean or of the whole table, the second less
      the first with the paired interval (one set of patient resamples; by `report.interval` of the first run) and its p;
      of AUROCs also DeLong's p, which takes images as independent;
    - `seeds`: where the runs differ in their seed alone, the mean, the deviation between them and the mean's interval;
    - `notes`: what kept rows, labels or truth from being compared.

    Raises `UserError` where runs share no labels, part or rows, or are of different tasks."""
    if len(runs) < 2:
        raise UserError("give two runs or more to compare")
    names = _names(runs)
    tasks = {run.info["task"] for run in runs}
    if len(tasks) > 1:
        raise UserError(f"these runs cannot be compared: their tasks differ ({', '.join(sorted(tasks))})")
    notes: list[str] = []
    labels = _labels(runs, names, notes)
    task = tasks.pop()
    part = split or next((p for p in ("test", "val") if all(_has(run, p) for run in runs)), None)
    if part is None:
        raise UserError("these runs share no part with predictions; `cxr-ray evaluate RUN` makes those of test")
    frames = [run.predictions(part) for run in runs]
    notes += [line for run, frame in zip(runs, frames, strict=True) for line in run.unpredicted(part, frame)]
    frames = _aligned(runs, names, frames, part, labels, notes)
    tables: dict[str, Table] = {}
    points: dict[str, dict[str, operating_points.Point]] = {}
    values: dict[str, Any] = {}
    for name, run, frame in zip(names, runs, frames, strict=True):
        report = run.config.report
        rule = rule_of(run, thresholds, labels)
        val = run.predictions("val") if _has(run, "val") else None
        points[name], tables[name], values[name] = _judged(frame, val, labels, task, rule, report)
    first = runs[0].config.report
    by, group_N = resampled_by(frames[0]["patient"], first.interval_by)
    drawn = first.bootstrap if resamples is None else resamples
    samples, left_out = _drawn(tables, group_N, drawn, first, seed)
    told = []
    for name, run in zip(names, runs, strict=True):
        rows = []
        for v in values[name]:
            found = percentile(samples[name].get((v.metric, v.label), np.zeros(0)))
            rows.append(v._asdict() | ({"low": found.low, "high": found.high} if found else {}))
        told.append(
            {"name": name, "values": rows, "thresholds": {k: p.threshold for k, p in points[name].items()},
             "model": run.architecture, "rows": len(run.predictions(part))}
        )  # fmt: skip
    return {
        "task": task, "labels": labels, "part": part, "shown": [*TABLE_METRICS, *(["accuracy"] if task != "multilabel" else [])], "rows": len(frames[0]), "runs": told,
        "config": [{"run": n, "differs": _hyperparameters(runs[0], r)} for n, r in zip(names[1:], runs[1:], strict=True)],
        "data": [_data(n, r, runs[0]) for n, r in zip(names, runs, strict=True)],
        "interval": {"by": by, "resamples": drawn, "groups": len(np.unique(group_N)), "method": first.interval},
        "pairs": [_pair(a, b, tables, values, samples, left_out, labels) for a, b in combinations(names, 2)],
        "seeds": _seeds(runs, names, values, samples, labels),
        "notes": notes,
    }  # fmt: skip


def of_tables(
    first: pd.DataFrame,
    second: pd.DataFrame,
    *,
    labels: Sequence[str],
    task: str,
    thresholds: operating_points.Rule,
    report: Report,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Two predictions tables of the same rows: the second less the first, rows as in the `pairs` of `compare`, those of the
    micro and weighted averages besides. A rule of `thresholds` chooses on each table itself.

    Raises `UserError` where the tables are of other rows, or a rule has none to choose on."""
    if first["row"].tolist() != second["row"].tolist():
        raise UserError("they were judged on different rows")
    tables, values = {}, {}
    for name, frame in (("first", first), ("second", second)):
        _, tables[name], values[name] = _judged(frame, frame, labels, task, thresholds, report)
    _, group_N = resampled_by(first["patient"], report.interval_by)
    samples, left_out = _drawn(tables, group_N, report.bootstrap, report, seed)
    return _pair("first", "second", tables, values, samples, left_out, labels, also=(MICRO, WEIGHTED))["rows"]


def _judged(
    frame: pd.DataFrame,
    val: pd.DataFrame | None,
    labels: Sequence[str],
    task: str,
    rule: operating_points.Rule,
    report: Report,
) -> tuple[dict[str, operating_points.Point], Table, list[Value]]:
    """A predictions table at the thresholds of `rule`, chosen on `val`: these, the decided table, its values."""
    points = choose(
        rule, labels, task, val, interval_by=report.interval_by, assurance=report.assurance, rows=len(frame)
    )
    limits_L = operating_points.limits(points)
    truth_NL, prob_NL = columns_of(frame, labels, "true"), columns_of(frame, labels, "prob")
    values = compute_metrics(truth_NL, prob_NL, labels=labels, task=task, thresholds_L=limits_L)
    return points, table_of(frame, labels, task, limits_L), values


def _drawn(
    tables: Mapping[str, Table], group_N: npt.NDArray[np.int64], resamples: int, report: Report, seed: int
) -> tuple[Mapping[str, Samples], Mapping[str, Samples]]:
    """What the tables give under one set of resamples, and with each group left out where BCa intervals want that."""
    samples = bootstrap(tables, group_N, resamples=resamples, rng=np.random.default_rng(seed))
    exact = resamples and report.interval == "bca"
    return samples, jackknife(tables, group_N) if exact else {name: {} for name in tables}


def _names(runs: Sequence[Run]) -> list[str]:
    """The folders' names, with their parent's where two are the same. Raises `UserError` for one run given twice."""
    if len({run.path for run in runs}) < len(runs):
        raise UserError("a run is given twice; it differs from itself by nothing")
    names = [run.path.name for run in runs]
    if len(set(names)) < len(names):
        names = [f"{run.path.parent.name}/{run.path.name}" for run in runs]
    return names if len(set(names)) == len(names) else [str(run.path) for run in runs]


def _has(run: Run, part: str) -> bool:
    return (run.path / "predictions" / f"{part}.parquet").exists()


def _labels(runs: Sequence[Run], names: Sequence[str], notes: list[str]) -> list[str]:
    each = [run.info["labels"] for run in runs]
    common = [label for label in each[0] if all(label in other for other in each[1:])]
    for name, labels in zip(names, each, strict=True):
        only = [label for label in labels if label not in common]
        if only:
            notes.append(f"{name} alone, or not all, has {', '.join(only)}: not compared")
    if not common:
        each_said = "; ".join(f"{name}: {', '.join(held)}" for name, held in zip(names, each, strict=True))
        raise UserError(f"these runs share no label ({each_said})")
    if runs[0].info["task"] == "multiclass" and any(len(k) != len(common) for k in each):
        raise UserError("these runs tell other classes apart, so their decisions cannot be compared")
    return common


def _aligned(
    runs: Sequence[Run],
    names: Sequence[str],
    frames: list[pd.DataFrame],
    part: str,
    labels: Sequence[str],
    notes: list[str],
) -> list[pd.DataFrame]:
    """The common rows of every run, in one order, with one truth: by store row in one store, else by line of the dataset."""
    stores = {run.info["store"]["fingerprint"] for run in runs}
    key = "row"
    if len(stores) > 1:
        sources = {run.info["store"]["source"] for run in runs}
        if len(sources) > 1:
            raise UserError(f"these runs have no rows in common: their data are {', '.join(sorted(sources))}")
        key = "source_row"
        notes.append(
            "the runs were trained on different stores of one source: rows are matched by their line in its table"
        )
    for name, frame in zip(names, frames, strict=True):
        if frame[key].duplicated().any():
            raise UserError(f"the predictions of {name} hold a row twice; `cxr-ray evaluate` writes them anew")
    common = frames[0][key][np.logical_and.reduce([frames[0][key].isin(f[key]) for f in frames])]
    if not len(common):
        raise UserError(
            f"these runs have no rows of {part} in common; train them with the same data.split to compare them"
        )
    for name, frame in zip(names, frames, strict=True):
        if len(frame) > len(common):
            notes.append(
                f"{name}: {len(frame) - len(common):,} of {len(frame):,} rows of {part} are in no other run's {part}: left out"
            )
    out = [frame.set_index(key, drop=False).loc[common].reset_index(drop=True) for frame in frames]
    truth = [f"true/{k}" for k in labels]
    same = np.logical_and.reduce(
        [
            (f[truth].to_numpy() == out[0][truth].to_numpy()) | (f[truth].isna() & out[0][truth].isna()).to_numpy()
            for f in out
        ]
    )
    if not same.all():
        notes.append(
            f"{(~same).sum():,} cells of the truth differ between the runs (data.eval_uncertain, data.blank): left out"
        )
        for frame in out:
            frame[truth] = frame[truth].where(same)
    return out


def _hyperparameters(first: Run, other: Run) -> list[str]:
    skip = ("name: ", "output: ", "data.shards: ")
    found = differences(first.config.model_dump(mode="json"), other.config.model_dump(mode="json"))
    if (one := first.architecture) != (two := other.architecture) and (first.members or other.members):
        found.append(f"model: was {one}, is {two}")
    return [line.replace(": was ", ": ", 1).replace(", is ", " -> ", 1) for line in found if not line.startswith(skip)]


def _data(name: str, run: Run, first: Run) -> dict[str, Any]:
    plan = run.plan
    rows = {part: int((plan["part"] == part).sum()) for part in PARTS}
    shared = len(
        plan.loc[plan["part"] == "train", "row"][lambda r: r.isin(first.plan.loc[first.plan["part"] == "train", "row"])]
    )
    one = run.info["store"]["fingerprint"] == first.info["store"]["fingerprint"]
    return {"run": name, **rows, "store": run.info["store"]["fingerprint"][:12], "source": run.info["store"]["source"],
            "train_shared": shared if one else None}  # fmt: skip


def _pair(
    a: str,
    b: str,
    tables: Mapping[str, Table],
    values: Mapping[str, Any],
    samples: Mapping[str, Samples],
    left_out: Mapping[str, Samples],
    labels: Sequence[str],
    also: Sequence[str] = (),
) -> dict[str, Any]:
    """The second run less the first; the mean is over the labels that both define. `also` are other averages to tell."""
    one, two = ({(v.metric, v.label): v.value for v in values[name]} for name in (a, b))
    rows: list[dict[str, Any]] = []
    for metric in [*TABLE_METRICS, *(m for m in RATES if m not in TABLE_METRICS), *WHOLE_METRICS[tables[a].task]]:
        both = [k for k in (*labels, "") if (metric, k) in one and (metric, k) in two]
        averages = [k for k in also if (metric, k) in one and (metric, k) in two]
        resampled, without = (
            _gaps(held, a, b, metric, both)
            | {k: gap for k, gap in _gaps(held, a, b, metric, averages).items() if k != MEAN}
            for held in (samples, left_out)
        )
        for label in [*both, *([MEAN] if len(both) > 1 else []), *averages]:
            among = both if label == MEAN else [label]
            row: dict[str, Any] = {"metric": metric, "label": label}
            row["value"] = float(np.mean([two[metric, k] - one[metric, k] for k in among]))
            if label in resampled:
                gap_R = resampled[label]
                found = (bca(gap_R, row["value"], without[label]) if label in without else None) or percentile(gap_R)
                row |= {"low": found.low, "high": found.high, "p": p_value(gap_R)} if found else {}
            if metric == "auroc" and label in labels:
                row |= _delong(tables[a], tables[b], labels.index(label))
            rows.append(row)
    return {"first": a, "second": b, "rows": rows}


def _gaps(
    samples: Mapping[str, Samples], a: str, b: str, metric: str, labels: Sequence[str]
) -> dict[str, npt.NDArray[np.float64]]:
    """The second run's samples of a metric less the first's, by label, and their mean over the labels defined in each."""
    gaps = {k: samples[b][metric, k] - samples[a][metric, k] for k in labels if (metric, k) in samples[a]}
    if len(gaps) > 1:
        stacked = np.stack(list(gaps.values()))
        defined = (~np.isnan(stacked)).sum(axis=0)
        gaps[MEAN] = np.where(defined > 0, np.nansum(stacked, axis=0) / np.maximum(defined, 1), np.nan)
    return gaps


def _delong(one: Table, two: Table, i: int) -> dict[str, float]:
    known = one.known_NL[:, i]
    found = delong.compare(one.true_NL[known, i], np.stack([two.prob_NL[known, i], one.prob_NL[known, i]], axis=1))
    return {} if found is None else {"delong_p": found.p}


def _seeds(
    runs: Sequence[Run],
    names: Sequence[str],
    values: Mapping[str, Any],
    samples: Mapping[str, Samples],
    labels: Sequence[str],
) -> list[dict[str, Any]] | None:
    """Mean and deviation (n - 1) between runs of one config and several seeds, and `between`, the mean's interval over the
    resampled rows: what other seeds, and what other patients might have given. None where more than the seed differs."""
    if any(run.members for run in runs):  # their configs are their first members'
        return None
    if not all(line.startswith("seed: ") for run in runs[1:] for line in _hyperparameters(runs[0], run)):
        return None
    out = []
    for metric in TABLE_METRICS:
        for label in [*labels, *([MEAN] if len(labels) > 1 else [])]:
            held = [v.value for name in names for v in values[name] if (v.metric, v.label) == (metric, label)]
            if len(held) == len(runs):
                row: dict[str, Any] = {
                    "metric": metric,
                    "label": label,
                    "mean": float(np.mean(held)),
                    "deviation": float(np.std(held, ddof=1)),
                }
                row |= {"low": min(held), "high": max(held)}
                drawn = [samples[name][metric, label] for name in names if (metric, label) in samples[name]]
                if drawn and (found := percentile(np.mean(drawn, axis=0))) is not None:
                    row["between"] = [found.low, found.high]
                out.append(row)
    return out
