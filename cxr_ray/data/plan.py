"""Which rows, in which part, how often, with which weight. Pure functions over the index; no image is touched.

A plan is integer row numbers and a label matrix, so oversampling costs no disk and no memory.
"""
# N rows, L labels, G groups (patients, or images where each stands for itself)

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray import config as cfg
from cxr_ray.data import leakage
from cxr_ray.data.split import PARTS, Rows, groups_of, split
from cxr_ray.errors import UserError, closest
from cxr_ray.labels import POSITIVE, Filter, apply_policy, merge_groups, nearest, resolve, spread

Targets = npt.NDArray[np.float32]


class Described(Protocol):
    """What a plan reads of a store: its index and what its source declared."""

    @property
    def index(self) -> pd.DataFrame: ...
    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def task(self) -> str: ...
    @property
    def groups(self) -> dict[str, tuple[str, ...]]: ...
    @property
    def filters(self) -> tuple[Filter, ...]: ...
    @property
    def default_labels(self) -> tuple[str, ...]: ...
    @property
    def features(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Plan:
    """The rows of each part and what each row's labels mean there."""

    labels: tuple[str, ...]
    """The selected labels, in the store's order."""
    task: str
    """multilabel, multiclass or binary."""
    rows: dict[str, Rows]
    """Part to store row numbers [N], ascending, each once."""
    truth: dict[str, Targets]
    """Part to targets [N, L] in {0, 1, NaN}: train under the training policy, val and test under the judging one. Where
    the training policy is smooth, train holds what was drawn between 0 and 1."""
    repeats: Rows
    """How often each train row is drawn in an epoch [N_train]."""
    pos_weight: npt.NDArray[np.float32]
    """Weight of each label's positives [L]."""
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Names for sets of labels: the dataset's and the user's own."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Rows that each cleaning filter dropped."""
    warnings: tuple[str, ...] = ()
    """What the user should know before believing a number."""

    def table(self) -> pd.DataFrame:
        """`row, part, drawn`: who was where (drawn is 1 outside train)."""
        frames = [
            pd.DataFrame({"row": rows, "part": part, "drawn": self.repeats if part == "train" else np.int64(1)})
            for part, rows in self.rows.items()
        ]
        return pd.concat(frames, ignore_index=True)

    def summary(self) -> str:
        """One line: the rows of each part and the draws of an epoch."""
        parts = ", ".join(f"{part} {len(self.rows[part]):,}" for part in PARTS)
        extra = int(self.repeats.sum()) - len(self.repeats)
        return parts + (f" (+{extra:,} drawn again in train)" if extra else "")


def build(store: Described, data: cfg.Data, *, seed: int, pos_weight_power: float = 0.0) -> Plan:
    """The plan of a store under the `data` knobs.

    Raises `UserError` where a part that was asked for has no rows, a patient or a picture stands in two parts, or no label
    has a positive in train."""
    warnings: list[str] = []
    index = store.index
    groups = merge_groups(store.groups, data.groups, store.labels)
    labels = _labels(store, data, groups)
    task = _task(store, data, labels)

    filters = _filters(store, data)
    dropped_by = drop_by(index, filters)
    dropped = {f.name: int((dropped_by == f.name).sum()) for f in filters}
    table = index[(dropped_by == "").to_numpy()]
    if table.empty:
        said = ", ".join(f"{name}: {n}" for name, n in dropped.items())
        raise UserError(f"no row of {len(index)} is left after the filters ({said}); see data.filters")

    group_N = groups_of(table["patient"] if data.split.by == "patient" else None, len(table))
    if data.split.by == "patient" and table["patient"].isna().any():
        missing = int(table["patient"].isna().sum())
        warnings.append(
            f"{missing:,} of {len(table):,} images have no patient: each is split for itself, so pictures of one person "
            "may fall into two parts; give the patients at ingest (--patients FILE or --patient-regex) if you know them"
        )
    group_N = leakage.together(group_N, table)

    part_N = split(table, group_N, data.split, labels=store.labels, warnings=warnings)
    keep_N = ~_leaking(table, part_N, data.split, warnings)
    table, part_N, group_N = table[keep_N], part_N[keep_N], group_N[keep_N]
    if data.limit is not None and data.limit < len(table):
        # After the split: what the whole store's run tests on, no limited one may have trained on or chosen by.
        keep_N = limited(group_N, part_N, data.limit, rng=np.random.default_rng([data.split.seed, 3]))
        table, part_N = table[keep_N], part_N[keep_N]
    raw_NL = table[list(labels)].to_numpy(np.float32)
    row_N = table["row"].to_numpy(np.int64)
    rows, truth = {}, {}
    for part in PARTS:
        here_N = part_N == part
        rows[part] = row_N[here_N]
        truth[part] = targets(raw_NL[here_N], rows[part], part, store, data, labels=labels, seed=seed)
    if task == "multiclass":
        _check_one_class(truth, rows)

    counts_L = (nearest(truth["train"]) == 1).sum(axis=0)
    if not counts_L.any():
        raise UserError(
            f"no label has a positive in train ({len(rows['train'])} rows; labels {', '.join(labels)}): nothing can be learnt"
        )
    warnings += [
        f"{label} has no positive in train: its weight is 1, and what the model says of it means nothing"
        for label, n in zip(labels, counts_L, strict=True)
        if n == 0
    ]
    warnings += balance(table, part_N, store, labels, limit=data.balance_warning)
    repeats = oversample(truth["train"], min_count=data.oversample_min_count, rng=np.random.default_rng([seed, 2]))
    return Plan(
        labels=tuple(labels),
        task=task,
        rows=rows,
        truth=truth,
        repeats=repeats,
        pos_weight=positivity_weights(truth["train"], power=pos_weight_power),
        groups=groups,
        dropped=dropped,
        warnings=tuple(warnings),
    )


def targets(
    raw_NL: Targets, row_N: Rows, part: str, store: Described, data: cfg.Data, *, labels: Sequence[str], seed: int
) -> Targets:
    """What the raw values of the store's rows `row_N` mean in a part [N, L]: the training policy in train, else the judging one."""
    uncertain: Any = data.eval_uncertain
    if part == "train":
        groups = merge_groups(store.groups, data.groups, store.labels)
        uncertain = spread(data.uncertain, store.labels, groups, where="data.uncertain")
        if isinstance(uncertain, dict):  # which may name labels that are not trained on
            uncertain = {label: policy for label, policy in uncertain.items() if label in labels}
    return apply_policy(raw_NL, labels, uncertain, data.blank, row_N=row_N, seed=seed)


def restored(
    store: Described,
    data: cfg.Data,
    table: pd.DataFrame,
    *,
    labels: Sequence[str],
    task: str,
    seed: int,
    pos_weight_power: float = 0.0,
) -> Plan:
    """The plan that a run was trained by, from its own `row, part, drawn` (`Plan.table`) and the store's raw labels.

    Who was where is read, not decided anew: a later version of the split does not move a row of an older run. Raises
    `UserError` where the store lacks a row or a label."""
    index = store.index.set_index("row")
    missing = [k for k in labels if k not in index] or table.loc[~table["row"].isin(index.index), "row"].tolist()
    if missing:
        raise UserError(f"the store has no {missing[0]!r}, which the run's plan.parquet or its labels name")
    rows, truth = {}, {}
    for part in PARTS:
        rows[part] = table.loc[table["part"] == part, "row"].to_numpy(np.int64)
        raw_NL = index.loc[rows[part], list(labels)].to_numpy(np.float32)
        truth[part] = targets(raw_NL, rows[part], part, store, data, labels=labels, seed=seed)
    return Plan(
        labels=tuple(labels),
        task=task,
        rows=rows,
        truth=truth,
        repeats=table.loc[table["part"] == "train", "drawn"].to_numpy(np.int64),
        pos_weight=positivity_weights(truth["train"], power=pos_weight_power),
        groups=merge_groups(store.groups, data.groups, store.labels),
    )


def drop_by(table: pd.DataFrame, filters: Iterable[Filter]) -> "pd.Series[str]":
    """For each row the name of the first filter that drops it, or "" where it is kept (index as `table`'s).

    Raises `UserError` for a query that cannot be read or names an unknown column."""
    out = pd.Series("", index=table.index, dtype=object)
    for rule in filters:
        try:
            keep = table.eval(rule.query, local_dict={}, global_dict={})
        except pd.errors.UndefinedVariableError as error:
            name = str(error).split("'")[1]
            raise UserError(
                f"the filter {rule.query!r} names an unknown column {name!r}{closest(name, table.columns)}"
            ) from None
        except (SyntaxError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"the filter {rule.query!r} is not a query over the records: {' '.join(str(error).split())}"
            ) from None
        if not isinstance(keep, pd.Series) or not pd.api.types.is_bool_dtype(keep):
            raise UserError(
                f"the filter {rule.query!r} gives no yes or no for each row; write a comparison such as view == 'PA'"
            )
        out[(out == "") & ~keep.fillna(False).astype(bool)] = rule.name
    return out


def limited(
    group_N: Rows, part_N: npt.NDArray[np.object_], rows: int, *, rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """About `rows` rows [N]: whole groups at random within each part, in proportion, at least one of each part that has any.

    One order of the groups serves all parts, so that another fold or another val moves no row of test."""
    order_G = rng.permutation(int(group_N.max()) + 1)
    keep_N = np.zeros(len(group_N), dtype=bool)
    for part in PARTS:
        here = np.flatnonzero(part_N == part)
        if not len(here):
            continue
        wanted = max(1, round(rows * len(here) / len(part_N)))
        upto_G = np.cumsum(np.bincount(group_N[here], minlength=len(order_G))[order_G])
        chosen_G = np.zeros(len(order_G), dtype=bool)
        chosen_G[order_G[: int(np.searchsorted(upto_G, wanted, side="left")) + 1]] = True
        keep_N[here] = chosen_G[group_N[here]]
    return keep_N


def balance(
    table: pd.DataFrame, part_N: npt.NDArray[np.object_], store: Described, labels: Sequence[str], *, limit: float
) -> list[str]:
    """A line for every label, unused label and value of a feature whose share differs by more than `limit` between train and val."""
    train, val = table[part_N == "train"], table[part_N == "val"]
    if train.empty or val.empty:
        return []
    shares: list[tuple[str, float, float]] = [
        (label if label in labels else f"{label} (not trained on)", _share(train[label]), _share(val[label]))
        for label in store.labels
    ]
    for feature in store.features:
        if feature not in table:
            continue
        values = table[feature].dropna().unique()
        if len(values) <= 20:  # a feature with more values (an age) has no share to compare
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
    """How often each row is drawn [N]: a label vector with 0 < n < `min_count` rows is drawn exactly `min_count` times,
    whole copies first, the rest without replacement. Unknown is a value of its own."""
    repeats_N = np.ones(len(truth_NL), dtype=np.int64)
    if min_count <= 1 or not len(truth_NL):
        return repeats_N
    vector_N = label_vectors(truth_NL)
    counts_V = np.bincount(vector_N)
    order_N = np.argsort(vector_N, kind="stable")
    after_V = np.cumsum(counts_V)
    for vector in np.flatnonzero(counts_V < min_count):
        here = order_N[after_V[vector] - counts_V[vector] : after_V[vector]]
        repeats_N[here] = min_count // len(here)
        repeats_N[rng.choice(here, size=min_count % len(here), replace=False)] += 1
    return repeats_N


def label_vectors(truth_NL: Targets) -> Rows:
    """Number of each row's label vector [N]; equal rows (NaN equal to NaN, a smooth target to its nearer side) share a number."""
    digits_NL = np.where(np.isnan(truth_NL), 2, nearest(truth_NL)).astype(np.uint8)
    if digits_NL.shape[1] <= 40:  # 3 ** 40 < 2 ** 64: one integer a row sorts far faster than rows do
        keys_N = digits_NL.astype(np.uint64) @ (np.uint64(3) ** np.arange(digits_NL.shape[1], dtype=np.uint64))
        return np.unique(keys_N, return_inverse=True)[1].astype(np.int64)
    return np.unique(digits_NL, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def positivity_weights(truth_NL: Targets, *, power: float) -> npt.NDArray[np.float32]:
    """(negatives / positives) ** power of each label [L] over the known cells; 1 where there is no positive or no negative.

    A smooth target counts whole for its nearer side, so that the weights are those of `ones` (or `zeros`) and always defined."""
    side_NL = nearest(truth_NL)
    positives_L = (side_NL == 1).sum(axis=0).astype(np.float64)
    negatives_L = (side_NL == 0).sum(axis=0).astype(np.float64)
    both_L = (positives_L > 0) & (negatives_L > 0)
    ratio_L = np.divide(negatives_L, positives_L, out=np.ones_like(positives_L), where=both_L)
    return (ratio_L**power).astype(np.float32)


def _leaking(
    table: pd.DataFrame, part_N: npt.NDArray[np.object_], how: cfg.Split, warnings: list[str]
) -> npt.NDArray[np.bool_]:
    """Rows [N] to leave out because their patient or picture stands in another part too, as `how.leaks` asks.

    Our own split parts neither; official lists may. Raises `UserError` where that is refused."""
    by_patient = how.by == "patient"
    found = leakage.between(table, part_N, by_patient=True)
    counts = found.drop_duplicates(["what", "row"])["what"].value_counts()  # who stands in three parts is one
    if not by_patient and "patient" in counts:
        warnings.append(f"{counts['patient']:,} patients stand in two parts, as data.split.by: image lets them")
        found = found[found["what"] != "patient"]
    if found.empty:
        return np.zeros(len(table), dtype=bool)
    kinds = {"patient": ("patient stands", "patients stand"), "picture": ("picture stands", "pictures stand")}
    said = " and ".join(f"{counts[k]:,} {kinds[k][int(counts[k] > 1)]}" for k in kinds if k in found["what"].to_numpy())
    if how.leaks == "refuse":
        raise UserError(
            f"{said} in two parts of the dataset's own split: {leakage.told(found, names=table.set_index('row')['image'])}; "
            "what was trained on would be judged on. A share such as data.split.test: 0.2 instead of official cuts a split "
            "without that; data.split.leaks: drop keeps the list and leaves such rows out of train, then of val"
        )
    out_N = leakage.leaking(table, part_N, by_patient=by_patient)
    lost = {part: int((out_N & (part_N == part)).sum()) for part in ("train", "val")}
    gone = " and ".join(f"{n:,} row{'s' * (n > 1)} of {part}" for part, n in lost.items() if n)
    for part in ("train", "val"):
        if (part_N == part).any() and not (part_N[~out_N] == part).any():
            raise UserError(
                f"{part} has no rows: {said} in two parts, and leaving out {gone} leaves none; change data.split"
            )
    warnings.append(f"{said} in two parts of the dataset's own split; left out: {gone}")
    return out_N


def _labels(store: Described, data: cfg.Data, groups: Mapping[str, Sequence[str]]) -> list[str]:
    """The selected labels; `all` under the default cleaning means the labels that the source's cleaning keeps."""
    if data.labels == "all" and data.filters == "default":
        return list(store.default_labels)
    return resolve(data.labels, store.labels, groups)


def _filters(store: Described, data: cfg.Data) -> list[Filter]:
    if data.filters == "default":
        return list(store.filters)
    return [] if data.filters == "none" else [Filter(name=query, query=query) for query in data.filters]


def _task(store: Described, data: cfg.Data, labels: Sequence[str]) -> str:
    task: str
    if data.task != "auto":
        task = data.task
    elif store.task == "multiclass" and len(labels) < len(store.labels):
        task = "multilabel"  # some classes left out: rows of those are negative for every label
    else:
        task = "binary" if len(labels) == 1 else store.task
    if task == "binary" and len(labels) != 1:
        raise UserError(
            f"data.task: binary takes one label, and {len(labels)} are chosen ({', '.join(labels)}); set data.labels"
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
