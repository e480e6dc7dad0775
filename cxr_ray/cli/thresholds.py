"""The flag --thresholds: its words as a rule, and whether the rule is misspelt. What rules mean is in metrics.operating_points."""

from collections.abc import Sequence
from typing import Any

from cxr_ray.cli import near_misses
from cxr_ray.errors import UserError

THRESHOLDS = (
    "thresholds are one number, LABEL=NUMBER per label, such as --thresholds Edema=0.2, "
    "or a rule: youden, f1, recall=0.9, specificity=0.9"
)


def read_thresholds(words: Sequence[str] | None) -> float | str | dict[str, float] | None:
    """`["0.3"]` as 0.3, `["Edema=0.2", "Mass=0.4"]` as a mapping, `["youden"]` as "youden". Raises `UserError`."""
    if not words:
        return None
    if len(words) == 1 and words[0] in ("youden", "f1"):
        return words[0]
    try:
        if len(words) == 1 and "=" not in words[0]:
            values: float | dict[str, float] = float(words[0])
        else:
            values = {name: float(value) for name, _, value in (word.rpartition("=") for word in words)}
    except ValueError:
        meant = near_misses.closest_rule(words[0]) if len(words) == 1 else None
        hint = f"did you mean '{meant}{'=0.9' if meant in near_misses.RULES else ''}'? " if meant else ""
        raise UserError(f"cannot read --thresholds {' '.join(words)}; {hint}{THRESHOLDS}") from None
    by_label = values if isinstance(values, dict) else {"all": values}
    if "" in by_label or not all(0.0 <= value <= 1.0 for value in by_label.values()):
        raise UserError(f"--thresholds {' '.join(words)}: {THRESHOLDS}, each from 0 to 1")
    return values


def check_thresholds(rule: float | str | dict[str, float] | None, run: Any) -> None:
    """Raise `UserError` if the rule is misspelt, such as recal=0.9, and not a label or group of the run."""
    near_misses.check_rule(rule, [*run.info.get("labels", ()), *run.config.data.groups])
