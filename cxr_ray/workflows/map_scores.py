"""Score the maps of a run against annotations: every method, next to the location prior of the training part, with a verdict."""
# N cases: an annotated image and a label. R rows of a part, L labels, H x W pixels of the network's input

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray import runs
from cxr_ray.data.plan import PARTS, Plan
from cxr_ray.data.store import Store
from cxr_ray.datasets.annotations import Annotations, marked_masks, of_store, read_annotations
from cxr_ray.errors import UserError, unknown
from cxr_ray.explanation import localisation, location_prior, trust
from cxr_ray.explanation import map_scores as scoring
from cxr_ray.explanation.cases import annotated_cases
from cxr_ray.explanation.explainer import Explainer
from cxr_ray.explanation.map_scores import Cases
from cxr_ray.inference.predictor import Predictor
from cxr_ray.report.explain_page import Scores

STORED = "stored"
"""Instead of a file: the boxes that the ingest stored."""


@dataclass(frozen=True)
class MapScores:
    """The scores of maps on the annotated images of a part."""

    table: pd.DataFrame
    """A row per method, label and score, with intervals and differences to the location prior (`map_scores.COLUMNS`)."""
    verdict: str
    """One sentence whether to trust the maps of the method with the highest hit rate on val, or on the part itself if val cannot tell."""
    notes: tuple[str, ...]

    @property
    def wide(self) -> pd.DataFrame:
        """A row per method, a column per score."""
        return scoring.wide(self.table)

    @property
    def for_page(self) -> Scores:
        """What the page shows."""
        return self.verdict, self.wide, self.notes


def score(
    explainer: Explainer,
    store: Store,
    annotations: str | os.PathLike[str],
    *,
    split: str | None = None,
    batch_size: int = 16,
) -> MapScores:
    """Score the explainer's methods on the annotated images of a part (default: test if it has rows, else val).

    `annotations`: a file that `datasets.annotations` reads, or `stored` for the boxes of the store. Thresholds are tuned on val if the
    scored part is another one and val has annotations. Raises `UserError` if the part or the training part has no annotated image."""
    predictor = explainer.predictor
    if predictor.run is None:
        raise UserError("scores need the parts of a run: give the folder of a run")
    marks = _annotations(store, annotations)
    plan = runs.plan_of(predictor.run, store)
    if split is not None and split not in PARTS:
        raise unknown("split", split, PARTS)
    part = split or ("test" if len(plan.rows["test"]) else "val")
    masks = marked_masks(marks, store, size=predictor.image_size, labels=predictor.labels)
    cases = _cases(predictor, store, plan, part, masks, batch_size)
    prior = _prior(plan, masks)
    no_prior = sorted(set(cases.labels.tolist()) - set(prior))
    if no_prior:
        raise UserError(
            f"{no_prior[0]} has annotations in {part} and none in train, so there is no location prior to compare with: annotate "
            "training images too, or score the part train of a run that was trained on others"
        )
    maps = _maps(explainer, store, cases, batch_size)
    tunings, val_hits = None, dict[str, float]()
    notes = [f"{len(cases)} annotations of {part}; the location prior is from the training part."]
    if part != "val":
        try:
            on_val = _cases(predictor, store, plan, "val", masks, batch_size)
            usable = all(label in prior for label in on_val.labels)
            if usable and set(cases.labels.tolist()) <= set(on_val.labels.tolist()):
                val_maps = {**_maps(explainer, store, on_val, batch_size)}
                val_maps[scoring.PRIOR] = location_prior.prior_maps(prior, on_val.labels.tolist())
                tunings = {name: scoring.tune(each, on_val) for name, each in val_maps.items()}
                val_hits = {m: float(localisation.hits(val_maps[m], on_val.masks).mean()) for m in explainer.methods}
                notes.append("Thresholds of the tuned IoU are from val.")
        except UserError:
            pass
    if tunings is None:
        notes.append("No tuned IoU: val has too few annotations, or is the scored part.")
    table = scoring.score_table(maps, location_prior.prior_maps(prior, cases.labels.tolist()), cases, tunings=tunings)
    hit = table[(table["score"] == "hit") & (table["label"] == scoring.ALL) & (table["method"] != scoring.PRIOR)]
    hits = val_hits or dict(zip(hit["method"], hit["value"], strict=True))
    if len(hits) > 1:
        chosen_on = "val" if val_hits else f"{part} itself, so its scores are optimistic"
        notes.append(f"The method of the verdict has the highest hit rate on {chosen_on}.")
    return MapScores(table, trust.trust(table, max(hits, key=hits.__getitem__)), tuple(notes))


def _annotations(store: Store, given: str | os.PathLike[str]) -> Annotations:
    if os.fspath(given) != STORED:
        return read_annotations(os.fspath(given))
    found = of_store(store)
    if found is None:
        raise UserError(f"{store.origin} has no stored boxes: give their file")
    return found


def _prior(plan: Plan, masks: Any) -> dict[str, npt.NDArray[np.float64]]:
    train = set(plan.rows["train"].tolist())
    found = [(label, mask) for (row, label), mask in masks.items() if row in train and label in plan.labels]
    if not found:
        raise UserError(
            "no image of the training part has an annotation, so there is no location prior to compare with"
        )
    return location_prior.location_prior(np.stack([mask for _, mask in found]), [label for label, _ in found])


def _cases(predictor: Predictor, store: Store, plan: Plan, part: str, masks: Any, batch_size: int) -> Cases:
    """The annotated cases of a part. Negatives are counted among the annotated images' own labels and all rows of the part."""
    rows_R = plan.rows[part]
    patients = store.index.set_index("row")["patient"].loc[rows_R.tolist()].tolist()
    probability_RL = predictor.rows(store, rows_R, batch_size=batch_size)
    return annotated_cases(masks, rows_R, plan.labels, plan.truth[part], probability_RL, patients)


def _maps(explainer: Explainer, store: Store, cases: Cases, batch_size: int) -> dict[str, npt.NDArray[np.float64]]:
    """Method to the positive maps [N, H, W] of the cases, each for its own label."""
    found: dict[str, list[npt.NDArray[Any]]] = {method: [] for method in explainer.methods}
    labels: Sequence[str] = cases.labels.tolist()
    for start in range(0, len(cases), batch_size):
        at = slice(start, start + batch_size)
        batch = explainer(cases.rows[at], store.images(cases.rows[at]), labels[at])
        for method in explainer.methods:
            found[method].append(batch.maps[method])
    return {method: localisation.positive(np.concatenate(each)) for method, each in found.items()}
