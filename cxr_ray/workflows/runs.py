"""Runs from Python: train, resume, open, average. Training itself: on_ray/train.py; predictions: inference."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cxr_ray import config as configs
from cxr_ray import registry
from cxr_ray.runs import Run, ensemble, load
from cxr_ray.workflows.settings import resolve


def train(
    config: configs.Config | Mapping[str, Any],
    *,
    address: str | None = None,
    wait: float | None = None,
    plugins: Sequence[str] = (),
    log: Callable[[str], None] = print,
) -> Run:
    """Train a model by a config of `load_config`, or by a mapping of settings, and return the finished run.

    With one worker and without an `address` the training runs in this process, otherwise on the Ray cluster at `address`, in
    RAY_ADDRESS, or started on this machine. While a cluster has no room, it waits at most `wait` minutes (default: without an end in
    a Ray job, else 10). Each line of progress goes to `log`. `plugins` are modules that register models or
    losses; they are added to the config's. An interrupt leaves a run that `resume` continues. Raises `UserError`, `Finished` if
    the same config with the same name is finished, and `Stopped` if a stop was requested."""
    config = resolve(config, plugins, function="train")
    from cxr_ray.on_ray import train as on_ray

    return on_ray.train(config, address=address, wait=wait, log=log)


def resume(
    run: Run | str | os.PathLike[str],
    *,
    address: str | None = None,
    wait: float | None = None,
    plugins: Sequence[str] = (),
    log: Callable[[str], None] = print,
) -> Run:
    """Continue a run that was stopped or killed from its last checkpoint, by its own config, and return it finished.

    `plugins` are modules that register its model or loss; those that the run was trained with must be named again. Other parameters and errors as for `train`."""
    from cxr_ray.on_ray import train as on_ray

    found = load(run)
    found.load_plugins(plugins)
    own = found.config.model_copy(update={"name": found.path.name, "output": str(found.path.parent)})
    return on_ray.train(own, address=address, wait=wait, log=log)


def load_run(path: Run | str | os.PathLike[str], *, plugins: Sequence[str] = ()) -> Run:
    """Open the run or the ensemble in the folder `path`: its config, metrics, predictions and files.

    `plugins` are loaded. Raises `UserError` if it is not a run, with the closest name nearby."""
    registry.load_plugins(plugins)
    return load(path)


def make_ensemble(out: str | os.PathLike[str], runs: Sequence[Run | str | os.PathLike[str]]) -> Run:
    """Create an ensemble of two or more trained runs in the folder `out`: a run whose probabilities are the mean of theirs.

    The runs must have the same store, labels, test rows and label policy of evaluation, such as folds or seeds of one config.
    Raises `UserError` as `ensemble.make` does."""
    return ensemble.make(out, runs)
