"""External validation: evaluate a run on another store, with matched labels and without images that the training used."""
# N rows, L labels

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray import config as cfg
from cxr_ray import models, runs
from cxr_ray.data import filters, leakage
from cxr_ray.data import store as stores
from cxr_ray.errors import UserError, listed
from cxr_ray.evaluation.prediction_table import EvaluationSettings, rule_of
from cxr_ray.metrics import operating_points
from cxr_ray.report import index_page, run_page
from cxr_ray.runs import evaluation_files
from cxr_ray.storage.atomic import write_atomic
from cxr_ray.workflows import evaluate as evaluating
from cxr_ray.workflows import shared_classes
from cxr_ray.workflows.alignment import align, blank_of, derivations, mapping_hint, stored_labels, truth_of, used_labels
from cxr_ray.workflows.evaluated_model import EvaluatedModel
from cxr_ray.workflows.evaluation_request import EvaluationRequest
from cxr_ray.workflows.results import Evaluation

SAME_IMAGE_BITS = 2
"""Number of the 64 bits of a perceptual hash in which copies of an image may differ. 658 X-rays saved again as JPEG differed in 0
or 2; different images in 4 or more."""


def evaluate(path: str | Path, request: EvaluationRequest, *, log: Callable[[str], None] = print) -> Evaluation:
    """Evaluate the run in the folder `path` on every row of the store `request.data` that passes the store's filters.

    Labels are matched by name, or by the request's mapping (model label to data label); unmatched ones are logged. Preprocessing is
    that of the model. Rows that the training used (see `used_in_training`) are left out. Thresholds are the run's, chosen on its own
    val. Writes `external/NAME/` in the run. Raises `UserError` if no label matches or no row remains."""
    assert request.data is not None, "evaluate.evaluate evaluates the run's own store"
    epoch, by = request.epoch, request.by
    run = evaluating.load_trained(path, epoch=epoch)
    config, info = evaluating.with_report_settings(run, request.report), run.info
    store = stores.open(os.fspath(request.data), verify="manifest", cache=config.data.cache)
    rule = rule_of(run, request.thresholds, info["labels"])
    operating_points.parse(rule, info["labels"], task=info["task"])
    own = stores.open(info["store"]["path"], verify="manifest", cache=config.data.cache)
    chosen = _choose(run, own, store, request.mapping, config.data)
    for line in chosen.notes:
        log(line)
    rows = chosen.rows
    if not len(rows):
        raise UserError(f"no row of {store.origin} is left to evaluate {run.path.name} on: {'; '.join(chosen.notes)}")

    log(f"evaluating {len(rows):,} rows of {store.name}")
    model = EvaluatedModel(run, runs.plan_of(run, own), own, epoch)
    table = _predictions(model, store, rows, chosen.truth_NL)
    plan = model.plan
    val = logged = model.predictions("val") if len(plan.rows["val"]) else None
    if info["task"] == "multiclass":
        table = shared_classes.restrict(table, info["labels"], chosen.labels)
        val = None if val is None else shared_classes.restrict(val, info["labels"], chosen.labels)
        plan = shared_classes.restrict_plan(plan, chosen.labels)
    evaluation_data = evaluating.EvaluationData(
        plan,
        table,
        val,
        records=store.index.set_index("row", drop=False),
        train_records=own.index.set_index("row", drop=False),
        unused_labels=[k for k in evaluating.unused_labels(store, plan) if k in own.labels],
    )
    settings = EvaluationSettings.from_report(config.report, rule, seed=config.seed)
    results, table = evaluating.compute_results(evaluation_data, settings, by=by, combine=request.combine)
    results = {"part": store.name, **results, **evaluating.about_model(model, logged, log)}
    results["blank"] = {
        "train": own.info.blank_policy(config.data.blank),
        "here": blank_of(store, config.data),
    }
    results["external"] = {
        "store": store.name,
        "fingerprint": store.fingerprint,
        "source": store.manifest.source,
        "notes": [*store.info.notes, *chosen.notes],
        "alignment": chosen.alignment,
        "unmatched": chosen.unmatched,
    }
    files = evaluation_files.of_external(run, store.name, store.fingerprint, by=by, epoch=epoch)
    files.page.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(files.results, json.dumps(results, indent=1))
    images = store.pictures if config.report.images and by == "image" else None
    run_page.write(run, store.name, evaluation=results, predictions=table, path=files.page, images=images)
    index_page.write(run)
    return Evaluation(run, store.name, results, files.page, table)


