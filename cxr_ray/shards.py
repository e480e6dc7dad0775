"""The Arrow store: write, verify, memory-mapped read. Decoding lives in images.py, the parallel writing in on_ray/ingest.py.

A store is a folder: `images-00000-of-00012.arrow` (Arrow IPC files of one record batch, `row` int64 and `image`
`arrow.fixed_shape_tensor` uint8, or uint16 where 65535 is white, [H, W]), `index.parquet`, `rejected.parquet`, sometimes `boxes.parquet`, and
`manifest.json`, written last: without it nothing is a store. No file holds a time or the name of a machine, so the same
records and settings give the same bytes. A store below a URL is copied once to each node that reads it (`copies.py`).
"""
# N images, H x W pixels of the stored picture, L labels

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from cxr_ray import copies
from cxr_ray.durable import Written, write_whole
from cxr_ray.durable import sha256 as file_sha256
from cxr_ray.errors import UserError
from cxr_ray.images import KINDS, STEPS, Depth, Pixels, eight_bit, perceptual_hash
from cxr_ray.labels import Filter
from cxr_ray.places import Place, Remote, ahead, place

FORMAT_VERSION = 2
"""1: uint8. 2: what 1 has, or uint16; written only where that is used."""
MANIFEST = "manifest.json"
INDEX = "index.parquet"
REJECTED = "rejected.parquet"
BOXES = "boxes.parquet"
GROUP_ROWS = 8192
"""Rows of a row group of a table: the writer's memory is that of a group, not of a table."""
WORKSHOP = ".ingest"
"""Folder of an unfinished ingest inside the store's."""

RECORD_COLUMNS = ("source_row", "image", "patient", "study", "view", "sex", "age", "source", "split", "mask")
PLACE_COLUMNS = ("row", "shard", "offset")
PICTURE_COLUMNS = (
    "height", "width", "scale_y", "scale_x", "top", "left", "window_low", "window_high", "mean", "variance",
    "pixels_sha256", "file_sha256", "phash",
)  # fmt: skip
RESERVED = frozenset((*PLACE_COLUMNS, *RECORD_COLUMNS, *PICTURE_COLUMNS))
"""Column names that no label and no extra column of a source may take."""

Verify = Literal["manifest", "full", "none"]


class FileEntry(BaseModel):
    """One file of a store as the manifest knows it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a store holds, with a checksum of every file and of this body itself."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)

    format_version: int = 1
    source: str
    """Name of the source that read the records."""
    labels: tuple[str, ...]
    task: Literal["multilabel", "multiclass", "binary"]
    groups: dict[str, tuple[str, ...]] = {}
    """Label groups by name."""
    filters: tuple[Filter, ...] = ()
    """The cleaning that the source declares; applied in the plan, not here."""
    default_labels: tuple[str, ...] = ()
    """Labels that the declared cleaning keeps."""
    features: tuple[str, ...] = ()
    """Columns whose balance between the parts is watched."""
    notes: tuple[str, ...] = ()
    """What every report about this store must say."""
    size: tuple[int, int]
    """(H, W) of the stored pictures."""
    aspect: Literal["squash", "pad", "center_crop"] = "squash"
    depth: Depth = 8
    """Bits of a stored gray value."""
    settings: str = ""
    """Digest of the records and settings of the ingest: equal means that the same ingest would write the same bytes."""
    rows: int
    """Images in the store."""
    rejected: int = 0
    """Images listed that could not be used."""
    files: dict[str, FileEntry]
    digest: str = ""
    """sha256 of all the above as JSON with sorted keys, hexadecimal."""


def format_version(depth: Depth) -> int:
    """The first format that holds pictures of `depth` bits: older readers still read what they can."""
    return 1 if depth == 8 else 2


def digest_of(body: Any) -> str:
    """sha256 of plain values as JSON with sorted keys, hexadecimal."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


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
            raise UserError(f"cannot read {path} ({' '.join(str(error).split())}); {_mend(self.path)}") from None
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
    say: Callable[[str], None] | None = None,
) -> Store:
    """The store in the folder `path`, memory-mapped; of a URL, this node's copy of it, which is made where it is not there.

    `verify`: manifest (the manifest's own digest, every file there and of its size), full (every byte), none. `cache`: see
    `copies.folder`. `say` is told of a copy that begins. Raises `UserError` where `path` is no store, an unfinished one, a
    damaged one, or of a later format, and where a copy cannot be made."""
    origin = place(path).absolute()
    folder = origin if isinstance(origin, Path) else _copied(origin, cache, say)
    manifest = read_manifest(folder)
    if verify == "full":
        problems = _problems(folder, manifest, every_byte=True)
    elif verify == "manifest":
        problems = _problems(folder, manifest, every_byte=False)
    else:
        problems = []
    mend = _mend(folder) if folder is origin else f"it is a copy of {origin}: delete it, and it is copied anew"
    _refuse(problems, folder, mend)
    try:
        index = pd.read_parquet(folder / INDEX)
        return Store(folder, manifest, index, origin=origin, cache=cache)
    except (OSError, pa.ArrowException, KeyError, ValueError, IndexError) as error:
        raise UserError(f"cannot read {folder / INDEX} ({' '.join(str(error).split())}); {_mend(folder)}") from None


