"""Syntax of metric names in settings and files, `val/auroc/Edema`, and which direction is better.

Which metrics exist is in metrics/names.py."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

Mode = Literal["max", "min"]

LOWER_IS_BETTER = ("loss", "hamming", "brier", "ece")
"""Metrics whose smaller values are better; for all others larger values are."""
MEAN = "mean"
"""The label of the unweighted mean over labels."""
ALIASES = {"macro": MEAN}


class ParsedName(NamedTuple):
    """The three parts of a metric name; `metric` and `label` are empty if the name lacks them."""

    part: str
    metric: str
    label: str


def split_name(name: str) -> ParsedName:
    """Split `val/auroc/Edema`. A label may contain slashes; `macro` becomes `mean`. Names are not validated."""
    part, _, rest = name.partition("/")
    metric, _, label = rest.partition("/")
    return ParsedName(part, metric, ALIASES.get(label, label))


def join_name(part: str, metric: str, label: str = "") -> str:
    """`join_name("val", "auroc", "Edema")` is `val/auroc/Edema`; without a label: `val/accuracy`."""
    return "/".join(piece for piece in (part, metric, ALIASES.get(label, label)) if piece)


def mode_of(name: str, asked: Literal["auto"] | Mode = "auto") -> Mode:
    """`asked`, or with `auto` whether a larger (`max`) or smaller (`min`) value of the metric `name` is better."""
    if asked != "auto":
        return asked
    return "min" if split_name(name).metric in LOWER_IS_BETTER else "max"


def sign_of(mode: Mode) -> float:
    """The factor that makes larger values better: 1 or -1."""
    return 1.0 if mode == "max" else -1.0


def best_of(values: Sequence[float | None], mode: Mode) -> int | None:
    """The index of the best value, the first of equal ones; None if all are undefined (None or NaN)."""
    sign = sign_of(mode)
    known = [(sign * value, -index) for index, value in enumerate(values) if value is not None and value == value]
    return -max(known)[1] if known else None
