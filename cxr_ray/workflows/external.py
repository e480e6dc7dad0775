"""A run judged on data that it was not trained from: labels matched, pictures it has seen left out, then judged as ever."""
# N rows, L labels

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray import config as cfg
from cxr_ray import models, runs
from cxr_ray.data import leakage
from cxr_ray.data import plan as plans
from cxr_ray.data import store as stores
from cxr_ray.errors import UserError, unknown
from cxr_ray.evaluation.results import rule_of
from cxr_ray.inference import predictor
from cxr_ray.labels import apply_policy
from cxr_ray.metrics import operating_points, studies
from cxr_ray.report import run_page
from cxr_ray.storage.atomic import write_atomic
from cxr_ray.workflows import evaluate as evaluating

SAME_PICTURE_BITS = 2
"""Bits of the 64 of a perceptual hash in which copies of a picture may differ. 658 X-rays saved again as JPEG differed in 0
or 2; pictures that are not copies in 4 or more."""


def evaluate(
    path: str | Path,
    data: str | Path,
    *,
    mapping: Mapping[str, str] | None = None,
    thresholds: operating_points.Rule | None = None,
    by: evaluating.By = "image",
    combine: studies.How = "max",
    report: Mapping[str, Any] | None = None,
    log: Callable[[str], None] = print,
) -> evaluating.Evaluation:
    """Judge the run in the folder `path` on every row of the store `data` that its cleaning keeps.

    Labels are matched by name, or by `mapping` (the model's to the data's); what either lacks is said. Preprocessing is the
    model's; `report` as in `evaluate.evaluate`. Rows that the run has seen (see `seen`) are left out. Thresholds are those of the run, chosen on its own val.
    Writes `external/NAME/` in the run. Raises `UserError` where no label matches or no row is left."""
    run = evaluating.trained(path)
    config, info = evaluating.settled(run, report), run.info
    store = stores.open(data, verify="manifest", cache=config.data.cache)
    rule = rule_of(run, thresholds, info["labels"])
    operating_points.parse(rule, info["labels"], task=info["task"])
    alignment = align(info["labels"], store.labels, mapping or {})
    if not any(a["data"] for a in alignment):
        raise UserError(
            f"no label of the run ({', '.join(info['labels'])}) is in {store.origin} ({', '.join(store.labels)}); "
            "say which is which, such as --mapping 'Edema=Pulmonary edema'"
        )
    own = _own_store(run)
    models.check_size(config.data.image_size or own.size, store.size)
    dropped = plans.drop_by(store.index, store.filters if config.data.filters == "default" else ())
    kept = store.index[(dropped == "").to_numpy()]
    known = run.plan.loc[run.plan["part"] != "test", "row"]
    leaking = seen(
        kept, own.index[own.index["row"].isin(known)], same_source=store.manifest.source == own.manifest.source
    )
    fresh = kept[~np.logical_or.reduce(list(leaking.values()))] if len(kept) else kept
    notes = _notes(alignment, store, leaking, len(kept), len(store))
    for line in notes:
        log(line)
    if not len(fresh):
        raise UserError(f"no row of {store.origin} is left to judge {run.path.name} on: {'; '.join(notes)}")

    truth_NL = _truth(fresh, alignment, config, info["task"])
    log(f"judging {len(fresh):,} rows of {store.name}")
    rows = fresh["row"].to_numpy(np.int64)
    name = re.sub(r"[^\w.+-]+", "_", store.name)
    table = _predictions(run, store, rows, truth_NL, f"external/{name}")
    plan = runs.plan_of(run, own)
    val = evaluating.predictions_of(run, own, plan, "val") if len(plan.rows["val"]) else None
    found, table = evaluating.judged(
        config, plan, table, val, {}, rule,
        records=store.index.set_index("row", drop=False), train_records=own.index.set_index("row", drop=False),
        unused=[k for k in evaluating.unused_labels(store, plan) if k in own.labels], by=by, combine=combine,
    )  # fmt: skip
    found = {"part": store.name, **found}
    found["external"] = {
        "store": store.name, "fingerprint": store.fingerprint, "source": store.manifest.source,
        "notes": [*store.notes, *notes], "alignment": alignment,
        "unmatched": [k for k in store.labels if k not in {a["data"] for a in alignment}],
    }  # fmt: skip
    folder = run.path / "external" / (name if by == "image" else f"{name}-by-study")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "evaluation.json", json.dumps(found, indent=1))
    images = store.pictures if config.report.images and by == "image" else None
    page = run_page.write(run, store.name, judged=found, predictions=table, path=folder / "report.html", images=images)
    return evaluating.Evaluation(run, store.name, found, page)


def align(ours: Sequence[str], theirs: Sequence[str], mapping: Mapping[str, str]) -> list[dict[str, str | None]]:
    """Of each label of the model the one of the data: `{"label", "data" (None: the data lack it), "how"}`.

    By `mapping` first, then by the same name, then by the same letters (case, spaces, `_` and `-` aside). Raises `UserError`
    for a mapping that names an unknown label."""
    for label, other in mapping.items():
        if label not in ours:
            raise unknown("label", label, ours, where=" of the model in the mapping")
        if other not in theirs:
            raise unknown("label", other, theirs, where=" of the data in the mapping")
    letters = {_letters(k): k for k in reversed(theirs)}
    out: list[dict[str, str | None]] = []
    for label in ours:
        if label in mapping:
            out.append({"label": label, "data": mapping[label], "how": "given"})
        elif label in theirs:
            out.append({"label": label, "data": label, "how": "same name"})
        elif _letters(label) in letters:
            out.append({"label": label, "data": letters[_letters(label)], "how": "same letters"})
        else:
            out.append({"label": label, "data": None, "how": "the data lack it"})
    return out


