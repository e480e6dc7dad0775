"""Features of a store's images, in a folder of their own: format, writing a shard, reading memory-mapped.

`features-00000-of-00012.arrow` (Arrow IPC files of one record batch, `row` int64 and `features` `arrow.fixed_shape_tensor` [D] of
float32, one per shard of the store), `embedder.safetensors`, the network that made them, and `manifest.json`, written last. They
are computed by inference/embedding.py.
"""
# N rows, D features

import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from cxr_ray import config as cfg
from cxr_ray.data.store import Verify
from cxr_ray.data.store_format import MANIFEST, FileEntry, canonical_json, digest_of
from cxr_ray.errors import UserError
from cxr_ray.storage.atomic import sha256 as file_sha256
from cxr_ray.storage.atomic import write_atomic
from cxr_ray.storage.remote import to_local_path

FORMAT = "cxr_ray features 1"
EMBEDDER = "embedder.safetensors"
UNFINISHED = "unfinished.json"
"""What an unfinished folder will hold; gone once there is a manifest."""
AnySource = TypeVar("AnySource")


class Origin(BaseModel):
    """What features were computed from: equal origins have equal features, up to the arithmetic of the machine."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)

    store: str
    """Fingerprint of the store."""
    model: str
    """Name of the network."""
    weights: str
    """sha256 of the network without its head (`inference.embedding.weights_sha256`)."""
    image_size: tuple[int, int]
    """(height, width) in pixels of the network's input."""
    precision: str
    """fp32, bf16 or fp16."""


class Manifest(Origin):
    """What a folder of features holds, with a checksum of every file."""

    format: str
    features: int
    """D."""
    rows: int
    files: dict[str, FileEntry]
    digest: str
    """sha256 of the other fields."""

    @property
    def origin(self) -> Origin:
        """The fields of `Origin`."""
        return Origin(**{name: getattr(self, name) for name in Origin.model_fields})


