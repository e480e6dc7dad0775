"""Audit a run for shortcuts: mean maps and shares of relevance by label, source, view and labels not trained on."""
# N images, H x W pixels of the network's input

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from cxr_ray.data.store import Store
from cxr_ray.datasets.annotations import marked_masks, read_annotations
from cxr_ray.errors import UserError
from cxr_ray.explanation import audit as audits
from cxr_ray.explanation.audit import Audit, Places, Shares
from cxr_ray.explanation.explainer import ALL, Explainer
from cxr_ray.explanation.image_selection import Selection, select
from cxr_ray.explanation.methods import attribute
from cxr_ray.inference.predictor import Predictor
from cxr_ray.labels import POSITIVE, label_values
from cxr_ray.plotting import plots
from cxr_ray.report import explain_page
from cxr_ray.report.render import file_name
from cxr_ray.runtime.progress import Progress
from cxr_ray.storage.atomic import replace_folder
from cxr_ray.workflows.result_folders import write_settings

LIMIT = 200
"""Images of the part that are audited, evenly spaced over its rows, unless another number is asked for."""
LUNG_LABELS = ("Lungs",)
FEATURES = ("source", "view")
CATEGORIES = 8
"""A feature with more categories gives no groups."""
PAGE, TABLE = "audit.html", "audit.csv"


def audit(  # noqa: PLR0913 - the options of the command, all of them by keyword
    predictor: Predictor,
    images: str | os.PathLike[str] | Store | None = None,
    *,
    methods: Sequence[str] = ("saliency",),
    target: str | Sequence[str] = ALL,
    split: str | None = None,
    limit: int | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    masks: str | os.PathLike[str] | None = None,
    batch_size: int = 16,
) -> Audit:
    """Mean maps and shares of relevance of the run's part (or another store) by group, with what stands out.

    Every image is explained for every label of `target`, by the trained network and by the same one with random weights. Groups: the
    images that are positive for the explained label; over all explained labels those of each source, each view, and those positive for
    a label of the store that the model was not trained on. `masks`: file or folder of lung masks (COVID-19 Radiography's folders,
    CheXmask's CSV), for the share outside the lungs of the images that have one. Raises `UserError` as `explain` does, and for an ensemble or pictures."""
    if len(predictor.members) > 1:
        raise UserError("an ensemble has no weights of its own to audit: audit each of its members")
    explainer = Explainer(predictor, methods, target=target, options=options)
    chosen = _spread(select(predictor, images, split=split, limit=10**9), LIMIT if limit is None else limit)
    if chosen.store is None:
        raise UserError("an audit compares groups of labelled images: give a run or a store, not pictures")
    labels = list(predictor.labels) if target == ALL else [target] if isinstance(target, str) else list(target)
    records = chosen.store.index.set_index("row").loc[chosen.rows]
    positive = label_values(records, chosen.store.labels) == POSITIVE
    own = {label: {f"{label} positive": positive[label].to_numpy()} for label in labels if label in positive}
    unused = {f"{k} (not trained on)": positive[k].to_numpy() for k in positive if k not in predictor.labels}
    features = _feature_groups(records, unused)
    places = Places.of(*predictor.image_size)
    collected = {(method, label): Shares(places) for method in explainer.methods for label in labels}
    lungs = None if masks is None else _lungs(masks, chosen, predictor.image_size)
    random = audits.randomised(predictor.model.backbone)
    done = 0
    with Progress("auditing") as progress:
        for rows_M, grays_MHW in chosen.batches(batch_size):
            here = slice(done, done + len(rows_M))
            with torch.no_grad():
                inputs = predictor.model.preprocess(predictor.model_images(grays_MHW))
            for label in labels:
                target_M = torch.full((len(rows_M),), predictor.labels.index(label), device=inputs.device)
                inside = {name: of[here] for name, of in {**own.get(label, {}), **features}.items()}
                for method in explainer.methods:
                    given = explainer.options[method]
                    pair = [
                        attribute(method, network, inputs, target_M, **given).maps.detach().float().cpu().numpy()
                        for network in (predictor.model.backbone, random)
                    ]
                    collected[method, label].add(pair[0], pair[1], inside, None if lungs is None else lungs[here])
            done += len(rows_M)
            progress(done, len(chosen.rows))
    name = predictor.run.path.name if predictor.run is not None else predictor.model.spec.name
    return _result(name, collected, own, features, records["patient"].to_numpy())


