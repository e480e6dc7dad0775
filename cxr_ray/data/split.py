"""Which rows are train, val and test: by patient, stratified by label, keyed by the split's own seed.

The test part is drawn first, from everything, and val or the folds from what is left: another val share, or another fold,
never moves a test row.
"""
# N rows, L labels, G groups (patients, or images where each stands for itself), P parts of one cut, S kinds of group

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray import config as cfg
from cxr_ray.errors import UserError
from cxr_ray.labels import PARTS, POSITIVE

Rows = npt.NDArray[np.int64]


def groups_of(names: "pd.Series[Any] | None", rows: int) -> Rows:
    """Group number [N] of each row: rows of one name share a group; a row without a name (or with no names) is its own."""
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
    how: cfg.Split,
    *,
    labels: Sequence[str],
    warnings: list[str] | None = None,
) -> npt.NDArray[np.object_]:
    """`train`, `val` or `test` for each row [N]. Groups are whole in one part; official lists are kept as they are.

    `labels` are the columns that are stratified by: all of the dataset's, so that choosing labels moves no row. A share is
    of all rows here. What an official list tears apart is not seen to here but in `leaks.py`. Raises `UserError` where a
    part that was asked for gets no rows, or an official list is asked for and absent."""
    official_N = table["split"].to_numpy(object) if "split" in table else np.full(len(table), None)
    wanted = {"test": how.test, "val": 1 / how.folds if how.folds else how.val}
    part_N = np.full(len(table), "", dtype=object)
    for part, share in wanted.items():
        if share == "official":
            here_N = official_N == part
            if not here_N.any():
                listed = sorted({str(s) for s in official_N if isinstance(s, str)})
                has = f"it lists {', '.join(listed)}" if listed else "it has no split"
                raise UserError(
                    f"data.split.{part}: official, but the dataset has no official {part} rows ({has}); give a share such as 0.1"
                )
            part_N[here_N] = part
    if warnings is not None:
        warnings += _unused_lists(official_N, wanted)

    positive_NL = table[list(labels)].to_numpy(np.float32) == POSITIVE

    def cut(shares: Sequence[float], step: int) -> tuple[npt.NDArray[np.intp], Rows]:
        free = np.flatnonzero(part_N == "")
        rng = np.random.default_rng([how.seed, step])
        return free, stratify(group_N[free], positive_NL[free], shares, rng=rng)

    if not isinstance(how.test, str) and how.test > 0:
        free, bin_N = cut(_of_the_rest(how.test, part_N), 1)
        part_N[free[bin_N == 1]] = "test"
    if how.folds:
        free, bin_N = cut([1 / how.folds] * how.folds, 2)
        part_N[free[bin_N == how.fold]] = "val"
    elif not isinstance(how.val, str) and how.val > 0:
        free, bin_N = cut(_of_the_rest(how.val, part_N), 2)
        part_N[free[bin_N == 1]] = "val"
    part_N[part_N == ""] = "train"

    for part in ("test", "val", "train"):
        if wanted.get(part, 1.0) != 0 and not (part_N == part).any():
            said = f"{how.folds} folds" if how.folds else f"val {how.val}"
            raise UserError(
                f"{part} has no rows: {len(table)} rows in {len(np.unique(group_N))} groups cannot be split into "
                f"{said} and test {how.test}; change data.split"
            )
    return part_N


def stratify(
    group_N: Rows, positive_NL: npt.NDArray[np.bool_], shares: Sequence[float], *, rng: np.random.Generator
) -> Rows:
    """Part number [N] of each row, groups whole, rows and each label's positives near `shares` [P], which sum to 1.

    After iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011, doi:10.1007/978-3-642-23808-6_10), over
    groups: equal groups (as many rows, the same positives) are shared out at once, and the rest goes one by one, rarest
    label first, to the part that is least full of what it brings. A label held by as many groups as there are parts reaches each."""
    groups_G, code_N = np.unique(group_N, return_inverse=True)
    share_P = np.asarray(shares, dtype=np.float64)
    # What a group brings [G, 1 + L]: its rows, and its positives of each label.
    brings_GL = np.stack(
        [np.bincount(code_N, minlength=len(groups_G))]
        + [np.bincount(code_N, weights=column, minlength=len(groups_G)) for column in positive_NL.T],
        axis=1,
    ).astype(np.int64)
    part_G = _share_out_equals(brings_GL, share_P, rng)
    _place_the_rest(part_G, brings_GL, share_P, rng)
    return part_G[code_N]


