"""Comparison of runs: differing settings and data, and metrics on their common rows with paired intervals. Trains and predicts nothing."""
# N rows, L labels, R resamples

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray.errors import UserError
from cxr_ray.evaluation.prediction_table import EvaluationSettings, PredictionTable, choose_points, rule_of
from cxr_ray.evaluation.results import resample
from cxr_ray.evaluation.value_intervals import labels_left_out, means_text, value_row
from cxr_ray.labels import PARTS
from cxr_ray.metrics import (
    MEAN,
    OVERALL_METRICS,
    RATES,
    TABLE_METRICS,
    Value,
    compute_metrics,
    delong,
    operating_points,
)
from cxr_ray.metrics.intervals import Samples, bca, p_value, percentile, smallest_p
from cxr_ray.metrics.names import MICRO, WEIGHTED
from cxr_ray.metrics.table import Table
from cxr_ray.runs import Run, differences


@dataclass(frozen=True)
class Scored:
    """The metrics of one of the compared prediction tables, and their resamples."""

    points: dict[str, operating_points.Point]
    table: Table
    values: list[Value]
    samples: Samples
    left_out: Samples
    """Jackknife samples; empty without BCa intervals."""

    @property
    def by_name(self) -> dict[tuple[str, str], float]:
        """Values by metric and label."""
        return {(v.metric, v.label): v.value for v in self.values}


@dataclass(frozen=True)
class Common:
    """What compared runs have in common."""

    names: list[str]
    task: str
    labels: list[str]
    part: str
    predicted: list[int]
    """Rows of the part that each run predicted."""
    frames: list[pd.DataFrame]
    """Predictions of the common rows, in one order."""
    notes: list[str]
    """Rows, labels and truth that are left out."""


