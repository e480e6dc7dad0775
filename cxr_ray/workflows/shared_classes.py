"""External validation of classes: the decision is among the classes that the run and the other data both have."""
# N rows, C classes of the run

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray.data.info import DatasetInfo
from cxr_ray.data.plan import Plan
from cxr_ray.datasets.classes import is_unremarkable
from cxr_ray.errors import UserError, listed
from cxr_ray.labels import NEGATIVE, POSITIVE
from cxr_ray.workflows.alignment import mapping_hint


def with_other_class(
    columns: Mapping[str, npt.NDArray[np.float32]], info: DatasetInfo, classes: Sequence[str]
) -> dict[str, npt.NDArray[np.float32]]:
    """The label columns [N] of a store, with one for its other class: a store of two classes has one column.

    The other class is called as the store records it, else as the one of the run's `classes` that means no finding: it is the
    negative one unless `--positive` chose another. Without either the columns are unchanged."""
    if info.task != "binary" or len(columns) != 1:
        return dict(columns)
    (positive_N,) = columns.values()
    unremarkable = [name for name in classes if is_unremarkable(name)]
    name = info.other_class or (unremarkable[0] if len(unremarkable) == 1 else None)
    if name is None or name in columns:
        return dict(columns)
    flipped_N = np.where(positive_N == POSITIVE, NEGATIVE, np.where(positive_N == NEGATIVE, POSITIVE, np.nan))
    return {**columns, name: flipped_N.astype(np.float32)}


def shared(alignment: Sequence[Mapping[str, str | None]], theirs: Sequence[str]) -> list[str]:
    """The run's classes that the data have. Raises `UserError` if there are fewer than two: nothing is left to decide."""
    found = [str(entry["label"]) for entry in alignment if entry["data"] is not None]
    if len(found) < 2:
        ours = [str(entry["label"]) for entry in alignment]
        raise UserError(
            f"the run's classes ({listed(ours, most=40)}) and those of the data ({listed(theirs, most=40)}) have "
            f"{found[0] if found else 'none'} in common; a decision needs two: match more, for example with "
            f"{mapping_hint(alignment, theirs)}"
        )
    return found


def restrict(table: pd.DataFrame, classes: Sequence[str], kept: Sequence[str]) -> pd.DataFrame:
    """A predictions table without the rows of other classes and of unknown class, and with probabilities that sum to 1 over `kept`.

    The decision among `kept` is that of a model that knows the image to be of one of them: p(class | one of kept)."""
    truth_NC = table[[f"true/{name}" for name in kept]].to_numpy(float)
    known = table[(truth_NC == POSITIVE).sum(axis=1) == 1]
    prob_NC = known[[f"prob/{name}" for name in kept]].to_numpy()
    sum_N1 = prob_NC.sum(axis=1, keepdims=True)
    even = np.full_like(prob_NC, 1.0 / len(kept))
    shares_NC = np.divide(prob_NC, sum_N1, out=even, where=sum_N1 > 0.0)
    others = [f"{kind}/{name}" for name in classes if name not in kept for kind in ("true", "prob")]
    found = known.drop(columns=others)
    return found.assign(**{f"prob/{name}": shares_NC[:, i] for i, name in enumerate(kept)}).reset_index(drop=True)


def restrict_plan(plan: Plan, kept: Sequence[str]) -> Plan:
    """The plan with the classes `kept` only."""
    at = [plan.labels.index(name) for name in kept]
    truth = {part: truth_NC[:, at] for part, truth_NC in plan.truth.items()}
    return replace(plan, labels=tuple(kept), truth=truth, pos_weight=plan.pos_weight[at])


def notes(
    columns: Mapping[str, npt.NDArray[np.float32]],
    used: set[str],
    classes: Sequence[str],
    kept: Sequence[str],
    rows: int,
) -> list[str]:
    """What was left out: rows of the data's other classes and of unknown class, and the run's classes that the data lack.

    `columns` are of the rows that would be evaluated, `used` the labels of the data that match a class, `rows` how many remain."""
    out = []
    total = len(next(iter(columns.values())))
    counts = {name: int((values_N == POSITIVE).sum()) for name, values_N in columns.items() if name not in used}
    if others := {name: count for name, count in counts.items() if count}:
        text = listed([f"{count:,} of {name}" for name, count in others.items()], most=40)
        out.append(f"rows of classes that the model does not know are left out: {text}")
    if unknown := total - rows - sum(counts.values()):
        out.append(f"{unknown:,} rows without exactly one known class are left out")
    if missing := [name for name in classes if name not in kept]:
        out.append(
            f"probabilities are divided by their sum over {', '.join(kept)}: the decision is among these, without "
            f"{listed(missing, most=40)}"
        )
    return out