class FeatureStore:
    """Features read as a training reads images: float32 [N, 1, D] by row number, memory-mapped. Threads may share one."""

    def __init__(self, folder: Path, manifest: Manifest, index: Any = None) -> None:
        self.path, self.manifest, self.index = folder, manifest, index
        self.size = (1, manifest.features)
        """(1, D): a row is an image of one line."""
        shards = [_map(folder / name, manifest) for name in sorted(manifest.files) if name.endswith(".arrow")]
        self._views = [features for _, features in shards]
        rows = np.concatenate([row for row, _ in shards]) if shards else np.empty(0, np.int64)
        self._order = np.argsort(rows, kind="stable")
        self._rows = rows[self._order]
        self._starts = np.cumsum([0, *(len(row) for row, _ in shards)])

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """The row numbers [N] that have features, ascending."""
        return self._rows

    @property
    def embedder(self) -> Path:
        """The file of the network that made the features."""
        return self.path / EMBEDDER

    @property
    def shards(self) -> list[str]:
        """The names of the files of features."""
        return sorted(name for name in self.manifest.files if name.endswith(".arrow"))

    def check_bytes(self, names: Iterable[str]) -> None:
        """Raises `UserError` if a byte of these files changed since they were written."""
        for name in sorted(names):
            if file_sha256(self.path / name) != self.manifest.files[name].sha256:
                raise UserError(f"{self.path} is damaged: the bytes of {name} changed; {_again(self.path)}")

    def images(self, rows: npt.ArrayLike, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Features float32 [N, 1, D] of the row numbers `rows` [N], in any order; `out` is filled if given.

        Raises `UserError` for a row without features."""
        asked = np.asarray(rows, np.int64)
        at = np.searchsorted(self._rows, asked)
        known = (at < len(self._rows)) & (self._rows[np.minimum(at, len(self._rows) - 1)] == asked)
        if not known.all():
            raise UserError(f"{self.path} has no features of row {int(asked[~known][0])}")
        place = self._order[at]
        shard = np.searchsorted(self._starts, place, side="right") - 1
        if out is None:
            out = np.empty((len(asked), *self.size), np.float32)
        for number in np.unique(shard):
            here = shard == number
            out[here, 0] = self._views[number][place[here] - self._starts[number]]
        return out

    def vectors(self, rows: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Features float32 [N, D] of the row numbers `rows` [N]. Raises `UserError` for a row without features."""
        return np.asarray(self.images(rows)[:, 0], np.float32)


def training_source(store: AnySource, data: cfg.Data, run_info: Mapping[str, Any] | None = None) -> Any:
    """What a training on `store` reads: its images, or with `data.features` their features, with the store's index.

    Raises `UserError` if there are no features there, those of another store, or others than `run_info` names (run.json)."""
    if data.features is None:
        return store
    # A training checks every byte before it starts: features are small next to the images.
    every_byte = run_info is not None and data.verify == "background"
    found = open(data.features, verify="full" if every_byte else data.verify)
    check_store(found, store)
    check_unchanged(found, run_info or {})
    return FeatureStore(found.path, found.manifest, store.index)  # type: ignore[attr-defined]


def check_store(features: FeatureStore, store: Any) -> None:
    """Raises `UserError` unless the features are of `store`."""
    if features.manifest.store != store.fingerprint:
        raise UserError(
            f"{features.path} has the features of another store than {store.origin}: its fingerprint differs; make them with "
            f"`cxr-ray embed MODEL {shlex.quote(store.origin)} OUT`"
        )


def check_unchanged(features: FeatureStore, run_info: Mapping[str, Any]) -> None:
    """Raises `UserError` if the entry `features` of a run.json names others than `features`: they were made again since."""
    recorded = run_info.get("features")
    if recorded is not None and recorded != features.manifest.digest:
        raise UserError(
            f"the features in {features.path} are not those that the run was trained on: they were made again since; train again"
        )


def open(folder: Any, *, verify: Verify = "manifest") -> FeatureStore:
    """The features in `folder`, memory-mapped. `verify` as for `store.open`.

    Raises `UserError` if there are none, and if they are unfinished, damaged or of a newer format."""
    path = to_local_path(folder, "folder of features").absolute()
    manifest = read_manifest(path)
    for name, entry in sorted(manifest.files.items()) if verify != "none" else ():
        file = path / name
        if not file.is_file() or file.stat().st_size != entry.bytes:
            raise UserError(f"{path} is damaged: {name} is missing or has another size; {_again(path)}")
    found = FeatureStore(path, manifest)
    if verify == "full":
        found.check_bytes(manifest.files)
    return found


def read_manifest(folder: Path) -> Manifest:
    """The manifest in `folder`, its digest checked. Raises `UserError` like `open`."""
    try:
        body = json.loads((folder / MANIFEST).read_bytes())
        kind = str(body["format"])
        if kind != FORMAT and kind.startswith(FORMAT.rpartition(" ")[0]):
            raise UserError(f"{folder} has the format {kind!r}, this cxr_ray reads {FORMAT!r}; install a newer cxr_ray")
        manifest = Manifest.model_validate(body)
        body.pop("digest")
    except (FileNotFoundError, NotADirectoryError):
        if (folder / UNFINISHED).is_file():
            raise UserError(
                f"{folder} is unfinished: run the same `cxr-ray embed` again, and it goes on from there"
            ) from None
        raise UserError(f"no features at {folder}: give a folder that `cxr-ray embed MODEL STORE OUT` wrote") from None
    except (ValueError, KeyError, TypeError, ValidationError):
        raise UserError(f"{folder} has no features: its {MANIFEST} is not that of `cxr-ray embed`") from None
    if manifest.format != FORMAT or manifest.digest != digest_of(body):
        raise UserError(f"{folder} is damaged: {MANIFEST} was changed; {_again(folder)}")
    return manifest


def write_manifest(folder: Path, origin: Origin, *, features: int, rows: int, files: Mapping[str, FileEntry]) -> None:
    """Write the manifest, the last file of a folder."""
    entries = {name: files[name].model_dump() for name in sorted(files)}
    body = {"format": FORMAT, **origin.model_dump(mode="json"), "features": features, "rows": rows, "files": entries}
    write_atomic(folder / MANIFEST, canonical_json({**body, "digest": digest_of(body)}))


def write_shard(path: Path, rows: npt.NDArray[np.int64], features_ND: npt.NDArray[np.float32]) -> FileEntry:
    """Write the features [N, D] of the row numbers `rows` [N]; returns the file's length and checksum."""
    width = features_ND.shape[1]
    flat = pa.array(np.ascontiguousarray(features_ND, np.float32).reshape(-1))
    tensor = pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.float32(), [width]), pa.FixedSizeListArray.from_arrays(flat, width)
    )
    batch = pa.record_batch([pa.array(np.asarray(rows, np.int64)), tensor], names=["row", "features"])

    def write(file: Any) -> None:
        with pa.ipc.new_file(pa.PythonFile(file, mode="w"), batch.schema) as writer:
            writer.write_batch(batch)

    written = write_atomic(path, write)
    return FileEntry(bytes=written.bytes, sha256=written.sha256)


def shard_name(number: int, count: int) -> str:
    """`features-00003-of-00012.arrow` for number 3 of 12."""
    return f"features-{number:05d}-of-{count:05d}.arrow"


def _map(path: Path, manifest: Manifest) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Row numbers [n] and features [n, D] of one shard, views of the mapped file."""
    try:
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
        values = batch.column("features").storage.flatten()
        features = values.to_numpy(zero_copy_only=True).reshape(batch.num_rows, manifest.features)
        return batch.column("row").to_numpy(zero_copy_only=True), features
    except (OSError, pa.ArrowException, KeyError, ValueError, AttributeError) as error:
        raise UserError(f"cannot read {path} ({' '.join(str(error).split())}); {_again(path.parent)}") from None


def _again(folder: Path) -> str:
    return f"delete {shlex.quote(str(folder))} and run `cxr-ray embed` again"
