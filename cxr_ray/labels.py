"""The label space: label names, groups, and targets from raw values. Owns no table: `data.plan` applies it to a store.

Raw values, in every source: 1 positive, 0 negative, -1 uncertain, NaN not mentioned. Targets: NaN = unknown = masked.
"""
# N rows, L labels

import unicodedata
import zlib
from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from cxr_ray.errors import UserError, listed, unknown

if TYPE_CHECKING:
    import pandas as pd

Task = Literal["multilabel", "multiclass", "binary"]

POSITIVE, NEGATIVE, UNCERTAIN = 1.0, 0.0, -1.0
PARTS = ("train", "val", "test")
UNCERTAIN_VALUES: dict[str, float] = {"zeros": 0.0, "ones": 1.0, "ignore": np.nan}
SMOOTH_RANGES: dict[str, tuple[float, float]] = {"smooth": (0.55, 0.85), "smooth_zeros": (0.0, 0.3)}
"""U-Ones+LSR and U-Zeros+LSR of Pham et al. 2021 (Neurocomputing, arXiv:1911.06475): the target of an uncertain cell is
sampled uniformly from this range."""
LABEL_PREFIX = "label/"
"""Of the label columns of a store on disk, and in memory of those whose name another column has. No label contains a slash."""
BREAKS = frozenset({"Cc", "Zl", "Zp"})
"""Unicode categories of line breaks and of what may change the terminal. No label contains one; a header of Excel may."""
T = TypeVar("T")


class Filter(BaseModel):
    """One cleaning rule: only rows that match the pandas `query` are used."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    query: str
    about: str = ""


def safe_name(name: str) -> str:
    """A label that can be part of a metric name or a column name, and be printed on one line: slashes and dots become `_`, line
    breaks and other control characters a space. Characters are composed (NFC), as people type them; macOS decomposes the names of
    class folders."""
    line = "".join(" " if unicodedata.category(c) in BREAKS else c for c in unicodedata.normalize("NFC", name))
    return line.strip().replace("/", "_").replace(".", "_")


def label_column(label: str, columns: Container[str]) -> str:
    """The column of a label in a table of records, or a store's index, with these `columns`: its name, or `label/NAME` where the
    table has that one, because another column has the label's name (a label `sex` and the patient's sex)."""
    prefixed = LABEL_PREFIX + label
    return prefixed if prefixed in columns else label


def label_values(table: "pd.DataFrame", labels: Sequence[str]) -> "pd.DataFrame":
    """The raw values of `labels` in a table of records, or a store's index: one column per label, with the label's name."""
    columns = table.columns
    return table[[label_column(label, columns) for label in labels]].set_axis(list(labels), axis=1)


def merge_groups(
    dataset: Mapping[str, Sequence[str]], own: Mapping[str, Sequence[str]], known: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Label groups by name: those of the dataset, overridden by the user's `own`, which may contain labels and groups.

    Raises `UserError` if a group has the name of a label, is empty, or contains an unknown name or itself."""
    named: dict[str, Sequence[str]] = {**dataset, **own}

    def members(name: str, path: tuple[str, ...]) -> list[str]:
        if name in known:
            return [name]
        if name in path:
            raise UserError(f"the label group {name!r} contains itself: {' > '.join([*path, name])}; see data.groups")
        if name not in named:
            raise unknown("label", name, [*known, *named], where=f" in the label group {path[-1]!r}")
        return [label for member in named[name] for label in members(member, (*path, name))]

    for name in own:
        if name in (*known, "all"):
            raise UserError(f"data.groups.{name}: a label or `all` already has this name; give the group another name")
        if not own[name]:
            raise UserError(f"data.groups.{name} is empty; name at least one label")
    # A dataset's group may name labels that this store lacks: `resolve` raises only if that group is used.
    return {
        name: tuple(dict.fromkeys(members(name, ()))) if name in own else tuple(listed)
        for name, listed in named.items()
    }


def resolve(wanted: str | Sequence[str], known: Sequence[str], groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Labels selected by `wanted`, in the store's order: `all`, the name of a group, or a list of labels and groups.

    Raises `UserError` that names the closest known label."""
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
                    f"the label group {name!r} needs {missing}, which the store does not have; its labels: {listed(known, most=40)}"
                )
            chosen += groups[name]
        else:
            raise unknown("label", name, [*known, *groups, "all"])
    if not chosen:
        raise UserError("no label is selected: name at least one in data.labels, or use all")
    return [k for k in known if k in set(chosen)]


def expand_by_label(
    values: Mapping[str, T] | T, known: Sequence[str], groups: Mapping[str, Sequence[str]], *, where: str
) -> dict[str, T] | T:
    """Values by label, from values by label, group or `all`: a label overrides a group, a group overrides `all`.

    A single value is returned unchanged. `where` names the setting in errors. Raises `UserError` for an unknown name, and if two
    groups give one label different values."""
    if not isinstance(values, Mapping):
        return values
    given: Mapping[str, T] = values
    out: dict[str, T] = dict.fromkeys(known, given["all"]) if "all" in given and "all" not in known else {}
    set_by: dict[str, str] = {}
    for name, value in given.items():
        if name in known or name == "all":
            continue
        if name not in groups:
            raise unknown("label", name, [*known, *groups, "all"], where=f" in {where}")
        for label in resolve(name, known, groups):
            if label in set_by and out[label] != value and label not in given:
                raise UserError(f"{where}: {set_by[label]} and {name} disagree about {label!r}; set {label!r} itself")
            out[label], set_by[label] = value, name
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
    """Targets [N, L] from raw values [N, L]: 0, 1, a value between (`smooth`), or NaN, which every loss and metric masks.

    `uncertain` is one policy for all labels, or a policy per label (missing labels: zeros). zeros, ones and ignore are U-Zeros,
    U-Ones and U-Ignore of Irvin et al. 2019 (arXiv:1901.07031); smooth and smooth_zeros sample from `SMOOTH_RANGES`. A sample
    depends only on `seed`, the store's row number (`row_N` [N]) and the label's name, not on filters, splits, limits or other
    labels."""
    per_label = uncertain if isinstance(uncertain, Mapping) else dict.fromkeys(labels, uncertain)
    for name in per_label:
        if name not in labels:
            raise unknown("label", name, labels, where=" in an uncertainty policy")
    out_NL = np.array(raw_NL, dtype=np.float32)
    for column, name in enumerate(labels):
        policy = per_label.get(name, "zeros")
        uncertain_N = raw_NL[:, column] == UNCERTAIN
        if policy not in SMOOTH_RANGES:
            out_NL[uncertain_N, column] = UNCERTAIN_VALUES[policy]
        elif uncertain_N.any():
            assert row_N is not None, "smooth targets are sampled by row number"
            low, high = SMOOTH_RANGES[policy]
            rng = np.random.default_rng([seed, 3, zlib.crc32(name.encode())])
            out_NL[uncertain_N, column] = low + (high - low) * rng.random(int(row_N.max()) + 1)[row_N[uncertain_N]]
    if blank == "zeros":
        out_NL[np.isnan(raw_NL)] = 0.0
    return out_NL


def hard_targets(truth_NL: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Targets [N, L] rounded to 0 or 1; NaN (unknown) stays NaN.

    Row counts, class weights, metrics and label vectors use these: `smooth` counts as `ones`, `smooth_zeros` as `zeros`. Only
    the loss uses the smooth value."""
    return np.where(np.isnan(truth_NL), truth_NL, truth_NL >= 0.5).astype(np.float32)
