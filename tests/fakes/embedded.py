"""A small store on disk, a lenet trained on it, and its features."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from cxr_ray import config as cfg
from cxr_ray import runs
from cxr_ray.data import store as stores
from cxr_ray.data.features import FeatureStore
from cxr_ray.inference import embedder, embedding
from tests.fakes import trainings
from tests.fakes.store import fake_store

CPU = torch.device("cpu")


class Embedded(NamedTuple):
    store: stores.Store
    run: runs.Run
    features: FeatureStore


def make(folder: Path, *, rows: int = 120, **fake: Any) -> Embedded:
    """In `folder`: the store `shards`, the run `runs/network` and the folder `features`."""
    store = stores.open(trainings.write_store(folder / "shards", fake_store(rows, **fake)))
    run = trainings.fit(trainings.config(folder / "runs", name="network"), store)
    return Embedded(store, run, embedding.embed(embedder.saved_model(run), store, folder / "features", device=CPU))


def head(made: Embedded, name: str = "head", **sections: Any) -> cfg.Config:
    """The config of a head on the features, for `trainings.fit`."""
    base = {
        "name": name,
        "data": {"features": str(made.features.path)},
        "model": {"name": "linear"},
        "augment": {"probability": 0},
    }
    return trainings.config(made.run.path.parent, **cfg.merge(base, sections))
