"""Split rows into train, val and test: by patient, stratified by label, with a seed of its own.

Test is split off first, from all rows, then val or the folds from the rest: another val share or fold never moves a test row.
"""
# N rows, L labels, G groups (patients, or single images), P parts of one split, S sets of equal groups, K remaining groups

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray import config as cfg
from cxr_ray.errors import UserError
from cxr_ray.labels import PARTS, POSITIVE, label_values

Rows = npt.NDArray[np.int64]


def groups_of(names: "pd.Series[Any] | None", rows: int) -> Rows:
    """Group number [N] of each row: rows of one name share a group. A row without a name, and every row if `names` is None, is
    a group of its own."""
    if names is None:
        return np.arange(rows, dtype=np.int64)
    codes, known = pd.factorize(names, use_na_sentinel=True)
    group_N = np.asarray(codes, dtype=np.int64)
    alone_N = group_N < 0
    group_N[alone_N] = len(known) + np.arange(int(alone_N.sum()))
    return group_N


def split(
    table: pd.DataFrame,
    group_N: Rows,
    settings: cfg.Split,
    *,
    labels: Sequence[str],
    warnings: list[str] | None = None,
) -> npt.NDArray[np.object_]:
    """`train`, `val` or `test` for each row [N]. A group is always in one part, except in official lists, which stay as they
    are; leakage.py finds the groups that these separate.

    `labels`: columns to stratify by. They are all labels of the dataset, so that a selection of labels moves no row. A share
    refers to all rows here. Raises `UserError` if a requested part gets no rows, or if the dataset has no official list."""
    official_N = table["split"].to_numpy(object) if "split" in table else np.full(len(table), None)
    wanted = {"test": settings.test, "val": 1 / settings.folds if settings.folds else settings.val}
    part_N = np.full(len(table), "", dtype=object)
    for part, share in wanted.items():
        if share == "official":
            here_N = official_N == part
            if not here_N.any():
                listed = sorted({str(s) for s in official_N if isinstance(s, str)})
                has = f"it lists {', '.join(listed)}" if listed else "it has no official split"
                raise UserError(
                    f"data.split.{part}: official, but the dataset has no official {part} rows ({has}); give a share such as 0.1"
                )
            part_N[here_N] = part
    if warnings is not None:
        warnings += _unused_lists(official_N, wanted)

    positive_NL = label_values(table, labels).to_numpy(np.float32) == POSITIVE

    def cut(shares: Sequence[float], step: int) -> tuple[npt.NDArray[np.intp], Rows]:
        free = np.flatnonzero(part_N == "")
        rng = np.random.default_rng([settings.seed, step])
        return free, stratify(group_N[free], positive_NL[free], shares, rng=rng)

    if not isinstance(settings.test, str) and settings.test > 0:
        free, bin_N = cut(_shares_of_rest(settings.test, part_N), 1)
        part_N[free[bin_N == 1]] = "test"
    if settings.folds:
        free, bin_N = cut([1 / settings.folds] * settings.folds, 2)
        part_N[free[bin_N == settings.fold]] = "val"
    elif not isinstance(settings.val, str) and settings.val > 0:
        free, bin_N = cut(_shares_of_rest(settings.val, part_N), 2)
        part_N[free[bin_N == 1]] = "val"
    part_N[part_N == ""] = "train"

    for part in ("test", "val", "train"):
        if wanted.get(part, 1.0) != 0 and not (part_N == part).any():
            val = f"{settings.folds} folds" if settings.folds else f"val {settings.val}"
            raise UserError(
                f"{part} has no rows: {len(table)} rows in {len(np.unique(group_N))} groups cannot be split into "
                f"{val} and test {settings.test}; change data.split"
            )
    return part_N


def stratify(
    group_N: Rows, positive_NL: npt.NDArray[np.bool_], shares: Sequence[float], *, rng: np.random.Generator
) -> Rows:
    """Part number [N] of each row. A group is in one part. The parts' rows, and their positives of each label, are close to
    `shares` [P], which sum to 1.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011, doi:10.1007/978-3-642-23808-6_10) of groups: equal groups
    (same number of rows, same positives) are distributed at once. The others follow one by one, rarest label first, each to
    the part that is least full of the group's labels. A label in as many groups as there are parts reaches every part."""
    groups_G, code_N = np.unique(group_N, return_inverse=True)
    share_P = np.asarray(shares, dtype=np.float64)
    # [G, 1 + L]: the rows of a group, and its positives of each label.
    size_GL = np.stack(
        [np.bincount(code_N, minlength=len(groups_G))]
        + [np.bincount(code_N, weights=column, minlength=len(groups_G)) for column in positive_NL.T],
        axis=1,
    ).astype(np.int64)
    part_G = _distribute_equal_groups(size_GL, share_P, rng)
    _place_remaining(part_G, size_GL, share_P, rng)
    return part_G[code_N]


