"""Labels made of several others (`data.derive`), as columns in addition to those of a store. They belong to a plan, never to the store."""
# N rows, M labels of which one is made

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray import config as cfg
from cxr_ray.data.info import DatasetInfo
from cxr_ray.errors import UserError, quoted, unknown
from cxr_ray.labels import NEGATIVE, POSITIVE, UNCERTAIN, label_values, merge_groups, resolve, safe_name
from cxr_ray.metrics.names import TAKEN_LABELS


def add_derived(index: pd.DataFrame, info: DatasetInfo, data: cfg.Data) -> tuple[pd.DataFrame, DatasetInfo]:
    """`index` and `info` of a store with the labels of `data.derive` after its own; both unchanged if there are none.

    `labels: all` includes them for multilabel data; with classes they must be named. Raises `UserError` for a name that is taken,
    and for an unknown label."""
    members = derived_members(info, data, columns=index.columns)
    if not members:
        return index, info
    columns = {str(k): raw.to_numpy(np.float32) for k, raw in label_values(index, info.labels).items()}
    made: dict[str, npt.NDArray[np.float32]] = {}
    blank = info.blank_policy(data.blank)
    for name, labels in members.items():
        raw_NM = np.stack([(columns | made)[label] for label in labels], axis=1)
        made[name] = combine(raw_NM, next(iter(data.derive[name])), blank=blank)
    table = pd.concat([index, pd.DataFrame(made, index=index.index)], axis=1)
    default = (*info.default_labels, *made) if info.task == "multilabel" else info.default_labels
    return table, info.model_copy(update={"labels": (*info.labels, *made), "default_labels": default})


def derived_members(
    info: DatasetInfo, data: cfg.Data, *, columns: Sequence[str] | pd.Index = ()
) -> dict[str, list[str]]:
    """The labels of which each label of `data.derive` is made: labels of the dataset, and derived ones before it.

    Raises `UserError` as `add_derived` does; `columns` are names that are taken too."""
    names = list(data.derive)
    for name in names:
        if name in (*info.labels, *columns) or name in data.groups or name in info.groups:
            raise UserError(
                f"data.derive: {quoted(name)} is already a label, a group or a column; give it another name"
            )
        if name in TAKEN_LABELS:
            raise UserError(
                f"data.derive: {quoted(name)} means several labels in settings and metrics; give the label another name"
            )
        if not name or name != safe_name(name):
            raise UserError(
                f"data.derive: {quoted(name)} cannot be a label; write {quoted(safe_name(name) or 'a name')}"
            )
    if not names:
        return {}
    known = [*info.labels, *names]
    groups: Mapping[str, Sequence[str]] = merge_groups(info.groups, data.groups, known)
    found: dict[str, list[str]] = {}
    for name, rule in data.derive.items():
        wanted = [member for named in rule.values() for member in named]
        for member in wanted:
            if member not in known and member not in groups:
                raise unknown("label", member, [*known, *groups], where=f" in data.derive.{name}")
        labels = resolve(wanted, known, groups)
        late = [label for label in labels if label in names and label not in found]
        if late:
            raise UserError(f"data.derive.{name} needs {quoted(late[0])}, which must be listed before it")
        found[name] = labels
    return found


def combine(raw_NM: npt.NDArray[np.float32], rule: str, *, blank: str) -> npt.NDArray[np.float32]:
    """The raw value [N] of a label from those of its members [N, M], by Kleene's logic of unknown values.

    `any`: positive if a member is, negative if all are; `all`: negative if a member is, positive if all are. Else the value is
    uncertain (-1) or not mentioned (NaN), as the members are that do not decide. If they are both, it is uncertain only where
    that cannot claim too much: for `any` while cells that are not mentioned count as negative (`blank` is zeros)."""
    decisive, other = (POSITIVE, NEGATIVE) if rule == "any" else (NEGATIVE, POSITIVE)
    out_N = np.full(len(raw_NM), other, dtype=np.float32)
    uncertain_N, blank_N = (raw_NM == UNCERTAIN).any(axis=1), np.isnan(raw_NM).any(axis=1)
    out_N[uncertain_N] = UNCERTAIN
    out_N[blank_N if rule == "all" or blank != "zeros" else blank_N & ~uncertain_N] = np.nan
    out_N[(raw_NM == decisive).any(axis=1)] = decisive
    return out_N
