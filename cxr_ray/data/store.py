"""The Arrow store: write, verify, memory-mapped read. Decoding lives in images.py, the parallel writing in on_ray/ingest.py.

A store is a folder: `images-00000-of-00012.arrow` (Arrow IPC files of one record batch, `row` int64 and `image`
`arrow.fixed_shape_tensor` uint8, or uint16 where 65535 is white, [H, W]), `index.parquet`, `rejected.parquet`, sometimes `boxes.parquet`, and
`manifest.json`, written last: without it nothing is a store. No file holds a time or the name of a machine, so the same
records and settings give the same bytes. A store below a URL is copied once to each node that reads it (`copies.py`).
"""
# N images, H x W pixels of the stored picture, L labels

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from cxr_ray.data import store_cache
from cxr_ray.data.store_format import (
    BOXES,
    INDEX,
    MANIFEST,
    NOT_ITSELF,
    REJECTED,
    Manifest,
    _fix_hint,
    _is_itself,
    _parsed,
    _problems,
    _refuse,
    _text,
    read_manifest,
)
from cxr_ray.errors import UserError
from cxr_ray.imaging.pixels import KINDS, STEPS, Pixels, eight_bit
from cxr_ray.storage.remote import Place, Remote, place

Verify = Literal["manifest", "full", "none"]