def compare(
    runs: Sequence[Run],
    *,
    split: str | None = None,
    thresholds: operating_points.Rule | None = None,
    resamples: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare runs on their common rows of a part (test if all have predictions of it, else val); the result is plain JSON:

    - `runs`: name, values with intervals and thresholds of each; `config`, `data`: differences to the first run;
    - `pairs`: for every two runs and every metric (`TABLE_METRICS` first), by label and as mean or overall, the second minus the
      first with the paired interval and p-value (shared resamples, as the first run's `report` sets them); for AUROCs also
      DeLong's p-value, which assumes independent images;
    - `seeds`: if the runs differ only in their seed, the mean over runs, its interval and the deviation between runs;
    - `notes`: rows, labels and truth that could not be compared.

    Raises `UserError` if the runs have no common labels, part or rows, or different tasks."""
    common = _common(runs, split)
    names, task, labels, part, notes = common.names, common.task, common.labels, common.part, list(common.notes)
    rows, frames = common.predicted, common.frames

    report = runs[0].config.report
    first = EvaluationSettings.from_report(report, report.thresholds, seed=seed)
    if resamples is not None:
        first = replace(first, bootstrap=resamples)
    each = [
        EvaluationSettings.from_report(run.config.report, rule_of(run, thresholds, labels), seed=seed) for run in runs
    ]
    tables = {name: PredictionTable(frame, labels, task) for name, frame in zip(names, frames, strict=True)}
    val = [PredictionTable(run.predictions("val"), labels, task) if _has(run, "val") else None for run in runs]
    scored = _score(tables, val, each, resampling=first)
    unit, group_N = tables[names[0]].resampling_units(first.interval_by)
    if text := means_text(labels_left_out(scored[names[0]].samples, labels)):
        notes.append(text)
    return {
        "task": task,
        "labels": labels,
        "part": part,
        "shown": [*TABLE_METRICS, *(["accuracy"] if task != "multilabel" else [])],
        "rows": len(frames[0]),
        "runs": [
            {**_run_entry(name, scored[name], group_N), "model": run.architecture, "rows": count}
            for name, run, count in zip(names, runs, rows, strict=True)
        ],
        "config": [
            {"run": name, "differs": _setting_differences(runs[0], run)}
            for name, run in zip(names[1:], runs[1:], strict=True)
        ],
        "data": [_data_entry(name, run, runs[0]) for name, run in zip(names, runs, strict=True)],
        "interval": {
            "by": unit,
            "resamples": first.bootstrap,
            "groups": len(np.unique(group_N)),
            "method": first.interval,
        },
        "pairs": [
            {"first": a, "second": b, "rows": _pair_rows(scored[a], scored[b], labels)}
            for a, b in combinations(names, 2)
        ],
        "seeds": _seeds(runs, [scored[name] for name in names], labels),
        "notes": notes,
    }


def check_comparable(runs: Sequence[Run], split: str | None = None) -> None:
    """Raise `UserError` if `compare` would refuse these runs: no common labels, part or rows, or different tasks."""
    _common(runs, split)


def _common(runs: Sequence[Run], split: str | None) -> Common:
    """What the runs have in common. Raises `UserError` if that is nothing."""
    if len(runs) < 2:
        raise UserError("give two runs or more to compare")
    names = _names(runs)
    task = _common_task(runs)
    labels, notes = _common_labels(runs, names)
    part = split or _common_part(runs)
    frames = [run.predictions(part) for run in runs]
    rows = [len(frame) for frame in frames]
    notes += [line for run, frame in zip(runs, frames, strict=True) for line in run.missing_predictions(part, frame)]
    frames, row_notes = _align_rows(runs, names, frames, part)
    notes += row_notes + _mask_different_truth(frames, labels)
    return Common(names, task, labels, part, rows, frames, notes)


def compare_tables(
    first: PredictionTable, second: PredictionTable, settings: EvaluationSettings
) -> list[dict[str, Any]]:
    """Compare two predictions tables of the same rows, second minus first: rows as in the `pairs` of `compare`, and in addition those
    of the micro and weighted averages. A threshold rule is applied to each table itself.

    Raises `UserError` if the tables have different rows, or if there are none for a rule."""
    if first.frame["row"].tolist() != second.frame["row"].tolist():
        raise UserError("they were evaluated on different rows")
    tables = {"first": first, "second": second}
    scored = _score(tables, [first, second], [settings, settings], resampling=settings)
    return _pair_rows(scored["first"], scored["second"], list(first.labels), averages=(MICRO, WEIGHTED))


def _score(
    tables: Mapping[str, PredictionTable],
    val: Sequence[PredictionTable | None],
    settings: Sequence[EvaluationSettings],
    *,
    resampling: EvaluationSettings,
) -> dict[str, Scored]:
    """Each table at the thresholds of its own settings, chosen on its own `val`; all of them on the same resamples."""
    points = {
        name: choose_points(table, rows, own)
        for (name, table), rows, own in zip(tables.items(), val, settings, strict=True)
    }
    thresholds = {name: operating_points.thresholds_of(points[name]) for name in tables}
    decided = {name: table.decide(thresholds[name]) for name, table in tables.items()}
    _, group_N = next(iter(tables.values())).resampling_units(resampling.interval_by)
    samples, left_out = resample(decided, group_N, resampling)
    return {
        name: Scored(
            points[name],
            decided[name],
            compute_metrics(t.truth_NL, t.prob_NL, labels=t.labels, task=t.task, thresholds_L=thresholds[name]),
            samples[name],
            left_out[name],
        )
        for name, t in tables.items()
    }


def _run_entry(name: str, scored: Scored, group_N: npt.NDArray[np.int64]) -> dict[str, Any]:
    """A run's values with intervals as an evaluation has them, and its thresholds."""
    rows = [value_row(v, scored.table, group_N, scored.samples, scored.left_out) for v in scored.values]
    return {"name": name, "values": rows, "thresholds": {k: p.threshold for k, p in scored.points.items()}}


def _names(runs: Sequence[Run]) -> list[str]:
    """A distinct name for each run. Raises `UserError` if a run is given twice."""
    if len({run.path for run in runs}) < len(runs):
        raise UserError("a run is given twice; give two different runs")
    names = [run.path.name for run in runs]
    if len(set(names)) < len(names):
        names = [f"{run.path.parent.name}/{run.path.name}" for run in runs]
    return names if len(set(names)) == len(names) else [str(run.path) for run in runs]


def _has(run: Run, part: str) -> bool:
    return (run.path / "predictions" / f"{part}.parquet").exists()


def _common_task(runs: Sequence[Run]) -> str:
    tasks = {run.info["task"] for run in runs}
    if len(tasks) > 1:
        raise UserError(f"these runs cannot be compared: their tasks differ ({', '.join(sorted(tasks))})")
    return str(tasks.pop())


def _common_part(runs: Sequence[Run]) -> str:
    for part in ("test", "val"):
        if all(_has(run, part) for run in runs):
            return part
    raise UserError("these runs have no common part with predictions; `cxr-ray evaluate RUN` predicts test")


def _common_labels(runs: Sequence[Run], names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The labels that all runs have, and notes about the others."""
    each = [run.info["labels"] for run in runs]
    common = [label for label in each[0] if all(label in other for other in each[1:])]
    notes = []
    for name, labels in zip(names, each, strict=True):
        other = [label for label in labels if label not in common]
        if other:
            notes.append(f"{name}: labels that not every run has are not compared ({', '.join(other)})")
    if not common:
        listed = "; ".join(f"{name}: {', '.join(labels)}" for name, labels in zip(names, each, strict=True))
        raise UserError(f"these runs have no common label ({listed})")
    if runs[0].info["task"] == "multiclass" and any(len(k) != len(common) for k in each):
        raise UserError("these runs have different classes, so their decisions cannot be compared")
    return common, notes


def _align_rows(
    runs: Sequence[Run], names: Sequence[str], frames: list[pd.DataFrame], part: str
) -> tuple[list[pd.DataFrame], list[str]]:
    """The common rows of every run in one order, and notes. Matched by store row, across stores by row of the dataset's table."""
    key, notes = "row", []
    if len({run.info["store"]["fingerprint"] for run in runs}) > 1:
        sources = {run.info["store"]["source"] for run in runs}
        if len(sources) > 1:
            raise UserError(f"these runs have no common rows: their sources are {', '.join(sorted(sources))}")
        key = "source_row"
        notes.append(
            "the runs were trained on different stores of one source: rows are matched by their row in its table"
        )
    for name, frame in zip(names, frames, strict=True):
        if frame[key].duplicated().any():
            raise UserError(f"the predictions of {name} have a duplicate row; `cxr-ray evaluate` writes them again")
    common = frames[0][key][np.logical_and.reduce([frames[0][key].isin(f[key]) for f in frames])]
    if not len(common):
        raise UserError(
            f"these runs have no common rows of {part}; train them with the same data.split to compare them"
        )
    notes += [
        f"{name}: {len(frame) - len(common):,} of {len(frame):,} rows of {part} are not in {part} of every run and left out"
        for name, frame in zip(names, frames, strict=True)
        if len(frame) > len(common)
    ]
    return [frame.set_index(key, drop=False).loc[common].reset_index(drop=True) for frame in frames], notes


def _mask_different_truth(frames: Sequence[pd.DataFrame], labels: Sequence[str]) -> list[str]:
    """Set cells to unknown, in place, if the runs have different truth for them; a note with their number."""
    truth = [f"true/{k}" for k in labels]
    first = frames[0][truth]
    equal = np.logical_and.reduce(
        [(f[truth].to_numpy() == first.to_numpy()) | (f[truth].isna() & first.isna()).to_numpy() for f in frames]
    )
    if equal.all():
        return []
    for frame in frames:
        frame[truth] = frame[truth].where(equal)
    return [
        f"{(~equal).sum():,} cells have different truth in the runs (data.eval_uncertain, data.blank) and are left out"
    ]


def _setting_differences(first: Run, other: Run) -> list[str]:
    skip = ("name: ", "output: ", "data.shards: ")
    lines = differences(first.config.model_dump(mode="json"), other.config.model_dump(mode="json"))
    if (one := first.architecture) != (two := other.architecture) and (first.members or other.members):
        lines.append(f"model: was {one}, is {two}")
    return [line.replace(": was ", ": ", 1).replace(", is ", " -> ", 1) for line in lines if not line.startswith(skip)]


def _data_entry(name: str, run: Run, first: Run) -> dict[str, Any]:
    """Sizes of a run's parts, its store, and how many train rows it shares with the first run (None for another store)."""
    plan, first_plan, store = run.plan, first.plan, run.info["store"]
    train, first_train = (p.loc[p["part"] == "train", "row"] for p in (plan, first_plan))
    return {
        "run": name,
        **{part: int((plan["part"] == part).sum()) for part in PARTS},
        "store": store["fingerprint"][:12],
        "source": store["source"],
        "train_shared": int(train.isin(first_train).sum())
        if store["fingerprint"] == first.info["store"]["fingerprint"]
        else None,
    }


def _pair_rows(
    first: Scored, second: Scored, labels: Sequence[str], *, averages: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Second minus first for every metric: by label, as mean over the labels that both define, and as further `averages`."""
    one, two = first.by_name, second.by_name
    metrics = [*TABLE_METRICS, *(m for m in RATES if m not in TABLE_METRICS), *OVERALL_METRICS[first.table.task]]
    rows: list[dict[str, Any]] = []
    for metric in metrics:
        both = [k for k in (*labels, "") if (metric, k) in one and (metric, k) in two]
        also = [k for k in averages if (metric, k) in one and (metric, k) in two]
        gaps = _sample_gaps(first.samples, second.samples, metric, both, also)
        left_out = _sample_gaps(first.left_out, second.left_out, metric, both, also)
        for label in [*both, *([MEAN] if len(both) > 1 else []), *also]:
            averaged = both if label == MEAN else [label]
            value = float(np.mean([two[metric, k] - one[metric, k] for k in averaged]))
            row: dict[str, Any] = {"metric": metric, "label": label, "value": value}
            if label in gaps:
                row |= _interval_of(gaps[label], value, left_out.get(label))
            if metric == "auroc" and label in labels:
                row |= _delong(first.table, second.table, labels.index(label))
            rows.append(row)
    return rows


def _interval_of(
    gap_R: npt.NDArray[np.float64], value: float, left_out_J: npt.NDArray[np.float64] | None
) -> dict[str, Any]:
    """Interval (BCa if there are jackknife samples and it is defined) and p-value of a difference; empty if undefined. `p_is_bound` if
    so many resamples show no smaller p-value."""
    interval = None if left_out_J is None else bca(gap_R, value, left_out_J)
    interval = interval or percentile(gap_R)
    if not interval:
        return {}
    p = p_value(gap_R)
    bound = p is not None and p == smallest_p(int((~np.isnan(gap_R)).sum()))
    return {"low": interval.low, "high": interval.high, "p": p, **({"p_is_bound": True} if bound else {})}


def _sample_gaps(
    first: Samples, second: Samples, metric: str, labels: Sequence[str], averages: Sequence[str]
) -> dict[str, npt.NDArray[np.float64]]:
    """Samples of second minus first, by label and average, and as mean over the labels defined in each resample."""
    gaps = {k: second[metric, k] - first[metric, k] for k in labels if (metric, k) in first}
    if len(gaps) > 1:
        stacked = np.stack(list(gaps.values()))
        defined = (~np.isnan(stacked)).sum(axis=0)
        gaps[MEAN] = np.where(defined > 0, np.nansum(stacked, axis=0) / np.maximum(defined, 1), np.nan)
    return gaps | {k: second[metric, k] - first[metric, k] for k in averages if (metric, k) in first}


def _delong(first: Table, second: Table, i: int) -> dict[str, float]:
    known = first.known_NL[:, i]
    scores = np.stack([second.prob_NL[known, i], first.prob_NL[known, i]], axis=1)
    comparison = delong.compare(first.true_NL[known, i], scores)
    return {} if comparison is None else {"delong_p": comparison.p}


def _seeds(runs: Sequence[Run], scored: Sequence[Scored], labels: Sequence[str]) -> list[dict[str, Any]] | None:
    """Mean, range and deviation (n - 1) over runs that differ only in their seed, and `between`, the interval of the mean over
    resampled rows: the variation between seeds, and the uncertainty from the patients. None if more than the seed differs."""
    if any(run.members for run in runs):  # the config of an ensemble is that of its first member
        return None
    differing = [_setting_differences(runs[0], run) for run in runs[1:]]
    if not all(lines and all(line.startswith("seed: ") for line in lines) for lines in differing):
        return None
    if len({run.info["store"]["fingerprint"] for run in runs}) > 1:
        return None
    out = []
    for key in [
        (metric, label) for metric in TABLE_METRICS for label in (*labels, *([MEAN] if len(labels) > 1 else []))
    ]:
        values = [one.by_name[key] for one in scored if key in one.by_name]
        if len(values) < len(runs):
            continue
        row: dict[str, Any] = {
            "metric": key[0],
            "label": key[1],
            "mean": float(np.mean(values)),
            "deviation": float(np.std(values, ddof=1)),
            "low": min(values),
            "high": max(values),
        }
        samples = [one.samples[key] for one in scored if key in one.samples]
        interval = percentile(np.mean(samples, axis=0)) if samples else None
        if interval is not None and interval.low < interval.high:
            row["between"] = [interval.low, interval.high]
        out.append(row)
    return out