def _copied(remote: Remote, cache: str, say: Callable[[str], None] | None) -> Path:
    """This node's copy of a remote store. A manifest that does not bear out its own digest is believed in nothing."""
    text = _text(remote)
    manifest = _parsed(text, remote)
    if not _is_itself(text) or any(Path(name).name != name for name in manifest.files):
        raise UserError(f"{remote} is damaged: {NOT_ITSELF}; {_mend(remote)}")
    into = copies.folder(cache, manifest.digest)
    return copies.copied(remote, into, manifest.files, (MANIFEST, text), say=say)


def check(folder: Place) -> Manifest:
    """The manifest of the store in `folder`, once every file is there and of its size; nothing is copied. Raises `UserError`
    as `open`."""
    manifest = read_manifest(folder)
    _refuse(_problems(folder, manifest, every_byte=False), folder, _mend(folder))
    return manifest


def _refuse(problems: list[str], folder: Place, mend: str) -> None:
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(f"{folder} is damaged: {problems[0]}{more}; {mend}")


def read_manifest(folder: Place) -> Manifest:
    """The manifest of the store in `folder`; its digest is not checked. Raises `UserError` as `open`."""
    return _parsed(_text(folder), folder)


def _text(folder: Place) -> bytes:
    """The manifest as it stands in its file."""
    try:
        return (folder / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if not folder.exists():
            raise UserError(f"no store at {folder}: there is no such folder; make one with cxr-ray ingest") from None
        if (folder / WORKSHOP).is_dir() or any(folder.glob("images-*.arrow")):
            raise UserError(
                f"{folder} is an unfinished ingest: it has no {MANIFEST}; run the same ingest again and it goes on where it stopped"
            ) from None
        raise UserError(
            f"{folder} is not a store: it has no {MANIFEST}; give the folder that cxr-ray ingest wrote"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {folder / MANIFEST} ({error}); {_mend(folder)}") from None


def _parsed(text: bytes, folder: Place) -> Manifest:
    try:
        body = json.loads(text)
        version = body["format_version"]
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise UserError(
                f"{folder} is of store format {version}, this cxr_ray reads up to {FORMAT_VERSION}; install a newer cxr_ray"
            )
        return Manifest.model_validate(body)
    except (ValueError, KeyError, TypeError, ValidationError):
        raise UserError(f"{folder / MANIFEST} is damaged: it is not a manifest of ours; {_mend(folder)}") from None


def _mend(folder: Place) -> str:
    return f"cxr-ray verify {folder} lists all damage; ingest again into a fresh folder"


def verify(path: str | os.PathLike[str] | Place) -> list[str]:
    """Every checksum of the store in `path`: one line a problem, naming the file (flipped, cut, missing or extra); empty
    where all is well. A remote store is read where it lies. Raises `UserError` where there is no store."""
    folder = place(path).absolute()
    try:
        manifest = read_manifest(folder)
    except UserError as error:
        if (folder / MANIFEST).exists():
            return [f"{MANIFEST}: {error}"]
        raise
    return _problems(folder, manifest, every_byte=True)


NOT_ITSELF = f"{MANIFEST}: bytes changed, its digest differs, so the other files cannot be judged by it"


def _problems(folder: Place, manifest: Manifest, *, every_byte: bool) -> list[str]:
    if not _is_itself(_text(folder)):
        return [NOT_ITSELF]
    names = sorted(manifest.files)
    found_out = ahead(lambda name: _problem(folder / name, manifest.files[name], every_byte=every_byte), names)
    problems = [f"{name}: {what}" for name, what in zip(names, found_out, strict=True) if what]
    if every_byte:
        found = {p.name for p in folder.iterdir()} - set(manifest.files) - {MANIFEST}
        problems += [f"{name}: extra, the manifest does not know it" for name in sorted(found)]
    return problems


def _problem(file: Place, entry: FileEntry, *, every_byte: bool) -> str:
    """What is wrong with one file, or nothing."""
    try:
        size = file.stat().st_size
    except FileNotFoundError:
        return "missing"
    if size != entry.bytes:
        return f"{'cut' if size < entry.bytes else 'longer'}, {size} bytes instead of {entry.bytes}"
    return "bytes changed, its checksum differs" if every_byte and file_sha256(file) != entry.sha256 else ""


def _is_itself(text: bytes) -> bool:
    """Whether a manifest bears out its own digest."""
    body = json.loads(text)  # as it stands in the file: fields that this version does not know count too
    digest = body.pop("digest", "")
    return digest_of(body) == digest and text == _canonical({**body, "digest": digest})


# ---- writing


def shard_name(number: int, count: int) -> str:
    """`images-00003-of-00012.arrow` for number 3 of 12."""
    return f"images-{number:05d}-of-{count:05d}.arrow"


def write_shard(
    folder: Place,
    number: int,
    count: int,
    rows: npt.NDArray[np.int64],
    images: Pixels,
    *,
    within: Place | None = None,
) -> tuple[str, FileEntry]:
    """Shard `number` of `count`: the pictures `images` [n, H, W] of the global `rows` [n]. Returns its file name, and its
    length and checksum, taken from memory on the way out. `within`: folder for the temporary file."""
    n, height, width = images.shape
    assert images.dtype in (np.uint8, np.uint16) and len(rows) == n, "one row number a picture"
    cell = pa.from_numpy_dtype(images.dtype)
    kind = pa.fixed_shape_tensor(cell, [height, width])
    flat = pa.Array.from_buffers(cell, n * height * width, [None, pa.py_buffer(np.ascontiguousarray(images))])
    tensor = pa.ExtensionArray.from_storage(kind, pa.FixedSizeListArray.from_arrays(flat, height * width))
    batch = pa.record_batch([pa.array(np.asarray(rows, np.int64)), tensor], names=["row", "image"])

    def write(file: Any) -> None:
        with pa.ipc.new_file(pa.PythonFile(file, mode="w"), batch.schema) as writer:
            writer.write_batch(batch)

    name = shard_name(number, count)
    return name, _entry(write_whole(folder / name, write, within=within))


def picture_statistics(images: Pixels) -> pd.DataFrame:
    """mean and (population) variance of the gray values 0 to 255 of each picture [n, H, W], sha256 of its stored pixels, and
    its perceptual hash. Exact to the last step: the same on every machine."""
    n = len(images)
    steps = 1 if images.dtype == np.uint8 else STEPS
    cells = int(images[0].size) if n else 1
    mean, variance, digests = np.empty(n), np.empty(n), []
    for i, picture in enumerate(images):
        # Sums of whole numbers below 2^53 are exact in any order; squares of 16 bits go beyond.
        values = picture.reshape(-1).astype(np.float64 if steps == 1 else np.uint64)
        total, squares = int(values.sum()), int(values @ values)
        mean[i] = total / (cells * steps)
        variance[i] = (cells * squares - total * total) / (cells * cells * steps * steps)  # Python's integers: exact
        digests.append(hashlib.sha256(picture.tobytes()).hexdigest())
    return pd.DataFrame(
        {
            "mean": mean,
            "variance": variance,
            "pixels_sha256": pd.Series(digests, dtype="str"),
            "phash": perceptual_hash(eight_bit(images if steps == 1 else images / np.float32(steps))),
        }
    )


def pooled(pictures: pd.DataFrame) -> tuple[float, float]:
    """Mean and deviation (gray values from 0 to 255) of all pixels of some pictures together, by their `picture_statistics`: the
    variance of all is the mean of the pictures' variances and the variance of their means, since each has as many pixels."""
    means_N, variances_N = pictures["mean"].to_numpy(np.float64), pictures["variance"].to_numpy(np.float64)
    return float(means_N.mean()), float(np.sqrt(variances_N.mean() + means_N.var()))


def write_parquet(path: Place, frame: pd.DataFrame, *, within: Place | None = None) -> FileEntry:
    """`frame` without its index as a Parquet file whose bytes depend on the values alone."""
    fields = []
    for name in frame.columns:
        values = frame[name]
        if isinstance(values.dtype, pd.StringDtype):
            fields.append(pa.array(values, pa.string(), from_pandas=True))
        elif values.dtype == object:
            fields.append(pa.array([None if pd.isna(v) else str(v) for v in values], pa.string()))
        else:
            fields.append(pa.array(values.to_numpy(), from_pandas=False))
    table = pa.table(fields, names=[str(c) for c in frame.columns])

    def write(file: Any) -> None:  # in pieces: the writer holds a row group, and what it held stays with the pool
        pq.write_table(table, pa.PythonFile(file, mode="w"), compression="zstd", row_group_size=GROUP_ROWS)

    try:
        return _entry(write_whole(path, write, within=within))
    finally:
        pa.default_memory_pool().release_unused()


def _entry(written: Written) -> FileEntry:
    return FileEntry(bytes=written.bytes, sha256=written.sha256)


def _canonical(body: Any) -> bytes:
    return (json.dumps(body, indent=1, ensure_ascii=False) + "\n").encode()


def index_columns(table_columns: Iterable[str], labels: Sequence[str]) -> list[str]:
    """Columns of index.parquet in order, of a source whose table has `table_columns`. Raises `UserError` where a label or
    an extra column of the source takes a name that the store needs."""
    clash = sorted(RESERVED.intersection(labels))
    names = [c for c in table_columns if c not in RECORD_COLUMNS and c not in labels]
    clash += sorted(RESERVED.intersection(names))
    if clash:
        raise UserError(
            f"the store keeps the column name {clash[0]!r} for itself; rename that label or column in the dataset's table"
        )
    return [*PLACE_COLUMNS, *RECORD_COLUMNS, *names, *PICTURE_COLUMNS, *labels]


def finish(
    folder: Place,
    index: pd.DataFrame,
    *,
    source: str,
    labels: Sequence[str],
    task: str,
    size: tuple[int, int],
    aspect: str = "squash",
    depth: Depth = 8,
    groups: Mapping[str, Sequence[str]] | None = None,
    filters: Sequence[Filter] = (),
    default_labels: Sequence[str] = (),
    features: Sequence[str] = (),
    notes: Sequence[str] = (),
    rejected: pd.DataFrame | None = None,
    boxes: pd.DataFrame | None = None,
    settings: str = "",
    files: Mapping[str, FileEntry] | None = None,
) -> Manifest:
    """Make the shards in `folder` a store: index, rejected and boxes, then the manifest, last.

    `index`: as index.parquet, any order. `files`: entries of the shards as `write_shard` gave them; without it they are
    read and hashed here. Temporary files go to the workshop folder where there is one."""
    within = folder / WORKSHOP if (folder / WORKSHOP).is_dir() else None
    index = index.sort_values("row", kind="stable")
    assert index["row"].is_unique, "a row is stored once"
    if rejected is None:
        rejected = pd.DataFrame(
            {"row": np.zeros(0, np.int64), "image": np.zeros(0, object), "reason": np.zeros(0, object)}
        )
    if files is None:
        shards: list[Place] = [file for file in folder.glob("images-*.arrow")]  # noqa: C416 (of Path or of Remote)
        files = {p.name: FileEntry(bytes=p.stat().st_size, sha256=file_sha256(p)) for p in shards}
    entries = dict(files)
    entries[INDEX] = write_parquet(folder / INDEX, index, within=within)
    entries[REJECTED] = write_parquet(folder / REJECTED, rejected[["row", "image", "reason"]], within=within)
    if boxes is not None:
        entries[BOXES] = write_parquet(folder / BOXES, boxes, within=within)
    manifest = Manifest.model_validate(
        {
            "format_version": format_version(depth), "depth": depth, "source": source, "labels": tuple(labels), "task": task, "filters": tuple(filters), "size": size,
            "groups": {k: tuple(v) for k, v in (groups or {}).items()},
            "default_labels": tuple(default_labels or labels), "features": tuple(features), "notes": tuple(notes),
            "aspect": aspect, "settings": settings, "rows": len(index), "rejected": len(rejected),
            "files": dict(sorted(entries.items())),
        }
    )  # fmt: skip
    body = manifest.model_dump(mode="json", exclude={"digest"})
    manifest = manifest.model_copy(update={"digest": digest_of(body)})
    text = _canonical({**body, "digest": manifest.digest})
    write_whole(folder / MANIFEST, text, within=within)
    return manifest


def write(
    path: str | os.PathLike[str] | Place,
    images: Pixels,
    table: pd.DataFrame,
    *,
    labels: Sequence[str],
    task: str,
    source: str = "arrays",
    shard_rows: int = 1024,
    **about: Any,
) -> Store:
    """A store of pictures that are in memory already: `images` [N, H, W], uint8 or uint16, beside `table` (N rows; label columns, and any
    other column of the index; what is missing is made up: each image its own patient). `about`: more of `finish`, such as
    filters.

    Raises `UserError` where `path` exists and is not empty."""
    folder = place(path).absolute()
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; give a fresh folder")
    folder.mkdir(parents=True, exist_ok=True)
    n = len(images)
    count = max(1, -(-n // shard_rows))
    index = pd.DataFrame(
        {
            "row": np.arange(n), "shard": np.arange(n) // shard_rows, "offset": np.arange(n) % shard_rows,
            "source_row": np.arange(n), "image": [f"{i}.png" for i in range(n)], "patient": [str(i) for i in range(n)],
            "study": None, "view": None, "sex": None, "age": np.full(n, np.nan), "source": None, "split": None, "mask": None,
            "height": images.shape[1], "width": images.shape[2], "scale_y": 1.0, "scale_x": 1.0, "top": 0.0, "left": 0.0,
            "window_low": np.nan, "window_high": np.nan, "file_sha256": None,
        }
    )  # fmt: skip
    for name in table.columns:
        index[name] = table[name].to_numpy()
    for name in labels:
        index[name] = index[name].astype(np.float32)
    columns = index_columns([name for name in table.columns if name not in RESERVED], labels)
    index = index.assign(**{str(k): v for k, v in picture_statistics(images).items()})[columns]
    files = {}
    for number in range(count):
        part = slice(number * shard_rows, (number + 1) * shard_rows)
        name, files[name] = write_shard(folder, number, count, index["row"].to_numpy()[part], images[part])
    depth: Depth = 8 if images.dtype == np.uint8 else 16
    finish(
        folder, index, source=source, labels=labels, task=task, size=images.shape[1:], depth=depth, files=files, **about
    )
    return open(folder)