class Store:
    """A complete store, opened for reading. Threads may share one; pickled, it travels as its origin."""

    def __init__(
        self, path: Path, manifest: Manifest, index: pd.DataFrame, *, origin: Place | None = None, cache: str = "auto"
    ) -> None:
        self.path = path
        """The folder that is mapped: of a remote store, this node's copy."""
        self.origin = str(origin or path)
        """What was opened: an absolute path or a URL, which another process or node opens as well."""
        self.name = (origin or path).name
        self.cache = cache
        self.manifest = manifest
        self.index = index
        """index.parquet, sorted by `row`; label columns hold raw values (1, 0, -1 uncertain, NaN not mentioned)."""
        self.labels = manifest.labels
        self.task = manifest.task
        self.groups = manifest.groups
        self.filters = manifest.filters
        self.default_labels = manifest.default_labels or manifest.labels
        self.features = manifest.features
        self.notes = manifest.notes
        self.size = manifest.size
        self.depth = manifest.depth
        row_N = index["row"].to_numpy(np.int64)
        self._shard_N = index["shard"].to_numpy(np.int64)
        self._offset_N = index["offset"].to_numpy(np.int64)
        last = int(row_N[-1]) if len(row_N) else -1
        self._position = np.full(
            last + 1, -1, np.int64
        )  # of each row number; rows are sparse but never many times the images
        self._position[row_N] = np.arange(len(row_N))
        self._names = sorted(name for name in manifest.files if name.endswith(".arrow"))
        self._views: list[Pixels | None] = [None] * len(self._names)

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        height, width = self.size
        return (
            f"Store({self.origin!r}: {len(self)} images of {height} x {width}, {len(self.labels)} labels, {self.task})"
        )

    def __reduce__(self) -> tuple[Callable[..., "Store"], tuple[Any, ...]]:
        return _reopen, (self.origin, self.fingerprint, self.cache)

    @property
    def fingerprint(self) -> str:
        """Digest of the manifest's body: equal fingerprints are equal stores, byte for byte."""
        return self.manifest.digest

    def boxes(self) -> pd.DataFrame | None:
        """boxes.parquet (row, label, x, y, w, h in pixels of the originals), or None where the source has none."""
        return pd.read_parquet(self.path / BOXES) if BOXES in self.manifest.files else None

    def rejected(self) -> pd.DataFrame:
        """rejected.parquet: row, image, reason."""
        return pd.read_parquet(self.path / REJECTED)

    def images(self, rows: npt.ArrayLike, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Gray values 0 to 255 of the global row numbers `rows` [N], in any order, repeats allowed: [N, H, W], uint8, or
        float32 of a store of 16 bits (its whole numbers / 257). Here alone a depth is known: all after this sees grays.

        `out` is filled and returned where given; giving the same one again saves the cost of fresh memory. Raises
        `UserError` for a row that the store does not hold."""
        position_N = self._find(rows)
        shape, kind = (len(position_N), *self.size), np.dtype(np.uint8 if self.depth == 8 else np.float32)
        if out is None:
            out = np.empty(shape, kind)
        elif out.shape != shape or out.dtype != kind:
            raise ValueError(f"out is {out.dtype} {out.shape}, needed is {kind} {shape}")
        views = self._views
        for target, shard, offset in zip(
            out, self._shard_N[position_N].tolist(), self._offset_N[position_N].tolist(), strict=True
        ):
            view = views[shard]
            if view is None:
                view = self._map(shard)
            target[...] = view[offset]
        if self.depth == 16:
            out /= STEPS
        return out

    def pictures(self, rows: npt.ArrayLike) -> npt.NDArray[np.uint8]:
        """As `images`, whole gray values [N, H, W] of any store: for eyes and thumbnails."""
        return eight_bit(self.images(rows))

    def _find(self, rows: npt.ArrayLike) -> npt.NDArray[np.int64]:
        asked_N = np.asarray(rows)
        if asked_N.size == 0:
            asked_N = asked_N.astype(np.int64)
        if asked_N.ndim != 1 or asked_N.dtype.kind not in "iu":
            raise UserError(f"rows are whole numbers in one dimension, not {asked_N.dtype} {list(asked_N.shape)}")
        known_N = (asked_N >= 0) & (asked_N < len(self._position))
        position_N = self._position[np.where(known_N, asked_N, 0)] if len(self._position) else np.full(len(asked_N), -1)
        known_N &= position_N >= 0
        if not known_N.all():
            missing = asked_N[~known_N]
            raise UserError(
                f"{self.origin} holds no row {int(missing[0])}"
                + (f" (nor {len(missing) - 1} more of those asked for)" if len(missing) > 1 else "")
                + "; the rows there are stand in store.index['row']"
            )
        return position_N

    def _map(self, shard: int) -> Pixels:
        """The pictures of one shard [n, H, W], a read-only view of the mapped file. Two threads may both do it: no harm."""
        path = self.path / self._names[shard]
        try:
            batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
            values = batch.column("image").storage.flatten()
            cells = np.frombuffer(values.buffers()[1], KINDS[self.depth])[values.offset :][: len(values)]
            view = cast(Pixels, cells.reshape(batch.num_rows, *self.size))
        except (OSError, pa.ArrowException, KeyError, ValueError, AttributeError) as error:
            raise UserError(f"cannot read {path} ({' '.join(str(error).split())}); {_fix_hint(self.path)}") from None
        self._views[shard] = view
        return view


def _reopen(path: str, fingerprint: str, cache: str) -> Store:
    store = open(path, verify="none", cache=cache)
    if store.fingerprint != fingerprint:
        raise UserError(f"{path} is no longer the store that was opened before; was it written anew meanwhile?")
    return store


def open(
    path: str | os.PathLike[str] | Place,
    verify: Verify = "manifest",
    *,
    cache: str = "auto",
    log: Callable[[str], None] | None = None,
) -> Store:
    """The store in the folder `path`, memory-mapped; of a URL, this node's copy of it, which is made where it is not there.

    `verify`: manifest (the manifest's own digest, every file there and of its size), full (every byte), none. `cache`: see
    `copies.folder`. `say` is told of a copy that begins. Raises `UserError` where `path` is no store, an unfinished one, a
    damaged one, or of a later format, and where a copy cannot be made."""
    origin = place(path).absolute()
    folder = origin if isinstance(origin, Path) else _copied(origin, cache, log)
    manifest = read_manifest(folder)
    if verify == "full":
        problems = _problems(folder, manifest, every_byte=True)
    elif verify == "manifest":
        problems = _problems(folder, manifest, every_byte=False)
    else:
        problems = []
    fix = _fix_hint(folder) if folder is origin else f"it is a copy of {origin}: delete it, and it is copied anew"
    _refuse(problems, folder, fix)
    try:
        index = pd.read_parquet(folder / INDEX)
        return Store(folder, manifest, index, origin=origin, cache=cache)
    except (OSError, pa.ArrowException, KeyError, ValueError, IndexError) as error:
        raise UserError(f"cannot read {folder / INDEX} ({' '.join(str(error).split())}); {_fix_hint(folder)}") from None


def _copied(remote: Remote, cache: str, log: Callable[[str], None] | None) -> Path:
    """This node's copy of a remote store. A manifest that does not bear out its own digest is believed in nothing."""
    text = _text(remote)
    manifest = _parsed(text, remote)
    if not _is_itself(text) or any(Path(name).name != name for name in manifest.files):
        raise UserError(f"{remote} is damaged: {NOT_ITSELF}; {_fix_hint(remote)}")
    into = store_cache.folder(cache, manifest.digest)
    return store_cache.copied(remote, into, manifest.files, (MANIFEST, text), log=log)
