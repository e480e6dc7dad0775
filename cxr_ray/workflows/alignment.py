"""The labels of a run in the labels of another store: which match, and the truth of its rows."""
# N rows, L labels

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray import config as cfg
from cxr_ray.data.derive import combine, derived_members
from cxr_ray.data.info import DatasetInfo
from cxr_ray.data.store import Store
from cxr_ray.datasets.hierarchy import GRAPHS, add_parents
from cxr_ray.errors import unknown
from cxr_ray.labels import NEGATIVE, apply_policy, label_values

NEAR = 0.6
"""Share of equal letters (`difflib`) from which on a name may mean another one."""


@dataclass(frozen=True)
class Derivation:
    """How a run's derived label is made."""

    rule: str
    """any or all."""
    members: tuple[str, ...]
    """Labels of the run's store, or derived ones."""


def derivations(info: DatasetInfo, data: cfg.Data) -> dict[str, Derivation]:
    """The derived labels of a run with the settings `data`, trained on a store with `info`."""
    return {
        name: Derivation(next(iter(data.derive[name])), tuple(members))
        for name, members in derived_members(info, data).items()
    }


def stored_labels(index: pd.DataFrame, store: Store) -> dict[str, npt.NDArray[np.float32]]:
    """Raw values [N] of each label of a store, for the rows of `index`. Kinds of a finding count for it where the store's source
    has a graph of them, also in stores that were written without."""
    columns = {str(k): raw.to_numpy(np.float32) for k, raw in label_values(index, store.labels).items()}
    graph = GRAPHS.get(store.manifest.source)
    return columns if graph is None else add_parents(columns, *graph)


def blank_of(store: Store, data: cfg.Data) -> str:
    """What applies to cells that the store does not mention: the setting `data.blank`, or `ignore` where they are unknown."""
    return "ignore" if store.manifest.source in GRAPHS else store.info.blank_policy(data.blank)


def align(
    ours: Sequence[str],
    theirs: Sequence[str],
    mapping: Mapping[str, str],
    derived: Mapping[str, Derivation] | None = None,
) -> list[dict[str, str | None]]:
    """The data's label for each label of the model: `{"label", "data" (None if the data lack it), "how"}`.

    Matched by `mapping`, else by equal name, else by equal letters (ignoring case, spaces, `_` and `-`). A `derived` label without a
    match is made of those of its members that the data have: `data` joins their names by ` + `. Raises `UserError` if the mapping
    has an unknown label."""
    derived = derived or {}
    members = [member for name in ours if name in derived for member in _leaves(name, derived)]
    for label, other in mapping.items():
        if label not in (*ours, *members):
            raise unknown("label", label, [*ours, *members], where=" of the model in the mapping")
        if other not in theirs:
            raise unknown("label", other, theirs, where=" of the data in the mapping")
    out: list[dict[str, str | None]] = []
    for label in ours:
        data, how = _match(label, theirs, mapping)
        if data is None and label in derived:
            found = [
                match for leaf in _leaves(label, derived) if (match := _match(leaf, theirs, mapping)[0]) is not None
            ]
            if found:
                data, how = " + ".join(dict.fromkeys(found)), f"{derived[label].rule} of them"
        out.append({"label": label, "data": data, "how": how})
    return out


def used_labels(
    alignment: Sequence[Mapping[str, str | None]],
    theirs: Sequence[str],
    mapping: Mapping[str, str],
    derived: Mapping[str, Derivation],
) -> set[str]:
    """The labels of the data that give the truth of a label of the model."""
    used: set[str] = set()
    for entry in alignment:
        label = str(entry["label"])
        for name in [label] if entry["data"] in theirs else _leaves(label, derived):
            data, _ = _match(name, theirs, mapping)
            used |= {data} if data is not None else set()
    return used


def truth_of(
    columns: Mapping[str, npt.NDArray[np.float32]],
    alignment: Sequence[Mapping[str, str | None]],
    mapping: Mapping[str, str],
    derived: Mapping[str, Derivation],
    data: cfg.Data,
    *,
    task: str,
    blank: str,
) -> npt.NDArray[np.float32]:
    """Truth [N, L] by the run's label policy of evaluation; NaN if the data lack the label. `columns` are the raw values of the data,
    `blank` is what applies to cells that they do not mention.

    For classes, a row is known only if exactly one of the matched labels is positive."""
    rows, theirs = len(next(iter(columns.values()))), list(columns)

    def raw(label: str) -> npt.NDArray[np.float32]:
        found, _ = _match(label, theirs, mapping)
        if found is not None:
            values_N = columns[found]
            return np.nan_to_num(values_N, nan=NEGATIVE) if blank == "zeros" else values_N
        if label not in derived:
            return np.full(rows, np.nan, dtype=np.float32)
        raw_NM = np.stack([raw(member) for member in derived[label].members], axis=1)
        return combine(raw_NM, derived[label].rule, blank="ignore")  # unknown here: the data lack the member

    labels = [str(entry["label"]) for entry in alignment]
    raw_NL = np.stack([raw(label) for label in labels], axis=1)
    out_NL = apply_policy(raw_NL, labels, data.eval_uncertain, "ignore")
    if task == "multiclass":
        out_NL[:, [entry["data"] is None for entry in alignment]] = 0.0
        out_NL[(out_NL == 1).sum(axis=1) != 1] = np.nan
    return out_NL


def _match(label: str, theirs: Sequence[str], mapping: Mapping[str, str]) -> tuple[str | None, str]:
    """The data's label for one label, and how it was found."""
    if label in mapping:
        return mapping[label], "given"
    if label in theirs:
        return label, "same name"
    same = [other for other in theirs if _letters(other) == _letters(label)]
    return (same[0], "same letters") if same else (None, "the data lack it")


def mapping_hint(alignment: Sequence[Mapping[str, str | None]], theirs: Sequence[str]) -> str:
    """What to write to match labels that the data call otherwise, such as `--mapping 'Edema=Pulmonary edema'`: one label whose name is
    near to one of theirs suffices; without any, the first that lacks a match is the example."""
    taken = {entry["data"] for entry in alignment}
    lacking = [str(entry["label"]) for entry in alignment if entry["data"] is None]
    spare = [other for other in theirs if other not in taken]
    if not (lacking and spare):
        return "--mapping LABEL=LABEL"
    pairs = {label: near[0] for label in lacking if (near := _near(label, spare))} or {lacking[0]: spare[0]}
    return " ".join(["--mapping", *(shlex.quote(f"{label}={other}") for label, other in pairs.items())])


def _near(label: str, others: Sequence[str]) -> list[str]:
    """Those of `others` that are spelled nearly as `label`, or contain it or are contained in it; the nearest first."""
    wanted = _letters(label)
    close = {
        other: SequenceMatcher(None, wanted, _letters(other)).ratio()
        + (wanted in _letters(other) or _letters(other) in wanted)
        for other in others
        if _letters(other)
    }
    return sorted((other for other, share in close.items() if share >= NEAR), key=lambda other: -close[other])


def _leaves(name: str, derived: Mapping[str, Derivation]) -> list[str]:
    """The labels of the store of which a derived label is made, at any depth."""
    if name not in derived:
        return [name]
    return [leaf for member in derived[name].members for leaf in _leaves(member, derived)]


def _letters(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()
