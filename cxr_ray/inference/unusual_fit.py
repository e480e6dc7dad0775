"""Fit the check for unusual images to a trained run, from its train and val rows."""
# N images

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from cxr_ray import runs
from cxr_ray.data.loader import TrainingStore
from cxr_ray.errors import UserError
from cxr_ray.inference import predictor, unusual
from cxr_ray.inference.unusual import Gaussian, UnusualCheck
from cxr_ray.storage.atomic import sha256

ROWS = 1000
"""Most rows of train, and of val, that are measured."""
FEWEST_ROWS = 10
"""Of train, and of val."""


def fit_missing(run: runs.Run, store: TrainingStore, *, gpu: bool | str = "auto", log: Callable[[str], None]) -> None:
    """Fit the check of `run`, or of each member of an ensemble, unless it has one of its present model.

    `store` is that of the training. A run without it is complete, so a reason why it cannot be fitted is logged, not raised."""
    for each in run.members or [run]:
        if predictor.check_of(each) is not None:
            continue
        started = time.perf_counter()
        try:
            check = fit(each, store, gpu=gpu)
            unusual.write(each.path / unusual.FILE, check)
        except (UserError, OSError, RuntimeError, MemoryError) as error:
            log(f"warning: no check for unusual images of {each.path.name}: {error}")
            continue
        rows = f"{check.about['train']:,} train and {check.about['val']:,} val rows"
        log(f"check for unusual images: fitted to {rows} in {time.perf_counter() - started:.1f} s")


def fit(run: runs.Run, store: TrainingStore, *, gpu: bool | str = "auto") -> UnusualCheck:
    """The check for unusual images of a run with a model: from at most `ROWS` of its train and of its val rows.

    `store` is that of the training. Raises `UserError` if train or val have fewer than `FEWEST_ROWS`."""
    plan = run.plan
    rng = np.random.default_rng(run.config.seed)
    rows = {part: _sample(plan.loc[plan["part"] == part, "row"].to_numpy(np.int64), rng) for part in ("train", "val")}
    for part, sampled in rows.items():
        if len(sampled) < FEWEST_ROWS:
            raise UserError(f"{part} has {len(sampled)} rows, and it needs {FEWEST_ROWS}")
    model = predictor.load(run, gpu=gpu)
    batch_size = run.config.train.batch_size
    train, val = (model.measured_rows(store, rows[part], batch_size=batch_size) for part in ("train", "val"))
    gaussians = {name: Gaussian.fit(values) for name, values in train.items()}
    thresholds, aspect = unusual.calibrate(gaussians, val), None
    if {"height", "width"} <= set(store.index.columns):
        sizes = store.index.set_index("row")[["height", "width"]].astype(float)
        aspects = {part: (sizes["height"] / sizes["width"]).loc[sampled].to_numpy() for part, sampled in rows.items()}
        aspect = float(np.median(np.log(aspects["train"])))
        thresholds["aspect"] = unusual.aspect_threshold(aspects["val"], aspect)
    about = {part: len(sampled) for part, sampled in rows.items()} | {"weights": sha256(run.weights)}
    return UnusualCheck(gaussians, thresholds, aspect, about)


def _sample(rows_N: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """At most `ROWS` of the rows, ascending."""
    unique = np.unique(rows_N)
    return unique if len(unique) <= ROWS else np.sort(rng.choice(unique, ROWS, replace=False))
