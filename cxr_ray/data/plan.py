"""Which rows are used, in which part, how often and with which weight. Pure functions over the index; reads no image.

A plan is row numbers and a label matrix, so oversampling costs neither disk nor memory.
"""
# N rows, L labels, V distinct label vectors, G groups (patients, or single images)

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray import config as cfg
from cxr_ray.data import leakage
from cxr_ray.data.derive import add_derived
from cxr_ray.data.filters import dropping_filter, refuse_ambiguous
from cxr_ray.data.info import DatasetInfo
from cxr_ray.data.split import PARTS, Rows, groups_of, split
from cxr_ray.data.summary import one_gray_warning
from cxr_ray.errors import UserError, listed
from cxr_ray.labels import (
    POSITIVE,
    Filter,
    apply_policy,
    expand_by_label,
    hard_targets,
    label_column,
    label_values,
    merge_groups,
    resolve,
)

Targets = npt.NDArray[np.float32]

MAX_CATEGORIES = 20
"""Features with more distinct values, such as an age, are not checked for balance."""


class StoreLike(Protocol):
    """What a plan reads of a store."""

    @property
    def index(self) -> pd.DataFrame: ...
    @property
    def info(self) -> DatasetInfo: ...


@dataclass(frozen=True)
class Plan:
    """The rows of each part and their targets."""

    labels: tuple[str, ...]
    """The selected labels, in the store's order."""
    task: str
    """multilabel, multiclass or binary."""
    rows: dict[str, Rows]
    """Row numbers [N] of the store by part, ascending, each once."""
    truth: dict[str, Targets]
    """Targets [N, L] by part, in {0, 1, NaN}: train under the training policy, val and test under the evaluation policy. With
    a smooth policy, train also has values between 0 and 1."""
    repeats: Rows
    """How often an epoch uses each train row [N_train]."""
    pos_weight: npt.NDArray[np.float32]
    """Weight of each label's positives [L]."""
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Label groups by name: the dataset's and the user's."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Number of rows that each cleaning filter dropped."""
    warnings: tuple[str, ...] = ()
    """What users should know before they trust the results."""

    def table(self) -> pd.DataFrame:
        """The content of plan.parquet: `row`, `part`, `drawn` (how often an epoch uses the row; 1 outside train)."""
        frames = [
            pd.DataFrame({"row": rows, "part": part, "drawn": self.repeats if part == "train" else np.int64(1)})
            for part, rows in self.rows.items()
        ]
        return pd.concat(frames, ignore_index=True)

    def summary(self) -> str:
        """One line: the rows of each part, and how many an epoch repeats."""
        parts = ", ".join(f"{part} {len(self.rows[part]):,}" for part in PARTS)
        extra = int(self.repeats.sum()) - len(self.repeats)
        return parts + (f" (+{extra:,} by oversampling train)" if extra else "")


@dataclass(frozen=True)
class Selection:
    """What settings select of a store, before it is split."""

    table: pd.DataFrame
    """The index with derived labels, of the rows that the filters keep."""
    info: DatasetInfo
    """With derived labels."""
    labels: list[str]
    """The selected labels, in the store's order."""
    task: str
    """multilabel, multiclass or binary."""
    filters: list[Filter]
    groups: dict[str, tuple[str, ...]]
    """Label groups by name: the dataset's and the user's."""
    dropped: dict[str, int]
    """Number of rows that each filter dropped."""


def select(store: StoreLike, data: cfg.Data) -> Selection:
    """The rows, labels and task that the settings `data` select of a store. Raises `UserError` if no row is left."""
    index, info = add_derived(store.index, store.info, data)
    groups = merge_groups(info.groups, data.groups, info.labels)
    labels = _labels(info, data, groups)
    task = _task(info, data, labels)
    filters = _filters(info, data, index)
    dropped_by = dropping_filter(index, filters)
    dropped = {f.name: int((dropped_by == f.name).sum()) for f in filters}
    table = index[(dropped_by == "").to_numpy()]
    if table.empty:
        counts = ", ".join(f"{name}: {n}" for name, n in dropped.items())
        raise UserError(f"no row of {len(index)} is left after the filters ({counts}); see data.filters")
    return Selection(table, info, labels, task, filters, groups, dropped)