def _share_out_equals(brings_GL: Rows, share_P: npt.NDArray[np.float64], rng: np.random.Generator) -> Rows:
    """Part of each group [G], -1 for what is left over: of n equal groups each part gets floor(n x share), at random."""
    kind_G = _kinds(brings_GL)
    shuffled = rng.permutation(len(kind_G))
    order = shuffled[np.argsort(kind_G[shuffled], kind="stable")]
    count_S = np.bincount(kind_G)
    rank_G = np.arange(len(order)) - np.repeat(np.cumsum(count_S) - count_S, count_S)
    upto_SP = np.cumsum(np.floor(count_S[:, None] * share_P + 1e-9), axis=1)
    part = (rank_G[:, None] >= upto_SP[kind_G[order]]).sum(axis=1)
    part_G = np.empty(len(kind_G), dtype=np.int64)
    part_G[order] = np.where(part < len(share_P), part, -1)
    return part_G


def _kinds(brings_GL: Rows) -> Rows:
    """Number of each row [G], equal rows alike. One factorisation a column: sorting whole rows takes twenty times as long."""
    kind_G = np.zeros(len(brings_GL), dtype=np.int64)
    for column_G in brings_GL.T:
        kind_G = pd.factorize(kind_G * (int(column_G.max(initial=0)) + 1) + column_G)[0].astype(np.int64)
    return kind_G


def _place_the_rest(part_G: Rows, brings_GL: Rows, share_P: npt.NDArray[np.float64], rng: np.random.Generator) -> None:
    """Fill the -1 of `part_G`, the groups of the rarest label first, large before small. A group goes to the part that would
    then be least full of what the group brings: full, for each label and for the rows, is the part's share of the total,
    and a label weighs by how much of its total the group is, so that rare ones weigh most. (To count what a part still
    misses in rows would send whatever comes first to the largest part.)"""
    parts = [p for p in range(len(share_P)) if share_P[p] > 0]
    held_PL = np.stack([brings_GL[part_G == p].sum(axis=0) for p in range(len(share_P))])
    total_L = np.maximum(1, brings_GL.sum(axis=0))
    left = rng.permutation(np.flatnonzero(part_G < 0))
    brings_KL = brings_GL[left]  # K groups are left
    # Plain lists from here: a group brings few labels, and a numpy call on each of a hundred thousand groups takes seconds.
    empty: list[list[bool]] = (held_PL == 0).tolist()
    full: list[list[float]] = (held_PL / (np.maximum(share_P, 1e-12)[:, None] * total_L)).tolist()
    each: list[float] = share_P.tolist()
    at, which = np.nonzero(brings_KL)
    first = np.searchsorted(at, np.arange(len(left) + 1)).tolist()
    labels_of, shares_of = which.tolist(), (brings_KL[at, which] / total_L[which]).tolist()
    open_K = np.ones(len(left), dtype=bool)
    for label in [*(1 + np.argsort((brings_GL[:, 1:] > 0).sum(axis=0), kind="stable")), 0]:  # 0, the rows, comes last
        mine = np.flatnonzero((brings_KL[:, label] > 0) & open_K)
        mine = mine[np.argsort(-brings_KL[mine, label], kind="stable")]  # large ones while there is room for them
        open_K[mine] = False
        wanting = [p for p in parts if empty[p][label]] if label else []
        for done, k in enumerate(mine.tolist()):
            labels, shares = labels_of[first[k] : first[k + 1]], shares_of[first[k] : first[k + 1]]
            part, least = -1, np.inf
            for p in wanting if wanting and len(mine) - done <= len(wanting) else parts:
                full_L, size = full[p], each[p]
                score = 0.0
                for one, share in zip(labels, shares, strict=True):
                    score += share * (full_L[one] + share / size)
                if score < least:
                    part, least = p, score
            part_G[left[k]] = part
            if part in wanting:
                wanting.remove(part)
            full_L, empty_L, size = full[part], empty[part], each[part]
            for one, share in zip(labels, shares, strict=True):
                full_L[one] += share / size
                empty_L[one] = False


def _of_the_rest(share: float, part_N: npt.NDArray[np.object_]) -> list[float]:
    """[rest, part] of the rows that no part holds yet, so that the part gets `share` of all."""
    free = int((part_N == "").sum())
    wanted = min(1.0, share * len(part_N) / max(1, free))
    return [1.0 - wanted, wanted]


def _unused_lists(official_N: npt.NDArray[np.object_], wanted: dict[str, Any]) -> list[str]:
    lists = set(pd.unique(official_N)) & set(PARTS)
    unused = [p for p in ("val", "test") if p in lists and wanted[p] != "official"]
    if not unused:
        return []
    said = " and ".join(f"data.split.{p}: official" for p in unused)
    return [f"the dataset has its own split, which is not used for {' and '.join(unused)}; {said} would keep it"]