def write(found: Audit, folder: Path, settings: Mapping[str, Any] | None = None) -> Path:
    """Write audit.csv, a figure per method, with `settings` settings.json, and audit.html into `folder`; returns the page's path."""
    folder = folder.absolute()
    with replace_folder(folder, marker=PAGE) as temporary:
        found.table.to_csv(temporary / TABLE, index=False)
        figures = {f"mean_maps-{method}": found.figure(method) for method in found.maps}
        for name, figure in figures.items():
            (temporary / file_name(name)).write_bytes(plots.png(figure))
        if settings is not None:
            write_settings(temporary, settings)
        explain_page.write_audit(found, figures, temporary / PAGE)
    return folder / PAGE


def _lungs(masks: str | os.PathLike[str], chosen: Selection, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The lungs of each chosen image [N, H, W], empty where there is no mask."""
    assert chosen.store is not None
    found = marked_masks(
        read_annotations(os.fspath(masks)), chosen.store, size=size, labels=LUNG_LABELS, rows=chosen.rows.tolist()
    )
    out = np.zeros((len(chosen.rows), *size), dtype=bool)
    at = {row: n for n, row in enumerate(chosen.rows.tolist())}
    for (row, _), mask in found.items():
        out[at[row]] |= mask
    if not out.any():
        raise UserError(
            f"{os.fspath(masks)} has no lung mask of the audited images; remove --masks, or give another part"
        )
    return out


def _spread(chosen: Selection, limit: int) -> Selection:
    """At most `limit` images, evenly spaced: the first rows of a store often are of one class."""
    if len(chosen.rows) <= limit:
        return chosen
    rows = chosen.rows[np.linspace(0, len(chosen.rows) - 1, limit).astype(int)]
    store = chosen.store
    assert store is not None

    def batches(size: int) -> Any:
        return ((rows[at : at + size], store.images(rows[at : at + size])) for at in range(0, len(rows), size))

    return Selection(chosen.name, rows, batches, store)


def _feature_groups(
    records: pd.DataFrame, unused: Mapping[str, npt.NDArray[np.bool_]]
) -> dict[str, npt.NDArray[np.bool_]]:
    """Images [N] of each source and view, if there are several, and those positive for labels that the model was not trained on."""
    out: dict[str, npt.NDArray[np.bool_]] = {}
    for feature in FEATURES:
        if feature in records and 1 < records[feature].nunique() <= CATEGORIES:
            for category in sorted(records[feature].dropna().unique()):
                out[f"{feature} {category}"] = (records[feature] == category).to_numpy(bool)
    return {name: inside for name, inside in (out | dict(unused)).items() if inside.sum() >= audits.FEWEST}


def _result(
    name: str,
    collected: Mapping[tuple[str, str], Shares],
    own: Mapping[str, Mapping[str, npt.NDArray[np.bool_]]],
    features: Mapping[str, npt.NDArray[np.bool_]],
    patient_N: npt.NDArray[Any],
) -> Audit:
    """The table and the mean maps of what was `collected` by method and label: the groups of each label (`own`) for itself, `features`
    over all explained labels."""
    rows: list[dict[str, Any]] = []
    maps: dict[str, dict[str, npt.NDArray[np.float64]]] = {}
    for (method, label), shares in collected.items():
        rows += audits.compare(shares, own.get(label, {}), patient_N, method=method, explained=label)
        for group in own.get(label, {}):
            if shares.counts.get(group):
                maps.setdefault(method, {})[group] = shares.sums[group] / shares.counts[group]
    for method in dict.fromkeys(method for method, _ in collected):
        each = [shares for (of, _), shares in collected.items() if of == method]
        over = audits.mean_of(each)
        rows += audits.compare(over, features, patient_N, method=method, explained="all explained labels")
        for group in features:
            total = sum(shares.counts[group] for shares in each)
            maps.setdefault(method, {})[group] = np.sum([shares.sums[group] for shares in each], axis=0) / total
    return Audit(name, pd.DataFrame(rows, columns=list(audits.COLUMNS)), maps)
