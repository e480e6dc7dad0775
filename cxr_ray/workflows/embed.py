"""Features of a store by a trained run or a published network, for the command and for Python; the nearest rows by them."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ray.errors import UserError
from cxr_ray.storage.remote import to_local_path

if TYPE_CHECKING:
    from cxr_ray.data.features import FeatureStore
    from cxr_ray.data.store import Store
    from cxr_ray.runs import Run


def embed(
    run_or_model: "Run | str | os.PathLike[str]",
    store: "Store | str | os.PathLike[str]",
    out: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    image_size: tuple[int, int] | None = None,
    batch_size: int = 64,
    gpu: bool | str = "auto",
    plugins: tuple[str, ...] = (),
) -> "FeatureStore":
    """Write the pooled features of every row of `store` to the folder `out`, and open them.

    `run_or_model` is a run, a file of `save_model`, or the name of a network; then `weights` (imagenet, a file, a run) are needed,
    and images are resized to `image_size` (default: the store's size). An interrupted call goes on where it was. Set
    `data.features` to `out` to train a head on them. Raises `UserError`."""
    from cxr_ray import runs
    from cxr_ray.data import store as stores
    from cxr_ray.inference import embedder, embedding, loading
    from cxr_ray.models.serialization import SavedModel
    from cxr_ray.runtime.context import pick_device
    from cxr_ray.runtime.progress import Progress

    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {batch_size}")
    folder = to_local_path(out, "folder of features")
    opened = store if isinstance(store, stores.Store) else stores.open(store)
    if isinstance(run_or_model, runs.Run) or Path(run_or_model).exists():
        if weights is not None or image_size is not None:
            raise UserError(
                "a run has its own weights and image size: leave --weights and --image-size out, or give the name of a network"
            )
        saved: SavedModel = loading.load_saved(run_or_model, plugins=plugins)
    else:
        if weights is None:
            raise UserError(
                f"random weights make no useful features: give {run_or_model} the weights imagenet or a file (--weights), or give a "
                "run instead"
            )
        saved = embedder.by_name(os.fspath(run_or_model), weights, image_size or opened.size, plugins=plugins)
    with Progress("embed") as progress:
        return embedding.embed(saved, opened, folder, device=pick_device(gpu), batch_size=batch_size, progress=progress)