@dataclass(frozen=True)
class _Chosen:
    """The rows of another store that a run is evaluated on, and how its labels are matched."""

    rows: npt.NDArray[np.int64]
    """Row numbers [N] of the store."""
    truth_NL: npt.NDArray[np.float32]
    """Of all labels of the run; NaN if unknown."""
    labels: Sequence[str]
    """Of the run; of classes those that the data have too."""
    alignment: Sequence[Mapping[str, str | None]]
    """As `alignment.align` gives it."""
    unmatched: Sequence[str]
    """Labels of the data that the run does not predict."""
    notes: Sequence[str]
    """What was matched, left out and found."""


def _choose(
    run: runs.Run, own: stores.Store, store: stores.Store, mapping: Mapping[str, str], data: cfg.Data
) -> _Chosen:
    """The rows of `store` that the training did not use, with their truth. Raises `UserError` if no label matches, and for images that
    the model cannot take."""
    labels, task = run.info["labels"], run.info["task"]
    derived = derivations(own.info, data)
    columns = stored_labels(store.index, store)
    if task == "multiclass":
        columns = shared_classes.with_other_class(columns, store.info, labels)
    alignment = align(labels, list(columns), mapping, derived)
    if not any(a["data"] for a in alignment):
        raise UserError(
            f"no label of the run ({listed(labels, most=40)}) is in {store.origin} ({listed(store.labels, most=40)}); "
            f"match them, for example with {mapping_hint(alignment, list(columns))}"
        )
    models.check_size(data.image_size or own.size, store.size)
    fresh, used, filtered = _fresh(run, own, store, data)
    matched = used_labels(alignment, list(columns), mapping, derived)
    unmatched = [k for k in columns if k not in matched]
    notes = _notes(alignment, unmatched, used, filtered, len(store))
    kept = shared_classes.shared(alignment, list(columns)) if task == "multiclass" else labels
    is_fresh_N = store.index["row"].isin(fresh).to_numpy()
    columns = {label: values_N[is_fresh_N] for label, values_N in columns.items()}
    truth_NL = truth_of(columns, alignment, mapping, derived, data, task=task, blank=blank_of(store, data))
    if task == "multiclass":
        known_N = ~np.isnan(truth_NL).any(axis=1)
        notes += shared_classes.notes(columns, matched, labels, kept, int(known_N.sum()))
        fresh, truth_NL = fresh[known_N], truth_NL[known_N]
    return _Chosen(fresh, truth_NL, kept, alignment, unmatched, notes)


def _fresh(
    run: runs.Run, own: stores.Store, store: stores.Store, data: cfg.Data
) -> tuple[npt.NDArray[np.int64], dict[str, npt.NDArray[np.bool_]], int]:
    """(rows, used, filtered): the row numbers of `store` that pass its filters and that the training did not use; which of those that
    pass it used, by reason; how many pass."""
    dropped = filters.dropping_filter(store.index, store.info.filters if data.filters == "default" else ())
    filtered = store.index[(dropped == "").to_numpy()]
    plan = run.plan
    train_or_val = own.index[own.index["row"].isin(plan.loc[plan["part"] != "test", "row"])]
    same_source = store.manifest.source == own.manifest.source
    used = used_in_training(filtered, train_or_val, same_source=same_source)
    fresh = filtered[~np.logical_or.reduce(list(used.values()))] if len(filtered) else filtered
    return fresh["row"].to_numpy(np.int64), used, len(filtered)


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


def _notes(
    alignment: Sequence[Mapping[str, str | None]],
    spare: Sequence[str],
    used: Mapping[str, npt.NDArray[np.bool_]],
    filtered: int,
    rows: int,
) -> list[str]:
    """Notes on filters (`filtered` of `rows` pass them), label matching, labels of the data that the model lacks (`spare`) and rows
    that the training used."""
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


def _predictions(
    model: EvaluatedModel, store: stores.Store, rows: npt.NDArray[np.int64], truth_NL: npt.NDArray[np.float32]
) -> pd.DataFrame:
    """The predictions table of another store. Its file name has the start of the fingerprint, since stores can have equal names."""
    file = f"external/{evaluation_files.safe_name(store.name)}-{store.fingerprint[:12]}"
    labels = model.run.info["labels"]
    if (saved := model.saved(file, rows)) is not None:
        prob_NL = saved[[f"prob/{k}" for k in labels]].to_numpy()
    else:
        prob_NL = model.rows(store, rows)
    table = runs.predictions_table(store.index, rows, labels, truth_NL, prob_NL)
    model.write(file, table)
    return table
