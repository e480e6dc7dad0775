"""A trained run for tests of evaluations; a module that needs another one has its own."""

import pytest

from cxr_ray import config as cfg
from cxr_ray import runs
from cxr_ray.on_ray import train as on_ray
from tests.fakes.study_store import write_store


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    """A small model of two epochs on a store with patients and studies."""
    folder = tmp_path_factory.mktemp("evaluated")
    store = write_store(folder / "shards", seed=0)
    config = cfg.validate(
        {
            "output": str(folder / "runs"), "name": "one", "data": {"shards": str(store.path), "split": {"val": 0.25, "test": 0.3}},
            "model": {"name": "lenet"}, "optim": {"lr": 2e-3}, "loss": {"pos_weight_power": 1.0},
            "train": {"epochs": 2, "batch_size": 16, "precision": "fp32"},
            "report": {"bootstrap": 60, "keep_predictions": True, "thresholds": "youden"},
        }
    )  # fmt: skip
    return on_ray.train(config, log=lambda line: None)
