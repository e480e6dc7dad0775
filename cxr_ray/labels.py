"""The label space: what a raw value means to training and to judging. NaN = unknown = masked everywhere after this.

Raw values, as every source gives them: 1 positive, 0 negative, -1 uncertain, NaN not mentioned.
"""
# N rows, L labels

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from cxr_ray.errors import UserError, unknown

Task = Literal["multilabel", "multiclass", "binary"]
Uncertain = Literal["zeros", "ones", "ignore"]
Blank = Literal["zeros", "ignore"]

POSITIVE, NEGATIVE, UNCERTAIN = 1.0, 0.0, -1.0
UNCERTAIN_VALUES: dict[str, float] = {"zeros": 0.0, "ones": 1.0, "ignore": np.nan}


class Filter(BaseModel):
    """One rule of cleaning: rows for which the pandas `query` over the records holds are kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    query: str
    about: str = ""


def safe_name(name: str) -> str:
    """A label as it may stand in a metric's name or a column: slashes and dots become `_`."""
    return name.strip().replace("/", "_").replace(".", "_")


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


def apply_policy(
    raw_NL: npt.NDArray[np.float32], labels: Sequence[str], uncertain: str | Mapping[str, str], blank: str
) -> npt.NDArray[np.float32]:
    """Raw values [N, L] to targets [N, L]: 0, 1, or NaN for unknown, which every loss and metric masks.

    `uncertain` is one policy for all labels or a mapping of label to policy (labels that it leaves out: zeros).
    The policies are those of Irvin et al. 2019 (U-Zeros, U-Ones, U-Ignore; arXiv:1901.07031).
    """
    per_label = uncertain if isinstance(uncertain, Mapping) else dict.fromkeys(labels, uncertain)
    for name in per_label:
        if name not in labels:
            raise unknown("label", name, labels, where=" in an uncertainty policy")
    values_L = np.array([UNCERTAIN_VALUES[per_label.get(name, "zeros")] for name in labels], dtype=np.float32)
    out_NL = np.where(raw_NL == UNCERTAIN, values_L[None, :], raw_NL).astype(np.float32)
    if blank == "zeros":
        out_NL = np.where(np.isnan(raw_NL), np.float32(0.0), out_NL)
    return out_NL
