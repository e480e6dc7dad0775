"""Computes the features of a store's images into a folder (data/features.py), a shard at a time."""
# N rows, D features

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cxr_ray.data import features, loader
from cxr_ray.data.features import EMBEDDER, UNFINISHED, FeatureStore, Origin
from cxr_ray.data.store import Store
from cxr_ray.data.store_format import MANIFEST, FileEntry
from cxr_ray.errors import UserError
from cxr_ray.models import Classifier, check_size, serialization
from cxr_ray.models.classifier import auxiliary_names, in_value_range
from cxr_ray.models.features import feature_count, logits_and_features
from cxr_ray.models.heads import head_name
from cxr_ray.models.serialization import SavedModel
from cxr_ray.runtime import memory, precision
from cxr_ray.storage.atomic import make_folder, sha256, write_atomic
from cxr_ray.storage.lease import NAME as LEASE
from cxr_ray.storage.lease import Lease


def embed(
    saved: SavedModel,
    store: Store,
    out: Path,
    *,
    device: torch.device,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> FeatureStore:
    """The features of every row of `store` by the network `saved`, written to the folder `out`, which has a file per shard.

    An interrupted one goes on after its last whole shard; a complete one of the same network and store is only opened. `progress`
    is called with numbers of rows (done, total). Raises `UserError` if `out` holds something else, and on a full disk."""
    check_size(saved.model.spec.image_size, store.size)
    chosen = precision.pick(saved.precision if precision.has_bf16(device) else "fp32", device)
    make_folder(out)
    with Lease(out, busy=f"{out} is being written now", alternative="give another folder"):
        origin = _begin(saved, store, out, chosen.name)
        if (out / MANIFEST).is_file():
            return features.open(out)
        model = saved.model.to(device, memory_format=chosen.layout).eval()
        network = _Network(model, chosen, device)
        index = store.index[["row", "shard"]]
        groups = [rows["row"].to_numpy(np.int64) for _, rows in index.groupby("shard", sort=True)]
        files = {EMBEDDER: _entry(out / EMBEDDER)}
        done = 0
        for number, rows in enumerate(groups):
            path = out / features.shard_name(number, len(groups))
            if not path.is_file():  # files are renamed when they are whole
                batches = loader.eval_batches(store, rows, batch_size=batch_size, to_memory=memory.pin_for(device))
                features_ND = np.empty((len(rows), feature_count(model)), np.float32)
                for here, pixels in batches:
                    features_ND[here] = network(pixels)
                    if progress is not None:
                        progress(done + min(here.stop, len(rows)), len(index))
                files[path.name] = features.write_shard(path, rows, features_ND)
            else:
                files[path.name] = _entry(path)
            done += len(rows)
        features.write_manifest(out, origin, features=feature_count(model), rows=len(index), files=files)
        (out / UNFINISHED).unlink(missing_ok=True)
    return features.open(out)


class _Network:
    """From pixels [N, H, W] to features float32 [N, D]."""

    def __init__(self, model: Any, chosen: precision.Precision, device: torch.device) -> None:
        memory.keep_heap()
        self._model, self._precision, self._device = model, chosen, device

    def __call__(self, pixels_NHW: Any) -> Any:
        parts = memory.parts_for(self._device, pixels_NHW, self._model.spec.image_size)
        return np.concatenate([self._features(part_NHW) for part_NHW in parts])

    def _features(self, pixels_NHW: Any) -> Any:
        with torch.inference_mode(), self._precision.autocast(self._device):
            images = torch.from_numpy(in_value_range(pixels_NHW, self._model.spec.value_range)).to(
                self._device, non_blocking=True
            )
            return logits_and_features(self._model, images)[1].cpu().numpy()


def _begin(saved: SavedModel, store: Store, out: Path, precision_name: str) -> Origin:
    """Note what the folder will hold, and write the network; returns the note. Raises `UserError` if it holds something else."""
    model = saved.model
    origin = Origin(
        store=store.fingerprint,
        model=model.spec.name,
        weights=weights_sha256(model),
        image_size=model.spec.image_size,
        precision=precision_name,
    )
    note = out / UNFINISHED
    if (out / MANIFEST).is_file():
        found, state = features.read_manifest(out).origin, "the features"
    elif note.is_file():
        found, state = _read_note(note), "unfinished features"
    else:
        if any(not file.name.startswith(".") and file.name != LEASE for file in out.iterdir()):
            raise UserError(f"{out} is not empty and was not written by `cxr-ray embed`: choose another folder")
        found = origin
        write_atomic(note, origin.model_dump_json(indent=1))
    if found != origin:
        other = [k for k in Origin.model_fields if getattr(found, k) != getattr(origin, k)]
        raise UserError(
            f"{out} has {state} of another {' and '.join(other)}: choose another folder, or delete this one"
        )
    if not (out / MANIFEST).is_file() and not (out / EMBEDDER).is_file():
        tensors = model.state_dict()
        serialization.write(
            out / EMBEDDER, model, tensors, labels=saved.labels, task=saved.task, precision=precision_name
        )
    return origin


def _read_note(note: Path) -> Origin:
    """The note of unfinished features. Raises `UserError` if it is damaged."""
    try:
        return Origin.model_validate_json(note.read_bytes())
    except ValueError:  # pydantic's, for what is no JSON too
        raise UserError(f"{note} is damaged: choose another folder, or delete {note.parent}") from None


def weights_sha256(model: Classifier) -> str:
    """sha256 of what the features of `model` depend on: its description and its weights without the heads, hexadecimal."""
    digest = hashlib.sha256(json.dumps(model.describe(), sort_keys=True).encode())
    heads = [head_name(model.backbone, model.spec.outputs), *auxiliary_names(model.backbone)]
    for name, tensor in sorted(model.state_dict().items()):
        if not name.startswith(tuple(f"backbone.{head}." for head in heads)):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _entry(file: Path) -> FileEntry:
    return FileEntry(bytes=file.stat().st_size, sha256=sha256(file))