def seen(other: pd.DataFrame, trained: pd.DataFrame, *, same_source: bool) -> dict[str, npt.NDArray[np.bool_]]:
    """Which rows [N] of another store's index a training has seen, by reason: the same file, the same pixels, nearly the
    same picture (`SAME_PICTURE_BITS`), and, in stores of one source, the same patient."""

    def same(column: str) -> npt.NDArray[np.bool_]:
        known = set(trained[column].dropna()) - {""}  # a store written from pictures in memory knows no files
        return np.asarray(other[column].isin(known), dtype=bool)

    out = {
        "the same file": same("file_sha256"),
        "the same pixels": same("pixels_sha256"),
        "a copy by its looks": _near(other["phash"].to_numpy(np.uint64), trained["phash"].to_numpy(np.uint64)),
    }
    if same_source:
        out["a patient trained on"] = same("patient")
    return out


def _near(hash_N: npt.NDArray[np.uint64], known_M: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Which hashes lie within `SAME_PICTURE_BITS` of a known one."""
    found = np.zeros(len(hash_N), dtype=bool)
    found[leakage.within(hash_N, np.unique(known_M), SAME_PICTURE_BITS)[0]] = True
    return found


def _letters(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()


def _own_store(run: runs.Run) -> stores.Store:
    """The store trained on; without it there is no saying what was seen."""
    return stores.open(run.info["store"]["path"], verify="manifest", cache=run.config.data.cache)


def _notes(
    alignment: Sequence[Mapping[str, str | None]],
    store: stores.Store,
    leaking: Mapping[str, npt.NDArray[np.bool_]],
    kept: int,
    rows: int,
) -> list[str]:
    notes = []
    if kept < rows:
        notes.append(f"the source's cleaning drops {rows - kept:,} of {rows:,} rows")
    matched = [a for a in alignment if a["data"] is not None]
    notes.append(f"{len(matched)} of {len(alignment)} labels are matched")
    notes += [
        f"{a['label']} is judged by {a['data']!r} of the data ({a['how']})" for a in matched if a["label"] != a["data"]
    ]
    missing = [str(a["label"]) for a in alignment if a["data"] is None]
    if missing:
        notes.append(f"the data lack {', '.join(missing)}: not judged")
    spare = [k for k in store.labels if k not in {a["data"] for a in alignment}]
    if spare:
        notes.append(f"the model does not know {', '.join(spare)} of the data")
    counted = [f"{int(held.sum()):,} {reason}" for reason, held in leaking.items() if held.any()]
    total = int(np.logical_or.reduce(list(leaking.values())).sum()) if kept else 0
    if total:
        notes.append(f"LEAK: {total:,} rows were seen in training or in choosing ({', '.join(counted)}): left out")
    else:
        notes.append(
            "no row was seen in training, by file, pixels, looks" + (" or patient" if len(leaking) == 4 else "")
        )
    if len(leaking) < 4:
        notes.append(
            "its patients are numbered by another source: other pictures of a patient trained on would not be found"
        )
    return notes


def _truth(
    index: pd.DataFrame, alignment: Sequence[Mapping[str, str | None]], config: cfg.Config, task: str
) -> npt.NDArray[np.float32]:
    """Truth [N, L] under the run's judging policy; NaN where the data lack the label.

    A model of classes is judged where exactly one of the matched is positive; other rows are unknown."""
    labels = [str(a["label"]) for a in alignment]
    raw_NL = np.full((len(index), len(labels)), np.nan, dtype=np.float32)
    for i, a in enumerate(alignment):
        if a["data"] is not None:
            raw_NL[:, i] = index[a["data"]].to_numpy(np.float32)
    out_NL = apply_policy(raw_NL, labels, config.data.eval_uncertain, config.data.blank)
    lacking_L = np.array([a["data"] is None for a in alignment])
    if task == "multiclass":
        out_NL[:, lacking_L] = 0.0
        out_NL[(out_NL == 1).sum(axis=1) != 1] = np.nan
    else:
        out_NL[:, lacking_L] = np.nan
    return out_NL


def _predictions(
    run: runs.Run, store: stores.Store, rows: npt.NDArray[np.int64], truth_NL: npt.NDArray[np.float32], name: str
) -> pd.DataFrame:
    """Made once a store: kept with its fingerprint's first letters, so that another store of that name is not taken for it."""
    place = f"{name}-{store.fingerprint[:12]}"
    labels = run.info["labels"]
    if (held := evaluating.kept(run, place, rows)) is not None:
        prob_NL = held[[f"prob/{k}" for k in labels]].to_numpy()
    else:
        prob_NL = predictor.load(run).rows(store, rows, batch_size=run.config.train.batch_size)
    table = runs.predictions_table(store.index, rows, labels, truth_NL, prob_NL)
    run.write_predictions(place, table)
    return table
