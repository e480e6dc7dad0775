"""Open a store and read its images, memory-mapped. Decoding is in `imaging`, writing in store_writer.py and on_ray/ingest.py.

A store is a folder: `images-00000-of-00012.arrow` (Arrow IPC files of one record batch, `row` int64 and `image`
`arrow.fixed_shape_tensor` [H, W] of uint8, or of uint16 with 65535 as white), `index.parquet`, `rejected.parquet`,
`boxes.parquet` if the dataset has boxes, and `manifest.json`, written last: a folder without it is not a store. No file
contains a time or the name of a machine, so the same records and settings give the same bytes. Each node that reads a
remote store copies it once (store_cache.py).
"""
# N images, H x W pixels of a stored image

import operator
import os
from collections.abc import Callable, Iterator
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, overload

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from cxr_ray import config as cfg
from cxr_ray.data import store_cache, summary
from cxr_ray.data.store_format import (
    BOXES,
    INDEX,
    MANIFEST,
    MANIFEST_CHANGED,
    REJECTED,
    Manifest,
    digest_matches,
    find_problems,
    fix_hint,
    names_in_memory,
    parse_manifest,
    read_manifest,
    read_manifest_bytes,
    refuse_damage,
)
from cxr_ray.errors import UserError
from cxr_ray.imaging.pixels import PIXEL_DTYPES, SCALE_8_TO_16, Pixels, to_uint8
from cxr_ray.labels import Task, label_values
from cxr_ray.storage.remote import AnyPath, RemotePath, to_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cxr_ray.data.plan import Plan
    from cxr_ray.data.torch_dataset import StoreDataset

Verify = Literal["manifest", "background", "full", "none"]


class StoredImage(NamedTuple):
    """One image of a store, as `store[i]` gives it."""

    image: npt.NDArray[np.uint8]
    """Gray values [H, W]."""
    labels: dict[str, float]
    """Raw value of each label: 1 positive, 0 negative, -1 uncertain, NaN not mentioned."""
    row: int
    """Row number, as `Store.images` takes it."""


