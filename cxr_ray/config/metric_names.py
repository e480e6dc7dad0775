"""Names of metrics as settings and files write them, `val/auroc/Edema`, and which direction is better.

Which metrics exist, and what they measure, is metrics/names.py's."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

Mode = Literal["max", "min"]

LOWER_IS_BETTER = ("loss", "hamming", "brier", "ece")
"""Metrics of which a smaller value is better; of every other metric a larger one is."""
MEAN = "mean"
"""The label of an average over labels that counts each alike."""
ALIASES = {"macro": MEAN}


class ParsedName(NamedTuple):
    """The three pieces of a metric's name; `metric` and `label` are empty where the name has none."""

    part: str
    metric: str
    label: str


def split_name(name: str) -> ParsedName:
    """`val/auroc/Edema` in its pieces; a label may hold slashes, and `macro` is read as `mean`. Nothing is checked."""
    part, _, rest = name.partition("/")
    metric, _, label = rest.partition("/")
    return ParsedName(part, metric, ALIASES.get(label, label))


def join_name(part: str, metric: str, label: str = "") -> str:
    """`join_name("val", "auroc", "Edema")` is `val/auroc/Edema`; without a label `val/accuracy`."""
    return "/".join(piece for piece in (part, metric, ALIASES.get(label, label)) if piece)


def mode_of(name: str, asked: Literal["auto"] | Mode = "auto") -> Mode:
    """Whether more (`max`) or less (`min`) of the metric `name` (val/loss, val/brier/mean) is better: as `asked`, else by what it
    measures."""
    if asked != "auto":
        return asked
    return "min" if split_name(name).metric in LOWER_IS_BETTER else "max"


def sign_of(mode: Mode) -> float:
    """What a value is multiplied by so that larger is better."""
    return 1.0 if mode == "max" else -1.0


def best_of(values: Sequence[float | None], mode: Mode) -> int | None:
    """The position of the best value, of equal ones the first; None where all are undefined (None or NaN)."""
    sign = sign_of(mode)
    known = [(sign * value, -at) for at, value in enumerate(values) if value is not None and value == value]
    return -max(known)[1] if known else None
