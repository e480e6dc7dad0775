"""External validation: evaluate a run on another store, with matched labels and without images that the training used."""
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
from cxr_ray.data import filters, leakage
from cxr_ray.data import store as stores
from cxr_ray.errors import UserError, unknown
from cxr_ray.evaluation.prediction_table import EvaluationSettings, rule_of
from cxr_ray.labels import apply_policy, label_column
from cxr_ray.metrics import operating_points, studies
from cxr_ray.report import run_page
from cxr_ray.storage.atomic import write_atomic
from cxr_ray.workflows import evaluate as evaluating
from cxr_ray.workflows.results import Evaluation

SAME_IMAGE_BITS = 2
"""Number of the 64 bits of a perceptual hash in which copies of an image may differ. 658 X-rays saved again as JPEG differed in 0
or 2; different images in 4 or more."""


def evaluate(
    path: str | Path,
    data: str | Path,
    *,
    mapping: Mapping[str, str] | None = None,
    thresholds: operating_points.Rule | None = None,
    by: evaluating.By = "image",
    combine: studies.Method = "max",
    report: Mapping[str, Any] | None = None,
    log: Callable[[str], None] = print,
) -> Evaluation:
    """Evaluate the run in the folder `path` on every row of the store `data` that passes the store's filters.

    Labels are matched by name, or by `mapping` (model label to data label); unmatched ones are logged. Preprocessing is that of the
    model; `report` is as in `evaluate.evaluate`. Rows that the training used (see `used_in_training`) are left out. Thresholds are the
    run's, chosen on its own val. Writes `external/NAME/` in the run. Raises `UserError` if no label matches or no row remains."""
    run = evaluating.load_trained(path)
    config, info = evaluating.with_report_settings(run, report), run.info
    store = stores.open(data, verify="manifest", cache=config.data.cache)
    rule = rule_of(run, thresholds, info["labels"])
    operating_points.parse(rule, info["labels"], task=info["task"])
    alignment = align(info["labels"], store.labels, mapping or {})
    if not any(a["data"] for a in alignment):
        raise UserError(
            f"no label of the run ({', '.join(info['labels'])}) is in {store.origin} ({', '.join(store.labels)}); "
            "match them, for example with --mapping 'Edema=Pulmonary edema'"
        )
    own = stores.open(info["store"]["path"], verify="manifest", cache=config.data.cache)
    models.check_size(config.data.image_size or own.size, store.size)
    dropped = filters.dropping_filter(store.index, store.info.filters if config.data.filters == "default" else ())
    filtered = store.index[(dropped == "").to_numpy()]
    plan_table = run.plan
    train_or_val = own.index[own.index["row"].isin(plan_table.loc[plan_table["part"] != "test", "row"])]
    same_source = store.manifest.source == own.manifest.source
    used = used_in_training(filtered, train_or_val, same_source=same_source)
    fresh = filtered[~np.logical_or.reduce(list(used.values()))] if len(filtered) else filtered
    notes = _notes(alignment, store, used, len(filtered), len(store))
    for line in notes:
        log(line)
    if not len(fresh):
        raise UserError(f"no row of {store.origin} is left to evaluate {run.path.name} on: {'; '.join(notes)}")

    truth_NL = _truth(fresh, alignment, config, info["task"])
    log(f"evaluating {len(fresh):,} rows of {store.name}")
    rows = fresh["row"].to_numpy(np.int64)
    name = re.sub(r"[^\w.+-]+", "_", store.name)
    table = _predictions(run, store, rows, truth_NL, f"external/{name}")
    plan = runs.plan_of(run, own)
    val = evaluating.predictions_of(run, own, plan, "val") if len(plan.rows["val"]) else None
    evaluation_data = evaluating.EvaluationData(
        plan,
        table,
        val,
        records=store.index.set_index("row", drop=False),
        train_records=own.index.set_index("row", drop=False),
        unused_labels=[k for k in evaluating.unused_labels(store, plan) if k in own.labels],
    )
    settings = EvaluationSettings.from_report(config.report, rule, seed=config.seed)
    results, table = evaluating.compute_results(evaluation_data, settings, by=by, combine=combine)
    results = {"part": store.name, **results}
    results["external"] = {
        "store": store.name,
        "fingerprint": store.fingerprint,
        "source": store.manifest.source,
        "notes": [*store.info.notes, *notes],
        "alignment": alignment,
        "unmatched": [k for k in store.labels if k not in {a["data"] for a in alignment}],
    }
    folder = run.path / "external" / (name if by == "image" else f"{name}-by-study")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "evaluation.json", json.dumps(results, indent=1))
    images = store.pictures if config.report.images and by == "image" else None
    page = folder / "report.html"
    run_page.write(run, store.name, evaluation=results, predictions=table, path=page, images=images)
    return Evaluation(run, store.name, results, page, table)


