"""The label space: what a raw value means to training and to judging. NaN = unknown = masked everywhere after this.

Raw values, as every source gives them: 1 positive, 0 negative, -1 uncertain, NaN not mentioned.
"""
# N rows, L labels

import zlib
from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from cxr_ray.errors import UserError, unknown

Task = Literal["multilabel", "multiclass", "binary"]

POSITIVE, NEGATIVE, UNCERTAIN = 1.0, 0.0, -1.0
PARTS = ("train", "val", "test")
UNCERTAIN_VALUES: dict[str, float] = {"zeros": 0.0, "ones": 1.0, "ignore": np.nan}
SMOOTH_RANGES: dict[str, tuple[float, float]] = {"smooth": (0.55, 0.85), "smooth_zeros": (0.0, 0.3)}
"""U-Ones+LSR and U-Zeros+LSR of Pham et al. 2021 (Neurocomputing, arXiv:1911.06475): the target of an uncertain cell is
drawn evenly from this range."""
T = TypeVar("T")


class Filter(BaseModel):
    """One rule of cleaning: rows for which the pandas `query` over the records holds are kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    query: str
    about: str = ""


def safe_name(name: str) -> str:
    """A label as it may stand in a metric's name or a column: slashes and dots become `_`."""
    return name.strip().replace("/", "_").replace(".", "_")


def merge_groups(
    theirs: Mapping[str, Sequence[str]], own: Mapping[str, Sequence[str]], known: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """The groups of a dataset and the user's own, by name; one of the user's may hold labels and other groups.

    A group of the user's goes before the dataset's of that name. Raises `UserError` for a group that is called as a label, that
    holds an unknown name, or itself."""
    named: dict[str, Sequence[str]] = {**theirs, **own}

    def members(name: str, above: tuple[str, ...]) -> list[str]:
        if name in known:
            return [name]
        if name in above:
            raise UserError(f"the label group {name!r} holds itself: {' > '.join([*above, name])}; see data.groups")
        if name not in named:
            raise unknown("label", name, [*known, *named], where=f" in the label group {above[-1]!r}")
        return [label for member in named[name] for label in members(member, (*above, name))]

    for name in own:
        if name in (*known, "all"):
            raise UserError(f"data.groups.{name}: a label is called so; give the group another name")
        if not own[name]:
            raise UserError(f"data.groups.{name} is empty; name at least one label")
    # The dataset's may name labels that this store does not have: that matters when they are asked for, in `resolve`.
    return {
        name: tuple(dict.fromkeys(members(name, ()))) if name in own else tuple(held) for name, held in named.items()
    }


def resolve(wanted: str | Sequence[str], known: Sequence[str], groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Labels that `wanted` stands for, in the order of the store: `all`, a group's name, or a list of labels and groups.

    Raises `UserError` naming the closest known label."""
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    chosen: list[str] = []
    for name in names:
        if name in known:
            chosen.append(name)
        elif name == "all":
            chosen += known
        elif name in groups:
            missing = [g for g in groups[name] if g not in known]
            if missing:
                raise UserError(
                    f"the label group {name!r} needs {missing}, which the store does not have; its labels: {', '.join(known)}"
                )
            chosen += groups[name]
        else:
            raise unknown("label", name, [*known, *groups, "all"])
    if not chosen:
        raise UserError("no label is chosen: name at least one in data.labels, or say all")
    return [k for k in known if k in set(chosen)]


def spread(
    values: Mapping[str, T] | T, known: Sequence[str], groups: Mapping[str, Sequence[str]], *, where: str
) -> dict[str, T] | T:
    """Values by label, from values by label, by group or by `all`; the narrower name goes first. One value stays one.

    `where` says in an error what is spread. Raises `UserError` for an unknown name, and where two groups disagree."""
    if not isinstance(values, Mapping):
        return values
    given: Mapping[str, T] = values
    out: dict[str, T] = dict.fromkeys(known, given["all"]) if "all" in given and "all" not in known else {}
    said_by: dict[str, str] = {}
    for name, value in given.items():
        if name in known or name == "all":
            continue
        if name not in groups:
            raise unknown("label", name, [*known, *groups, "all"], where=f" in {where}")
        for label in resolve(name, known, groups):
            if label in said_by and out[label] != value and label not in given:
                raise UserError(f"{where}: {said_by[label]} and {name} disagree about {label!r}; name {label!r} itself")
            out[label], said_by[label] = value, name
    return out | {name: value for name, value in given.items() if name in known}


def apply_policy(
    raw_NL: npt.NDArray[np.float32],
    labels: Sequence[str],
    uncertain: str | Mapping[str, str],
    blank: str,
    *,
    row_N: npt.NDArray[np.int64] | None = None,
    seed: int = 0,
) -> npt.NDArray[np.float32]:
    """Raw values [N, L] to targets [N, L]: 0, 1, what `smooth` drew between, or NaN for unknown, which every loss and metric masks.

    `uncertain` is one policy for all labels or a mapping of label to policy (labels that it leaves out: zeros).
    zeros, ones and ignore are U-Zeros, U-Ones and U-Ignore of Irvin et al. 2019 (arXiv:1901.07031); smooth and
    smooth_zeros draw from `SMOOTH_RANGES`. A draw hangs on `seed`, the store's row number (`row_N` [N]) and the label's name
    alone: no filter, split, limit or other label moves it."""
    per_label = uncertain if isinstance(uncertain, Mapping) else dict.fromkeys(labels, uncertain)
    for name in per_label:
        if name not in labels:
            raise unknown("label", name, labels, where=" in an uncertainty policy")
    out_NL = np.array(raw_NL, dtype=np.float32)
    for at, name in enumerate(labels):
        policy = per_label.get(name, "zeros")
        here_N = raw_NL[:, at] == UNCERTAIN
        if policy not in SMOOTH_RANGES:
            out_NL[here_N, at] = UNCERTAIN_VALUES[policy]
        elif here_N.any():
            assert row_N is not None, "smooth targets are drawn by row"
            low, high = SMOOTH_RANGES[policy]
            rng = np.random.default_rng([seed, 3, zlib.crc32(name.encode())])
            out_NL[here_N, at] = low + (high - low) * rng.random(int(row_N.max()) + 1)[row_N[here_N]]
    if blank == "zeros":
        out_NL[np.isnan(raw_NL)] = 0.0
    return out_NL


def nearest(truth_NL: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Targets [N, L] with every smooth one moved to the side it is nearer: 0, 1, or NaN for unknown.

    What counts rows, weighs, judges or names label vectors reads targets through this: `smooth` counts as `ones` there,
    `smooth_zeros` as `zeros`. The loss alone sees the drawn value."""
    return np.where(np.isnan(truth_NL), truth_NL, truth_NL >= 0.5).astype(np.float32)