class Store:
    """A complete store, opened for reading: a sequence of its images, by position.

    `store[i]` and `store[i:j]` give `StoredImage`s, `images` pixels by row number, `dataset` what a torch `DataLoader` takes. A
    store stands for its path wherever a path is taken. Threads may share one. Pickling stores only its origin and fingerprint."""

    def __init__(
        self, path: Path, manifest: Manifest, index: pd.DataFrame, *, origin: AnyPath | None = None, cache: str = "auto"
    ) -> None:
        self.path = path
        """The folder that is memory-mapped: this node's copy, if the store is remote."""
        self.origin = str(origin or path)
        """What was opened: an absolute path or a URL, which other processes and nodes can open too."""
        self.name = (origin or path).name
        self.cache = cache
        self.manifest = manifest
        self.info = manifest.info
        self.index = index
        """index.parquet, sorted by `row`; label columns have raw values (1, 0, -1 uncertain, NaN not mentioned) and the label's name,
        after the prefix `label/` where another column has that name."""
        self.size = manifest.size
        """(H, W) of the stored images."""
        self.depth = manifest.depth
        row_N = index["row"].to_numpy(np.int64)
        self._row_N = row_N
        self._shard_N = index["shard"].to_numpy(np.int64)
        self._offset_N = index["offset"].to_numpy(np.int64)
        last = int(row_N[-1]) if len(row_N) else -1
        # Position in the index by row number. Rows have gaps, but the last one is never many times the number of images.
        self._position = np.full(last + 1, -1, np.int64)
        self._position[row_N] = np.arange(len(row_N))
        self._names = sorted(name for name in manifest.files if name.endswith(".arrow"))
        self._views: list[Pixels | None] = [None] * len(self._names)

    @property
    def labels(self) -> tuple[str, ...]:
        """Label columns of the index, in order."""
        return self.info.labels

    @cached_property
    def _labels_NL(self) -> npt.NDArray[np.float32]:
        return label_values(self.index, self.labels).to_numpy(np.float32)

    @property
    def task(self) -> Task:
        """multilabel, multiclass or binary."""
        return self.info.task

    def __len__(self) -> int:
        return len(self.index)

    @overload
    def __getitem__(self, position: int) -> StoredImage: ...
    @overload
    def __getitem__(self, position: slice) -> list[StoredImage]: ...

    def __getitem__(self, position: int | slice) -> StoredImage | list[StoredImage]:
        """The image at a position from 0 to `len(store) - 1`, negative from the end, or a list of images for a slice.

        A position is not a row number: rejected images leave gaps in those. Raises `IndexError`."""
        if isinstance(position, slice):
            return [self[each] for each in range(*position.indices(len(self)))]
        at = operator.index(position)
        if not -len(self) <= at < len(self):
            raise IndexError(f"position {at} of a store of {len(self)} images; rows by number: store.images([{at}])")
        row = int(self._row_N[at])
        values_L = self._labels_NL[at].tolist()
        return StoredImage(self.pictures([row])[0], dict(zip(self.labels, values_L, strict=True)), row)

    def __iter__(self) -> Iterator[StoredImage]:
        return (self[position] for position in range(len(self)))

    def __fspath__(self) -> str:
        return self.origin

    def __repr__(self) -> str:
        height, width = self.size
        return (
            f"Store({self.origin!r}: {len(self)} images of {height} x {width}, {len(self.labels)} labels, {self.task})"
        )

    def _repr_html_(self) -> str:
        """Of a notebook: the labels with the number of rows of each value, as the dataset states it."""
        counts = summary.label_frequency(self.index, self.labels).set_index("label").rename_axis(None)
        table = counts.rename(columns={"blank": "not mentioned"}).to_html(border=0, float_format="{:.2f}".format)
        return f"<div><strong>{escape(repr(self))}</strong></div>{table}"

    def __reduce__(self) -> tuple[Callable[..., "Store"], tuple[Any, ...]]:
        return _reopen, (self.origin, self.fingerprint, self.cache)

    @property
    def fingerprint(self) -> str:
        """Digest of the manifest. Stores with equal fingerprints are equal, byte for byte, except for notes."""
        return self.manifest.digest

    def boxes(self) -> pd.DataFrame | None:
        """boxes.parquet (row, label, x, y, w, h in pixels of the original images), or None if the dataset has no boxes."""
        return pd.read_parquet(self.path / BOXES) if BOXES in self.manifest.files else None

    def rejected(self) -> pd.DataFrame:
        """rejected.parquet: row, image, reason."""
        return pd.read_parquet(self.path / REJECTED)

    def images(self, rows: npt.ArrayLike, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Gray values 0 to 255 [N, H, W] of the row numbers `rows` [N], in any order, with repeats allowed. uint8, or float32
        for a store of 16 bits (the stored integers / 257): no later stage depends on the depth.

        `out` is filled and returned if given; reusing one array saves the cost of new memory. Raises `UserError` for a row
        that the store does not have."""
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
            out /= SCALE_8_TO_16
        return out

    def pictures(self, rows: npt.ArrayLike) -> npt.NDArray[np.uint8]:
        """Like `images`, as uint8 [N, H, W] at any depth: for display and thumbnails."""
        return to_uint8(self.images(rows))

    def dataset(
        self,
        part: Literal["train", "val", "test"] | None = None,
        plan: "Plan | cfg.Config | None" = None,
        transform: Callable[[Any], Any] | None = None,
    ) -> "StoreDataset":
        """A torch `Dataset` of (image uint8 [1, H, W], target, row) for a `DataLoader`; it may have several workers.

        `part`: train, val or test; None: the rows of all three. `plan`: which rows are in which part, and their targets; a
        config's plan, or that of the default config. A train row occurs as often as the plan says (oversampling). The target is
        float32 [L], NaN where it is unknown; for classes the int64 index of the class. `transform` is called with the image, such
        as a transform of torchvision v2. Raises `UserError` as `plan.build` does, and for an unknown part."""
        from cxr_ray.data import plan as plans
        from cxr_ray.data.torch_dataset import StoreDataset

        if plan is None or isinstance(plan, cfg.Config):
            config = plan or cfg.Config()
            plan = plans.build(self, config.data, seed=config.seed)
        return StoreDataset(self, plan, part, transform)

    def show(self, row: int) -> "Figure":
        """A matplotlib figure of the image with the row number `row`, and its labels. Raises `UserError` for an unknown row."""
        from cxr_ray.data import figure

        position = int(self._find([row])[0])
        return figure.draw(*self[position], source=self.manifest.source)

    def _find(self, rows: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Positions in the index [N] of the row numbers `rows`. Raises `UserError` for an unknown row."""
        asked_N = np.asarray(rows)
        if asked_N.size == 0:
            asked_N = asked_N.astype(np.int64)
        if asked_N.ndim != 1 or asked_N.dtype.kind not in "iu":
            raise UserError(f"rows must be integers in one dimension, not {asked_N.dtype} {list(asked_N.shape)}")
        known_N = (asked_N >= 0) & (asked_N < len(self._position))
        position_N = self._position[np.where(known_N, asked_N, 0)] if len(self._position) else np.full(len(asked_N), -1)
        known_N &= position_N >= 0
        if not known_N.all():
            missing = asked_N[~known_N]
            raise UserError(
                f"{self.origin} has no row {int(missing[0])}"
                + (f" (and {len(missing) - 1} more of the requested rows are missing)" if len(missing) > 1 else "")
                + "; store.index['row'] lists its rows"
            )
        return position_N

    def _map(self, shard: int) -> Pixels:
        """The images of one shard [n, H, W], a read-only view of the mapped file. Harmless if two threads both do it."""
        path = self.path / self._names[shard]
        try:
            batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
            values = batch.column("image").storage.flatten()
            cells = np.frombuffer(values.buffers()[1], PIXEL_DTYPES[self.depth])[values.offset :][: len(values)]
            view = cast(Pixels, cells.reshape(batch.num_rows, *self.size))
        except (OSError, pa.ArrowException, KeyError, ValueError, AttributeError) as error:
            raise UserError(f"cannot read {path} ({' '.join(str(error).split())}); {fix_hint(self.path)}") from None
        self._views[shard] = view
        return view


def _reopen(path: str, fingerprint: str, cache: str) -> Store:
    """Unpickle a store. Raises `UserError` if another store is there now."""
    store = open(path, verify="none", cache=cache)
    if store.fingerprint != fingerprint:
        raise UserError(f"{path} is not the store that was opened before; was it written again in the meantime?")
    return store


def open(
    path: str | os.PathLike[str] | AnyPath,
    verify: Verify = "manifest",
    *,
    cache: str = "auto",
    log: Callable[[str], None] | None = None,
) -> Store:
    """Open the store in the folder `path`, memory-mapped. For a URL: this node's copy, which is made if it is not there.

    `verify`: manifest (its digest, and each file's presence and size), full (every byte), none; background as manifest, and what uses
    the store checks its bytes meanwhile (store_check.py). `cache`: see
    `store_cache.folder`. `log` gets a line when a copy starts. Raises `UserError` if `path` is not a store, or is an
    unfinished or damaged one, or of a newer format, and if a copy cannot be made."""
    origin = to_path(path).absolute()
    folder = origin if isinstance(origin, Path) else _local_copy(origin, cache, log)
    manifest = read_manifest(folder)
    problems = [] if verify == "none" else find_problems(folder, manifest, every_byte=verify == "full")
    fix = fix_hint(folder) if folder is origin else f"it is a copy of {origin}: delete it, and it is copied again"
    refuse_damage(problems, folder, fix)
    try:
        index = pd.read_parquet(folder / INDEX)
        if manifest.format_version >= 3:
            index = index.rename(columns=names_in_memory(index.columns, manifest.labels))
        return Store(folder, manifest, index, origin=origin, cache=cache)
    except (OSError, pa.ArrowException, KeyError, ValueError, IndexError) as error:
        raise UserError(f"cannot read {folder / INDEX} ({' '.join(str(error).split())}); {fix_hint(folder)}") from None


def open_store(path: str | os.PathLike[str] | AnyPath, *, verify: Verify = "manifest", cache: str = "auto") -> Store:
    """Open the store that `ingest` wrote to the folder or URL `path`; see `open`. Raises `UserError`."""
    return open(path, verify, cache=cache)


def check_space(remote: RemotePath, cache: str) -> None:
    """Raises `UserError` if this node has no space for its copy of a remote store, or if its manifest is damaged."""
    manifest, _ = _remote_manifest(remote)
    store_cache.check_space(remote, store_cache.folder(cache, manifest.digest), manifest.files)


def _local_copy(remote: RemotePath, cache: str, log: Callable[[str], None] | None) -> Path:
    """This node's copy of a remote store. Raises `UserError` before any copy if the manifest does not match its digest."""
    manifest, text = _remote_manifest(remote)
    into = store_cache.folder(cache, manifest.digest)
    return store_cache.copy_store(remote, into, manifest.files, (MANIFEST, text), log=log)


def _remote_manifest(remote: RemotePath) -> tuple[Manifest, bytes]:
    """The manifest, parsed and as it is. Raises `UserError` if it does not match its digest."""
    text = read_manifest_bytes(remote)
    manifest = parse_manifest(text, remote)
    if not digest_matches(text) or any(Path(name).name != name for name in manifest.files):
        raise UserError(f"{remote} is damaged: {MANIFEST_CHANGED}; {fix_hint(remote)}")
    return manifest, text
