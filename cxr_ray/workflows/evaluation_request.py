"""What a run is evaluated on, and how: the options of an evaluation, checked once. evaluate.py and external.py carry it out."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from cxr_ray.errors import UserError, unknown
from cxr_ray.labels import PARTS
from cxr_ray.metrics import operating_points, studies

By = Literal["image", "study"]


def unit(by: By, combine: studies.Method) -> str:
    """What a row of results is, as files and tables say it: `image`, or `study (max of its images)`."""
    return by if by == "image" else f"study ({combine} of its images)"


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """The options of `evaluations.evaluate`, which states their meaning.

    Raises `UserError` for an unknown name, for `mapping` without `data`, and for `split` with it."""

    split: str | None = None
    epoch: int | None = None
    thresholds: operating_points.Rule | None = None
    by: By = "image"
    combine: studies.Method = "max"
    data: str | os.PathLike[str] | None = None
    mapping: Mapping[str, str] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.split is not None and self.split not in PARTS:
            raise unknown("split", self.split, PARTS)
        if self.by not in get_args(By):
            raise unknown("value of by", self.by, get_args(By))
        if self.combine not in get_args(studies.Method):
            raise unknown("value of combine", self.combine, get_args(studies.Method))
        if self.mapping and self.data is None:
            raise UserError("mapping relates labels to those of other data: give data too")
        if self.split is not None and self.data is not None:
            raise UserError("data evaluates all rows of the other store: leave split out")