def build(store: StoreLike, data: cfg.Data, *, seed: int, pos_weight_power: float = 0.0) -> Plan:
    """The plan of a store with the settings `data`.

    Raises `UserError` if a requested part has no rows, a patient or an image is in two parts (and `data.split.leaks` is
    `refuse`), or no label has a positive in train."""
    warnings: list[str] = []
    selected = select(store, data)
    table, info, labels, task = selected.table, selected.info, selected.labels, selected.task
    group_N = groups_of(table["patient"] if data.split.by == "patient" else None, len(table))
    if data.split.by == "patient" and table["patient"].isna().any():
        missing = int(table["patient"].isna().sum())
        warnings.append(
            f"{missing:,} of {len(table):,} images have no patient and are split one by one, so images of one person may be in "
            "two parts; give the patients at ingest (--patients FILE or --patient-regex) if you know them"
        )
    group_N = leakage.join_groups(group_N, table)

    part_N = split(table, group_N, data.split, labels=info.labels, warnings=warnings)
    keep_N = ~_leaking(table, part_N, data.split, warnings)
    table, part_N, group_N = table[keep_N], part_N[keep_N], group_N[keep_N]
    if data.limit is not None and data.limit < len(table):
        # After the split, so that no limited run trains on, or selects by, a test row of the run on all rows.
        keep_N = limit_rows(group_N, part_N, data.limit, rng=np.random.default_rng([data.split.seed, 3]))
        table, part_N = table[keep_N], part_N[keep_N]
    raw_NL = label_values(table, labels).to_numpy(np.float32)
    if message := one_gray_warning(table, selected.filters):
        warnings.append(message)
    row_N = table["row"].to_numpy(np.int64)
    rows, truth = {}, {}
    for part in PARTS:
        here_N = part_N == part
        rows[part] = row_N[here_N]
        truth[part] = targets(raw_NL[here_N], rows[part], part, info, data, labels=labels, seed=seed)
    if task == "multiclass":
        _check_one_class(truth, rows)

    counts_L = (hard_targets(truth["train"]) == 1).sum(axis=0)
    if not counts_L.any():
        raise UserError(
            f"no label has a positive in train ({len(rows['train'])} rows; labels {listed(labels)}): nothing can be learnt"
        )
    negatives_L = (hard_targets(truth["train"]) == 0).sum(axis=0)
    warnings += [
        f"{label} has no {'negative' if positives else 'positive'} in train: its weight is 1, and the model's output for it is meaningless"
        for label, positives, negatives in zip(labels, counts_L, negatives_L, strict=True)
        if not positives or not negatives
    ]
    unbalanced = balance_warnings(table, part_N, info, labels, limit=data.balance_warning)
    if len(unbalanced) > 1:
        points = f"{100 * data.balance_warning:g} points"
        unbalanced = [
            f"{len(unbalanced)} shares differ between train and val by over {points}: {'; '.join(unbalanced)}"
        ]
    warnings += unbalanced
    repeats = oversample(truth["train"], min_count=data.oversample_min_count, rng=np.random.default_rng([seed, 2]))
    return Plan(
        labels=tuple(labels),
        task=task,
        rows=rows,
        truth=truth,
        repeats=repeats,
        pos_weight=positive_weights(truth["train"], power=pos_weight_power),
        groups=selected.groups,
        dropped=selected.dropped,
        warnings=tuple(warnings),
    )


def targets(
    raw_NL: Targets, row_N: Rows, part: str, info: DatasetInfo, data: cfg.Data, *, labels: Sequence[str], seed: int
) -> Targets:
    """Targets [N, L] from the raw values of the rows `row_N` [N], with the training policy for train, else with the evaluation
    policy."""
    uncertain: Any = data.eval_uncertain
    if part == "train":
        groups = merge_groups(info.groups, data.groups, info.labels)
        uncertain = expand_by_label(data.uncertain, info.labels, groups, where="data.uncertain")
        if isinstance(uncertain, dict):  # may also name labels that are not selected
            uncertain = {label: policy for label, policy in uncertain.items() if label in labels}
    return apply_policy(raw_NL, labels, uncertain, info.blank_policy(data.blank), row_N=row_N, seed=seed)


def restore(
    store: StoreLike,
    data: cfg.Data,
    table: pd.DataFrame,
    *,
    labels: Sequence[str],
    task: str,
    seed: int,
    pos_weight_power: float = 0.0,
) -> Plan:
    """The plan of an earlier run, from its plan.parquet (`Plan.table`) and the store's raw labels.

    The parts are read from the table and not split again, so a later version of the split moves no row of an older run.
    Raises `UserError` if the store lacks a row or a label."""
    index, info = add_derived(store.index, store.info, data)
    index = index.set_index("row")
    missing = [k for k in labels if k not in info.labels] or table.loc[~table["row"].isin(index.index), "row"].tolist()
    if missing:
        raise UserError(f"the store has no {missing[0]!r}, which the run's labels or its plan.parquet name")
    rows, truth = {}, {}
    for part in PARTS:
        rows[part] = table.loc[table["part"] == part, "row"].to_numpy(np.int64)
        raw_NL = label_values(index.loc[rows[part]], labels).to_numpy(np.float32)
        truth[part] = targets(raw_NL, rows[part], part, info, data, labels=labels, seed=seed)
    return Plan(
        labels=tuple(labels),
        task=task,
        rows=rows,
        truth=truth,
        repeats=table.loc[table["part"] == "train", "drawn"].to_numpy(np.int64),
        pos_weight=positive_weights(truth["train"], power=pos_weight_power),
        groups=merge_groups(info.groups, data.groups, info.labels),
    )


