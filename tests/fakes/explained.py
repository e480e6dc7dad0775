"""A trained run with its store on disk, made once per process: the explanation tests only read it."""

import tempfile
from functools import cache
from pathlib import Path

import cxr_ray
from cxr_ray.data import store_writer
from tests.fakes.store import fake_store

_FOLDER = tempfile.TemporaryDirectory(prefix="cxr_ray_explained")


def quiet(line: str) -> None:
    pass


def trained(task: str = "multilabel", *, model: str = "lenet", seed: int = 0) -> cxr_ray.Run:
    """One epoch on 60 images of 28 x 28 px whose bands show their labels Edema, Mass and Effusion."""
    return _trained(task, model, seed)


@cache
def _trained(task: str, model: str, seed: int) -> cxr_ray.Run:
    fake = fake_store(60, task=task)
    shards = Path(_FOLDER.name) / f"shards-{task}"
    if not shards.exists():
        table = fake.index.drop(columns=["mean", "variance"])
        table["patient"] = "patient-secret-" + table["patient"]
        table["image"] = "path-secret/" + table["image"]
        store_writer.write(shards, fake.pixels, table, fake.info)
    settings = {"data.shards": shards, "model.name": model, "train.epochs": 1, "report.trackers": [], "seed": seed}
    name = f"{task}-{model}-{seed}"
    return cxr_ray.train({**settings, "output": Path(_FOLDER.name) / "runs", "name": name}, log=quiet)


def store(task: str = "multilabel") -> cxr_ray.Store:
    """The store of `trained(task)`."""
    return cxr_ray.open_store(trained(task).info["store"]["path"])
