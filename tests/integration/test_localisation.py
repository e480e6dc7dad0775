"""Maps of a model that was trained on the phantom point at its findings better than a fixed point does."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cxr_ray import config as cfg
from cxr_ray import runs
from cxr_ray.data import store_writer
from cxr_ray.data.info import DatasetInfo
from cxr_ray.data.store import Store
from cxr_ray.datasets.annotations import marked_masks, of_store
from cxr_ray.datasets.phantom.generate import FINDINGS, draw_patient
from cxr_ray.explanation import localisation, map_scores
from cxr_ray.explanation.cases import annotated_cases
from cxr_ray.explanation.location_prior import location_prior, prior_maps
from cxr_ray.explanation.map_scores import Cases
from cxr_ray.explanation.methods import attribute
from cxr_ray.explanation.passes import gray_level
from cxr_ray.explanation.randomisation import cascade
from cxr_ray.inference.loading import load_model, load_predictor
from cxr_ray.models import Classifier
from cxr_ray.on_ray.train import train

SIZE = 128
LABEL = "Lung Opacity"  # the finding of the phantom that may be anywhere in the lungs
METHODS = {"saliency": 0.06, "integrated_gradients": 0.06}
"""Methods that val chooses among, and the blur of their maps."""


def phantom_store(folder: Path, patients: int) -> Store:
    """The phantom's images, labels and boxes as a store, without files or Ray."""
    images, records, boxes = [], [], []
    for number in range(patients):
        for record, pixels, found in draw_patient(number, size=SIZE, rng=np.random.default_rng([1, number])):
            boxes += [(len(images), *box) for box in found]
            images.append(pixels)
            records.append(
                {name: float(cell) if cell else np.nan for name, cell in record.items() if name in FINDINGS}
                | {"patient": record["patient"]}
            )
    info = DatasetInfo(labels=FINDINGS, task="multilabel", default_labels=FINDINGS)
    box_table = pd.DataFrame(boxes, columns=["row", "label", "x", "y", "w", "h"])
    return store_writer.write(folder, np.stack(images), pd.DataFrame(records), info, boxes=box_table)


def cases_of(run: runs.Run, store: Store, part: str, most: int | None = None) -> Cases:
    plan = runs.plan_of(run, store)
    rows, column = plan.rows[part], plan.labels.index(LABEL)
    boxes = of_store(store)
    assert boxes is not None
    masks = {key: mask for key, mask in marked_masks(boxes, store, labels=[LABEL]).items() if mask.mean() <= 0.1}
    masks = {key: masks[key] for key in [key for key in masks if key[0] in set(rows.tolist())][:most]}
    patients = store.index.set_index("row").loc[rows, "patient"].tolist()
    probabilities = load_predictor(run, gpu=False).rows(store, rows)[:, [column]]
    return annotated_cases(masks, rows, [LABEL], plan.truth[part][:, [column]], probabilities, patients)


def maps_of(model: Classifier, network: torch.nn.Module, store: Store, cases: Cases, method: str) -> np.ndarray:
    black = gray_level(0.0, mean=model.spec.mean, deviation=model.spec.deviation)
    options = {"steps": 8, "baseline": black} if method == "integrated_gradients" else {}
    found = []
    for rows in np.array_split(cases.rows, -(-len(cases) // 32)):
        inputs = model.preprocess(torch.from_numpy(store.images(rows)))
        targets = torch.full((len(rows),), FINDINGS.index(LABEL))
        found.append(attribute(method, network, inputs, targets, **options).maps.numpy())
    return localisation.positive(np.concatenate(found), blur=METHODS[method])


@pytest.mark.timeout(3600)
@pytest.mark.long
def test_the_method_chosen_on_val_points_better_than_the_location_prior(tmp_path: Path) -> None:
    store = phantom_store(tmp_path / "store", patients=1200)
    run = train(
        cfg.validate(
            {
                "name": "small", "output": str(tmp_path),
                "data": {"shards": str(tmp_path / "store"), "split": {"test": 0.3, "val": 0.2}},
                "model": {"name": "resnet18", "weights": "none", "stem": "gray"},
                "optim": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.01, "schedule": "cosine", "warmup_epochs": 0.5},
                "train": {"epochs": 6, "batch_size": 32}, "report": {"trackers": []},
            }
        ),
        log=lambda line: None,
    )  # fmt: skip
    model = load_model(run)
    training, val, test = (
        cases_of(run, store, "train"),
        cases_of(run, store, "val", 50),
        cases_of(run, store, "test", 100),
    )
    prior = location_prior(training.masks, training.labels.tolist())
    rates = {
        name: float(localisation.hits(maps_of(model, model.backbone, store, val, name), val.masks).mean())
        for name in METHODS
    }
    method = max(rates, key=lambda name: rates[name])
    maps = maps_of(model, model.backbone, store, test, method)
    table = map_scores.score_table({method: maps}, prior_maps(prior, test.labels.tolist()), test)
    hit = table[(table["method"] == method) & (table["label"] == LABEL) & (table["score"] == "hit")].iloc[0]
    assert hit["cases"] == 100 and hit["patients"] >= 40
    assert hit["difference_low"] > 0.1, hit.to_dict()
    *_, (_, randomised) = cascade(model.backbone, stages=2)
    changed = maps_of(model, randomised, store, test, method)
    assert localisation.hits(changed, test.masks).mean() < hit["prior"]