def limit_rows(
    group_N: Rows, part_N: npt.NDArray[np.object_], rows: int, *, rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Select about `rows` rows [N]: complete groups at random in each part, in proportion, at least one per non-empty part.

    All parts use one order of the groups, so another fold or another val share moves no row of test."""
    order_G = rng.permutation(int(group_N.max()) + 1)
    keep_N = np.zeros(len(group_N), dtype=bool)
    for part in PARTS:
        here = np.flatnonzero(part_N == part)
        if not len(here):
            continue
        wanted = max(1, round(rows * len(here) / len(part_N)))
        cumulative_G = np.cumsum(np.bincount(group_N[here], minlength=len(order_G))[order_G])
        selected_G = np.zeros(len(order_G), dtype=bool)
        selected_G[order_G[: int(np.searchsorted(cumulative_G, wanted, side="left")) + 1]] = True
        keep_N[here] = selected_G[group_N[here]]
    return keep_N


def balance_warnings(
    table: pd.DataFrame, part_N: npt.NDArray[np.object_], info: DatasetInfo, labels: Sequence[str], *, limit: float
) -> list[str]:
    """A line for each label, unused label and feature value whose share differs between train and val by more than `limit`."""
    train, val = table[part_N == "train"], table[part_N == "val"]
    if train.empty or val.empty:
        return []
    shares: list[tuple[str, float, float]] = [
        (label if label in labels else f"{label} (not trained on)", _share(train[column]), _share(val[column]))
        for label in info.labels
        for column in [label_column(label, table.columns)]
    ]
    for feature in info.features:
        if feature not in table:
            continue
        values = table[feature].dropna().unique()
        if len(values) <= MAX_CATEGORIES:
            shares += [
                (f"{feature} {value}", float((train[feature] == value).mean()), float((val[feature] == value).mean()))
                for value in sorted(values, key=str)
            ]
    return [
        f"{name}: {100 * a:.1f}% of train, {100 * b:.1f}% of val ({100 * (b - a):+.1f} points)"
        for name, a, b in shares
        if abs(a - b) > limit
    ]


def _share(values: "pd.Series[Any]") -> float:
    return float((values == POSITIVE).mean())


def oversample(truth_NL: Targets, *, min_count: int, rng: np.random.Generator) -> Rows:
    """How often an epoch uses each row [N]: a label vector with 0 < n < `min_count` rows is used exactly `min_count` times. All
    its rows get the same number of copies, and the remainder is sampled without replacement. Unknown is a value of its own."""
    repeats_N = np.ones(len(truth_NL), dtype=np.int64)
    if min_count <= 1 or not len(truth_NL):
        return repeats_N
    vector_N = label_vectors(truth_NL)
    counts_V = np.bincount(vector_N)
    order_N = np.argsort(vector_N, kind="stable")
    end_V = np.cumsum(counts_V)
    for vector in np.flatnonzero(counts_V < min_count):
        here = order_N[end_V[vector] - counts_V[vector] : end_V[vector]]
        repeats_N[here] = min_count // len(here)
        repeats_N[rng.choice(here, size=min_count % len(here), replace=False)] += 1
    return repeats_N


def label_vectors(truth_NL: Targets) -> Rows:
    """Number of each row's label vector [N]: equal for equal rows. NaN equals NaN, smooth targets are rounded."""
    digits_NL = np.where(np.isnan(truth_NL), 2, hard_targets(truth_NL)).astype(np.uint8)
    if digits_NL.shape[1] <= 40:  # 3 ** 40 < 2 ** 64: sorting one integer per row is far faster than sorting rows
        keys_N = digits_NL.astype(np.uint64) @ (np.uint64(3) ** np.arange(digits_NL.shape[1], dtype=np.uint64))
        return np.unique(keys_N, return_inverse=True)[1].astype(np.int64)
    return np.unique(digits_NL, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def positive_weights(truth_NL: Targets, *, power: float) -> npt.NDArray[np.float32]:
    """(negatives / positives) ** power of each label [L] over the known cells; 1 if there is no positive or no negative.

    Smooth targets are rounded first, so that the weights equal those of `ones` (or `zeros`) and are always defined."""
    hard_NL = hard_targets(truth_NL)
    positives_L = (hard_NL == 1).sum(axis=0).astype(np.float64)
    negatives_L = (hard_NL == 0).sum(axis=0).astype(np.float64)
    both_L = (positives_L > 0) & (negatives_L > 0)
    ratio_L = np.divide(negatives_L, positives_L, out=np.ones_like(positives_L), where=both_L)
    return (ratio_L**power).astype(np.float32)


def _leaking(
    table: pd.DataFrame, part_N: npt.NDArray[np.object_], settings: cfg.Split, warnings: list[str]
) -> npt.NDArray[np.bool_]:
    """Rows [N] to drop because their patient or image is in another part too, according to `settings.leaks`.

    This happens only with official lists. Raises `UserError` if `leaks` is `refuse`, and if dropping empties a part."""
    by_patient = settings.by == "patient"
    found = leakage.pairs_across_parts(table, part_N, by_patient=True)
    counts = found.drop_duplicates(["what", "row"])["what"].value_counts()  # one in three parts counts once
    if not by_patient and "patient" in counts:
        warnings.append(f"{counts['patient']:,} patients are in two parts, as data.split.by: image allows")
        found = found[found["what"] != "patient"]
    if found.empty:
        return np.zeros(len(table), dtype=bool)
    nouns = {"patient": ("patient is", "patients are"), "image": ("image is", "images are")}
    leaks = " and ".join(
        f"{counts[k]:,} {nouns[k][int(counts[k] > 1)]}" for k in nouns if k in found["what"].to_numpy()
    )
    if settings.leaks == "refuse":
        pairs = leakage.describe_pairs(found, names=table.set_index("row")["image"])
        raise UserError(
            f"{leaks} in two parts of the dataset's own split: {pairs}; the model would be evaluated on what it was trained on. "
            "Set a share such as data.split.test: 0.2 instead of official for a split without leaks, or data.split.leaks: drop "
            "to keep the official list and drop such rows from train, then from val"
        )
    out_N = leakage.leaking_rows(table, part_N, by_patient=by_patient)
    lost = {part: int((out_N & (part_N == part)).sum()) for part in ("train", "val")}
    dropped = " and ".join(f"{n:,} row{'s' * (n > 1)} of {part}" for part, n in lost.items() if n)
    for part in ("train", "val"):
        if (part_N == part).any() and not (part_N[~out_N] == part).any():
            raise UserError(
                f"{part} has no rows: {leaks} in two parts, and dropping {dropped} leaves none; change data.split"
            )
    warnings.append(f"{leaks} in two parts of the dataset's own split; dropped: {dropped}")
    return out_N


def _labels(info: DatasetInfo, data: cfg.Data, groups: Mapping[str, Sequence[str]]) -> list[str]:
    """The selected labels. With the default cleaning, `all` means the labels that this cleaning keeps."""
    if data.labels == "all" and data.filters == "default":
        return list(info.default_labels)
    if data.labels == "all" and info.task != "multilabel":
        return [label for label in info.labels if label not in data.derive]  # the classes
    return resolve(data.labels, info.labels, groups)


def _filters(info: DatasetInfo, data: cfg.Data, index: pd.DataFrame) -> list[Filter]:
    if data.filters == "default":
        return list(info.filters)
    if data.filters == "none":
        return []
    for query in data.filters:
        refuse_ambiguous(query, index)
    return [Filter(name=query, query=query) for query in data.filters]


def _task(info: DatasetInfo, data: cfg.Data, labels: Sequence[str]) -> str:
    task: str
    if data.task != "auto":
        task = data.task
    elif info.task != "multilabel" and list(labels) != [label for label in info.labels if label not in data.derive]:
        # Rows of the classes that are not selected are negative for every label, and a derived label excludes no class.
        task = "binary" if len(labels) == 1 else "multilabel"
    else:
        task = "binary" if len(labels) == 1 else info.task
    if task == "binary" and len(labels) != 1:
        raise UserError(
            f"data.task: binary takes one label, and {len(labels)} are selected ({listed(labels)}); set data.labels"
        )
    if task == "multiclass" and len(labels) < 2:
        raise UserError("data.task: multiclass takes two labels or more; set data.labels")
    return task


def _check_one_class(truth: dict[str, Targets], rows: dict[str, Rows]) -> None:
    for part, truth_NL in truth.items():
        wrong = np.flatnonzero((truth_NL == 1).sum(axis=1) != 1)
        if len(wrong):
            raise UserError(
                f"data.task: multiclass, but {len(wrong)} rows of {part} do not have exactly one positive label "
                f"(first: row {rows[part][wrong[0]]}); use multilabel"
            )