def _distribute_equal_groups(size_GL: Rows, share_P: npt.NDArray[np.float64], rng: np.random.Generator) -> Rows:
    """Part of each group [G]; -1 for the groups that remain. Of n equal groups each part gets floor(n * share), at random."""
    set_G = _equal_rows(size_GL)
    shuffled = rng.permutation(len(set_G))
    order = shuffled[np.argsort(set_G[shuffled], kind="stable")]
    count_S = np.bincount(set_G)
    rank_G = np.arange(len(order)) - np.repeat(np.cumsum(count_S) - count_S, count_S)
    end_SP = np.cumsum(np.floor(count_S[:, None] * share_P + 1e-9), axis=1)
    part = (rank_G[:, None] >= end_SP[set_G[order]]).sum(axis=1)
    part_G = np.empty(len(set_G), dtype=np.int64)
    part_G[order] = np.where(part < len(share_P), part, -1)
    return part_G


def _equal_rows(size_GL: Rows) -> Rows:
    """A number for each row [G], the same for equal rows. One factorisation per column: sorting rows takes 20 times as long."""
    set_G = np.zeros(len(size_GL), dtype=np.int64)
    for column_G in size_GL.T:
        set_G = pd.factorize(set_G * (int(column_G.max(initial=0)) + 1) + column_G)[0].astype(np.int64)
    return set_G


def _place_remaining(part_G: Rows, size_GL: Rows, share_P: npt.NDArray[np.float64], rng: np.random.Generator) -> None:
    """Replace each -1 of `part_G`: the groups of the rarest label first, large before small. A group goes to the part that is
    then least full. A part's fill level, for each label and for the rows, is its count divided by its share of the total. A
    label's weight is the group's share of the label's total, so rare labels weigh most. (With absolute numbers of missing
    rows, the first groups would all go to the largest part.)"""
    parts = [p for p in range(len(share_P)) if share_P[p] > 0]
    count_PL = np.stack([size_GL[part_G == p].sum(axis=0) for p in range(len(share_P))])
    total_L = np.maximum(1, size_GL.sum(axis=0))
    remaining_K = rng.permutation(np.flatnonzero(part_G < 0))
    size_KL = size_GL[remaining_K]
    # Plain lists from here: groups have few labels, and numpy calls for each of a hundred thousand groups take seconds.
    empty: list[list[bool]] = (count_PL == 0).tolist()
    fill: list[list[float]] = (count_PL / (np.maximum(share_P, 1e-12)[:, None] * total_L)).tolist()
    share: list[float] = share_P.tolist()
    at, which = np.nonzero(size_KL)
    first = np.searchsorted(at, np.arange(len(remaining_K) + 1)).tolist()
    labels_of, weights_of = which.tolist(), (size_KL[at, which] / total_L[which]).tolist()
    open_K = np.ones(len(remaining_K), dtype=bool)
    for label in [*(1 + np.argsort((size_GL[:, 1:] > 0).sum(axis=0), kind="stable")), 0]:  # 0 (the rows) comes last
        groups = np.flatnonzero((size_KL[:, label] > 0) & open_K)
        groups = groups[np.argsort(-size_KL[groups, label], kind="stable")]  # large groups while there is room for them
        open_K[groups] = False
        without = [p for p in parts if empty[p][label]] if label else []  # parts that have no positive of the label yet
        for done, k in enumerate(groups.tolist()):
            labels, weights = labels_of[first[k] : first[k + 1]], weights_of[first[k] : first[k + 1]]
            best, lowest = -1, np.inf
            for p in without if without and len(groups) - done <= len(without) else parts:
                fill_L, part_share = fill[p], share[p]
                score = 0.0
                for one, weight in zip(labels, weights, strict=True):
                    score += weight * (fill_L[one] + weight / part_share)
                if score < lowest:
                    best, lowest = p, score
            part_G[remaining_K[k]] = best
            if best in without:
                without.remove(best)
            fill_L, empty_L, part_share = fill[best], empty[best], share[best]
            for one, weight in zip(labels, weights, strict=True):
                fill_L[one] += weight / part_share
                empty_L[one] = False


def _shares_of_rest(share: float, part_N: npt.NDArray[np.object_]) -> list[float]:
    """Shares [rest, part] of the rows that are in no part yet, so that the part gets `share` of all rows."""
    free = int((part_N == "").sum())
    wanted = min(1.0, share * len(part_N) / max(1, free))
    return [1.0 - wanted, wanted]


def _unused_lists(official_N: npt.NDArray[np.object_], wanted: dict[str, Any]) -> list[str]:
    """A warning if the dataset has official lists that the settings do not use."""
    lists = set(pd.unique(official_N)) & set(PARTS)
    unused = [p for p in ("val", "test") if p in lists and wanted[p] != "official"]
    if not unused:
        return []
    fix = " and ".join(f"data.split.{p}: official" for p in unused)
    return [f"the dataset has an official split, which is not used for {' and '.join(unused)}; {fix} would use it"]
