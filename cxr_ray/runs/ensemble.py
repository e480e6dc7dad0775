"""A run that is an ensemble of other runs: its folder made, its plan and its out-of-fold predictions put together.

It has no model: `predictor.load` averages its members' probabilities. Nothing is trained or predicted here.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr_ray.data import store as stores
from cxr_ray.errors import UserError
from cxr_ray.runs import run as runs

JOINS = ["row", "source_row", "patient", "study"]


def make(folder: str | Path, members: Sequence[runs.Run | str | Path]) -> runs.Run:
    """Make the run folder of an ensemble of two or more trained runs; `evaluate`, `show` and `compare` take it as any run.

    The members share store, labels, task, judging policy and test rows. Train is every row that any of them trained on. Val
    is every row that some of them had as val; its probabilities are the mean of those members' alone (`out_of_fold`), so
    that thresholds and calibration are never chosen on rows that were learnt. Of folds such a row stands in train as well.
    The config is the first member's, but for name and place. Folders of members under the ensemble's own parent are kept
    relative to it. Raises `UserError` where a member has no model, is an ensemble or another run twice, or they differ."""
    held = [member if isinstance(member, runs.Run) else runs.load(member) for member in members]
    place = Path(folder).resolve()
    _check(held)
    table = out_of_fold(held)
    plan = _plan(held, table)
    first, store = held[0], stores.open(held[0].info["store"]["path"], verify="none", cache=held[0].config.data.cache)
    of_store, known = first.info["store"], ("labels", "task", "groups", "dropped")
    said = [str(member.path) for member in held]
    said = [os.path.relpath(path, place) if Path(path).is_relative_to(place.parent) else path for path in said]
    if (place / "run.json").is_file():
        there = runs.Run(place)
        if there.info.get("members") != said:
            raise UserError(f"{place} is already a run; give the ensemble another name")
        if there.info["status"] == "finished":
            return there
    config = first.config.model_copy(update={"name": place.name, "output": str(place.parent)})
    about = {key: first.info[key] for key in known if key in first.info}
    run = runs.create(
        config, store=of_store, plan=plan, about={**about, "members": said, "warnings": _warnings(held, plan)}
    )
    if len(table):
        run.write_predictions("val", table)
    run.update(
        status="finished",
        parameters=sum(int(member.info.get("parameters", 0)) for member in held),
        seconds=round(sum(float(member.info.get("seconds", 0.0)) for member in held), 2),
        prevalence=runs.prevalence(store, runs.plan_of(run, store)),
    )
    return run


def out_of_fold(members: Sequence[runs.Run]) -> pd.DataFrame:
    """The predictions table of every row that was val to some member, ascending: the mean over those members.

    A member's val shares no patient with its train part, so none of them has learnt the row. Raises `UserError` where a
    member kept no predictions of its val, or two disagree about the truth of a row."""
    frames = [member.predictions("val") for member in members if (member.plan["part"] == "val").any()]
    labels = members[0].info["labels"]
    truth, prob = ([f"{kind}/{label}" for label in labels] for kind in ("true", "prob"))
    if not frames:
        return pd.DataFrame(columns=[*JOINS, *truth, *prob])
    rows = pd.concat(frames, ignore_index=True)
    by_row = rows.groupby("row", sort=True)
    if (by_row[truth].nunique(dropna=False) > 1).any(axis=None):
        raise UserError(
            "members disagree about the truth of val rows: their stores or their judging policies have changed"
        )
    first = rows.drop_duplicates("row").set_index("row")[[*JOINS[1:], *truth]]
    return by_row[prob].mean().astype(np.float32).join(first).reset_index()[[*JOINS, *truth, *prob]]


def _plan(members: Sequence[runs.Run], out_of_fold: pd.DataFrame) -> pd.DataFrame:
    """`row, part, drawn` of the ensemble; each row counts once, since members may have drawn it differently often."""
    each = [member.plan for member in members]
    trained = np.unique(np.concatenate([p.loc[p["part"] == "train", "row"].to_numpy(np.int64) for p in each]))
    rows = {
        "train": trained,
        "val": out_of_fold["row"].to_numpy(np.int64),
        "test": np.sort(each[0].loc[each[0]["part"] == "test", "row"].to_numpy(np.int64)),
    }
    return pd.concat(
        [pd.DataFrame({"row": held, "part": part, "drawn": np.int64(1)}) for part, held in rows.items()],
        ignore_index=True,
    )


def _check(members: Sequence[runs.Run]) -> None:
    if len(members) < 2:
        raise UserError("an ensemble is of two runs or more")
    if len({member.path for member in members}) < len(members):
        raise UserError("an ensemble names a run twice; name each of its members once")
    first = members[0]
    for member in members:
        if member.info.get("members"):
            raise UserError(f"{member.path.name} is an ensemble itself; name its members instead")
        if not member.weights.exists():
            raise UserError(
                f"{member.path} has no model yet (status: {member.info['status']}); train it to the end first"
            )
        for what, mine, theirs in zip(("store", "labels", "task", "judging policy", "test rows"), _shared(member), _shared(first), strict=True):  # fmt: skip
            if mine != theirs:
                shown = f" ({mine} and {theirs})" if len(str(mine) + str(theirs)) < 200 else ""
                raise UserError(
                    f"{member.path.name} and {first.path.name} cannot be one ensemble: their {what} differ{'' if what.endswith('s') else 's'}{shown}"
                )


def _shared(run: runs.Run) -> tuple[Any, ...]:
    """What members have in common: store, labels, task, judging policy, test rows."""
    data, plan = run.config.data, run.plan
    policy = {"data.eval_uncertain": data.eval_uncertain, "data.blank": data.blank}
    test = sorted(plan.loc[plan["part"] == "test", "row"].tolist())
    return run.info["store"]["fingerprint"], run.info["labels"], run.info["task"], policy, test


def _warnings(members: Sequence[runs.Run], plan: pd.DataFrame) -> list[str]:
    """What holds of the ensemble, then what all of its members were warned of."""
    train, val = (set(plan.loc[plan["part"] == part, "row"]) for part in ("train", "val"))
    out = [f"an ensemble: the mean of the probabilities of {', '.join(member.path.name for member in members)}"]
    if both := len(train & val):
        out.append(
            f"{both:,} of the {len(val):,} val rows were trained on by some members: val is predicted by those that had a row as "
            "val, so thresholds and calibration come from fewer members than test is judged by"
        )
    each = [member.info.get("warnings", []) for member in members]
    return [*out, *(line for line in each[0] if all(line in other for other in each[1:]))]