def align(ours: Sequence[str], theirs: Sequence[str], mapping: Mapping[str, str]) -> list[dict[str, str | None]]:
    """The data's label for each label of the model: `{"label", "data" (None if the data lack it), "how"}`.

    Matched by `mapping`, else by equal name, else by equal letters (ignoring case, spaces, `_` and `-`). Raises `UserError` if the
    mapping has an unknown label."""
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


def used_in_training(
    other: pd.DataFrame, train_or_val: pd.DataFrame, *, same_source: bool
) -> dict[str, npt.NDArray[np.bool_]]:
    """Which rows [N] of another store's index the training used, by reason: the same file, the same pixels, nearly the same image
    (`SAME_IMAGE_BITS`), and, for stores of one source, the same patient. `train_or_val` is the index of the used rows."""

    def same(column: str) -> npt.NDArray[np.bool_]:
        known = set(train_or_val[column].dropna()) - {""}  # a store of images in memory has no file hashes
        return np.asarray(other[column].isin(known), dtype=bool)

    out = {
        "the same file": same("file_sha256"),
        "the same pixels": same("pixels_sha256"),
        "a near copy": _near(other["phash"].to_numpy(np.uint64), train_or_val["phash"].to_numpy(np.uint64)),
    }
    if same_source:
        out["a patient of the training"] = same("patient")
    return out


def _near(hash_N: npt.NDArray[np.uint64], known_M: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Which hashes differ from a known one in at most `SAME_IMAGE_BITS` bits."""
    near_N = np.zeros(len(hash_N), dtype=bool)
    near_N[leakage.similar_hashes(hash_N, np.unique(known_M), SAME_IMAGE_BITS)[0]] = True
    return near_N


def _letters(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()


def _notes(
    alignment: Sequence[Mapping[str, str | None]],
    store: stores.Store,
    used: Mapping[str, npt.NDArray[np.bool_]],
    filtered: int,
    rows: int,
) -> list[str]:
    """Notes on filters (`filtered` of `rows` pass them), label matching and rows that the training used."""
    notes = []
    if filtered < rows:
        notes.append(f"the filters of the source drop {rows - filtered:,} of {rows:,} rows")
    matched = [a for a in alignment if a["data"] is not None]
    notes.append(f"{len(matched)} of {len(alignment)} labels are matched")
    notes += [
        f"{a['label']} is evaluated on {a['data']!r} of the data ({a['how']})"
        for a in matched
        if a["label"] != a["data"]
    ]
    missing = [str(a["label"]) for a in alignment if a["data"] is None]
    if missing:
        notes.append(f"the data lack {', '.join(missing)}: not evaluated")
    spare = [k for k in store.labels if k not in {a["data"] for a in alignment}]
    if spare:
        notes.append(f"the model does not predict {', '.join(spare)} of the data")
    counted = [f"{int(rows_N.sum()):,} {reason}" for reason, rows_N in used.items() if rows_N.any()]
    total = int(np.logical_or.reduce(list(used.values())).sum()) if filtered else 0
    if total:
        notes.append(f"LEAK: {total:,} rows were used in train or val ({', '.join(counted)}) and are left out")
    else:
        notes.append(
            "no row was used in train or val, by file, pixels, similar image"
            + (" or patient" if len(used) == 4 else "")
        )
    if len(used) < 4:
        notes.append(
            "the data are of another source with its own patient numbers: other images of a patient of the training cannot be found"
        )
    return notes


def _truth(
    index: pd.DataFrame, alignment: Sequence[Mapping[str, str | None]], config: cfg.Config, task: str
) -> npt.NDArray[np.float32]:
    """Truth [N, L] by the run's label policy of evaluation; NaN if the data lack the label.

    For classes, a row is known only if exactly one of the matched labels is positive."""
    labels = [str(a["label"]) for a in alignment]
    raw_NL = np.full((len(index), len(labels)), np.nan, dtype=np.float32)
    for i, a in enumerate(alignment):
        if a["data"] is not None:
            raw_NL[:, i] = index[label_column(a["data"], index.columns)].to_numpy(np.float32)
    out_NL = apply_policy(raw_NL, labels, config.data.eval_uncertain, config.data.blank)
    missing_L = np.array([a["data"] is None for a in alignment])
    if task == "multiclass":
        out_NL[:, missing_L] = 0.0
        out_NL[(out_NL == 1).sum(axis=1) != 1] = np.nan
    else:
        out_NL[:, missing_L] = np.nan
    return out_NL


def _predictions(
    run: runs.Run, store: stores.Store, rows: npt.NDArray[np.int64], truth_NL: npt.NDArray[np.float32], name: str
) -> pd.DataFrame:
    """The predictions table of another store. Its file name has the start of the fingerprint, since stores can have equal names."""
    file = f"{name}-{store.fingerprint[:12]}"
    labels = run.info["labels"]
    if (saved := evaluating.saved_predictions(run, file, rows)) is not None:
        prob_NL = saved[[f"prob/{k}" for k in labels]].to_numpy()
    else:
        prob_NL = evaluating.predict_rows(run, store, rows)
    table = runs.predictions_table(store.index, rows, labels, truth_NL, prob_NL)
    run.write_predictions(file, table)
    return table
