"""The model or the predictor of a run, or of a file that `save_model` wrote, with the run's plugins loaded."""

import os
from collections.abc import Sequence
from pathlib import Path

from cxr_ray import registry, runs
from cxr_ray.errors import UserError
from cxr_ray.inference import embedder, predictor
from cxr_ray.inference.predictor import Predictor
from cxr_ray.models import Classifier, serialization
from cxr_ray.models.serialization import SavedModel
from cxr_ray.runtime.context import pick_device
from cxr_ray.storage.remote import to_local_path


def load_model(run_or_path: runs.Run | str | os.PathLike[str], *, plugins: Sequence[str] = ()) -> Classifier:
    """The trained model of a run, or of a .safetensors file, on the CPU in eval mode: images [N, H, W] to logits [N, L].

    The outputs are in the order of the run's `labels` in `run.json`, or of `load_predictor(...).labels`. `plugins`: modules that
    register its architecture; those that the run was trained with must be named again. Raises `UserError` if there is no model."""
    return load_saved(run_or_path, plugins=plugins).model


def load_saved(run_or_path: runs.Run | str | os.PathLike[str], *, plugins: Sequence[str] = ()) -> SavedModel:
    """As `load_model`, with the labels, the task and the precision of the model."""
    found = _open(run_or_path, plugins)
    if isinstance(found, Path):
        return serialization.read(found)
    if found.info.get("members"):
        raise UserError(
            f"{found.path.name} is an ensemble and has no model of its own: use load_predictor, or load a member"
        )
    found.check_trained()
    return embedder.saved_model(found)


def load_predictor(
    run_or_path: runs.Run | str | os.PathLike[str], *, gpu: bool | str = "auto", plugins: Sequence[str] = ()
) -> Predictor:
    """The predictor of a run, an ensemble, or a .safetensors file: images, arrays or paths to probabilities [N, L].

    `gpu`: whether to use one; auto: if there is one. `plugins` and errors as for `load_model`."""
    found = _open(run_or_path, plugins)
    if isinstance(found, Path):
        return Predictor(serialization.read(found), pick_device(gpu))
    return predictor.load(found, gpu=gpu)


def _open(run_or_path: runs.Run | str | os.PathLike[str], plugins: Sequence[str]) -> runs.Run | Path:
    """A run, or the path of a file of weights."""
    if not isinstance(run_or_path, runs.Run):
        path = to_local_path(run_or_path, "run")
        if path.is_file() or path.suffix == ".safetensors":
            registry.load_plugins(plugins)
            return path
        run_or_path = runs.load(path)
    run_or_path.load_plugins(plugins)
    return run_or_path
