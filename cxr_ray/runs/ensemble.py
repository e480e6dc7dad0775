"""Ensembles: a run folder that refers to other runs, with a combined plan and out-of-fold predictions on val.

An ensemble has no model of its own: `predictor.load` averages the probabilities of its members. Nothing is trained or predicted here.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from cxr_ray.data import store as stores
from cxr_ray.errors import UserError
from cxr_ray.runs import run as runs
from cxr_ray.runs.create import create
from cxr_ray.storage.remote import to_local_path

LINKS = ["row", "source_row", "patient", "study"]


def make(folder: str | os.PathLike[str], members: Sequence[runs.Run | str | os.PathLike[str]]) -> runs.Run:
    """Create the run folder of an ensemble of two or more trained runs. `evaluate`, `show` and `compare` accept it like any run.

    The members must have the same store, labels, task, label policy of evaluation and test rows. Train is every row that any member
    trained on. Val is every row that is val of some member; its probabilities are the mean of only those members (`out_of_fold`), so
    that thresholds and calibration are never chosen on training rows. With folds, such a row is also in train. The config is the
    first member's, with another name and output. Members under the ensemble's parent folder are stored as relative paths. Raises
    `UserError` if a member has no model, is an ensemble or is given twice, or if the members differ."""
    if not isinstance(members, Sequence) or isinstance(members, str):
        raise UserError(f"an ensemble is made of two runs or more, given in a list, not of {members!r}")
    each = [runs.load(member) for member in members]
    path = to_local_path(folder, "run").resolve()
    _check(each)
    table = out_of_fold(each)
    plan = combined_plan(each, table)
    first, store = each[0], stores.open(each[0].info["store"]["path"], verify="none", cache=each[0].config.data.cache)
    folders = [
        os.path.relpath(member.path, path) if member.path.is_relative_to(path.parent) else str(member.path)
        for member in each
    ]
    if (path / "run.json").is_file():
        existing = runs.Run(path)
        if existing.info.get("members") != folders:
            raise UserError(f"{path} is already a run; give the ensemble another name")
        if existing.info["status"] == "finished":
            return existing
    config = first.config.model_copy(update={"name": path.name, "output": str(path.parent)})
    shared: dict[str, Any] = {k: first.info[k] for k in ("labels", "task", "groups", "dropped") if k in first.info}
    about = {**shared, "members": folders, "warnings": _warnings(each, plan)}
    run = create(config, store=first.info["store"], plan=plan, about=about)
    if len(table):
        run.write_predictions("val", table)
    run.update(
        status="finished",
        parameters=sum(int(member.info.get("parameters", 0)) for member in each),
        seconds=round(sum(float(member.info.get("seconds", 0.0)) for member in each), 2),
        prevalence=runs.prevalence(store, runs.plan_of(run, store)),
    )
    return run


def out_of_fold(members: Sequence[runs.Run]) -> pd.DataFrame:
    """The predictions table of every row that is val of some member, ascending: the mean over those members.

    Val and train of a member share no patient, so none of them was trained on the row. Raises `UserError` if a member has no
    predictions of its val, or if two have different truth for a row."""
    frames = [member.predictions("val") for member in members if (member.plan["part"] == "val").any()]
    labels = members[0].info["labels"]
    truth, prob = ([f"{kind}/{label}" for label in labels] for kind in ("true", "prob"))
    if not frames:
        return pd.DataFrame(columns=[*LINKS, *truth, *prob])
    rows = pd.concat(frames, ignore_index=True)
    by_row = rows.groupby("row", sort=True)
    if (by_row[truth].nunique(dropna=False) > 1).any(axis=None):
        raise UserError(
            "members have different truth for the same val rows: their stores or their label policies have changed"
        )
    first = rows.drop_duplicates("row").set_index("row")[[*LINKS[1:], *truth]]
    return by_row[prob].mean().astype(np.float32).join(first).reset_index()[[*LINKS, *truth, *prob]]


def combined_plan(members: Sequence[runs.Run], val: pd.DataFrame) -> pd.DataFrame:
    """`row, part, drawn` of the ensemble; `val` is its `out_of_fold` table. `drawn` is 1: members may oversample a row differently."""
    plans = [member.plan for member in members]
    trained = np.unique(np.concatenate([p.loc[p["part"] == "train", "row"].to_numpy(np.int64) for p in plans]))
    parts = {
        "train": trained,
        "val": val["row"].to_numpy(np.int64),
        "test": np.sort(plans[0].loc[plans[0]["part"] == "test", "row"].to_numpy(np.int64)),
    }
    return pd.concat(
        [pd.DataFrame({"row": rows, "part": part, "drawn": np.int64(1)}) for part, rows in parts.items()],
        ignore_index=True,
    )


def _check(members: Sequence[runs.Run]) -> None:
    if len(members) < 2:
        raise UserError("an ensemble needs two runs or more")
    if len({member.path for member in members}) < len(members):
        raise UserError("a run is given twice; give each member of an ensemble once")
    first = members[0]
    for member in members:
        if member.info.get("members"):
            raise UserError(f"{member.path.name} is an ensemble itself; give its members instead")
        member.check_trained()
        own, common = _shared(member), _shared(first)
        for what, mine in own.items():
            if mine != common[what]:
                shown = f" ({mine} and {common[what]})" if len(str(mine) + str(common[what])) < 200 else ""
                raise UserError(
                    f"{member.path.name} and {first.path.name} cannot be one ensemble: "
                    f"their {what} differ{'' if what.endswith('s') else 's'}{shown}"
                )


def _shared(run: runs.Run) -> dict[str, Any]:
    """What all members must have in common, by its name in the error message."""
    data, plan = run.config.data, run.plan
    policy = {"data.eval_uncertain": data.eval_uncertain, "data.blank": data.blank}
    test = sorted(plan.loc[plan["part"] == "test", "row"].tolist())
    info = run.info
    return {
        "store": info["store"]["fingerprint"],
        "labels": info["labels"],
        "task": info["task"],
        "label policy of evaluation": policy,
        "test rows": test,
    }


def _warnings(members: Sequence[runs.Run], plan: pd.DataFrame) -> list[str]:
    """Warnings about the ensemble itself, then those that all members have in common."""
    train, val = (set(plan.loc[plan["part"] == part, "row"]) for part in ("train", "val"))
    out = [f"an ensemble: the mean of the probabilities of {', '.join(member.path.name for member in members)}"]
    if both := len(train & val):
        out.append(
            f"{both:,} of the {len(val):,} val rows were trained on by some members: a val row is predicted only by the members that "
            "had it in val, so thresholds and calibration come from fewer members than the results on test"
        )
    first, *others = [member.info.get("warnings", []) for member in members]
    return [*out, *(line for line in first if all(line in other for other in others))]
