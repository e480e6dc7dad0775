"""Write a store: shards, tables, and the manifest last. The parallel ingest is on_ray/ingest.py."""
# N images, H x W pixels of the stored picture, L labels

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cxr_ray.data.store import Store, open
from cxr_ray.data.store_format import (
    BOXES,
    INDEX,
    MANIFEST,
    REJECTED,
    RESERVED,
    WORKSHOP,
    FileEntry,
    Manifest,
    _canonical,
    digest_of,
    format_version,
    index_columns,
    shard_name,
)
from cxr_ray.errors import UserError
from cxr_ray.imaging.pixels import Depth, Pixels
from cxr_ray.imaging.statistics import picture_statistics
from cxr_ray.labels import Filter
from cxr_ray.storage.atomic import Written, write_atomic
from cxr_ray.storage.atomic import sha256 as file_sha256
from cxr_ray.storage.remote import Place, place

GROUP_ROWS = 8192
"""Rows of a row group of a table: the writer's memory is that of a group, not of a table."""


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
    return name, _entry(write_atomic(folder / name, write, within=within))


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
        return _entry(write_atomic(path, write, within=within))
    finally:
        pa.default_memory_pool().release_unused()


def _entry(written: Written) -> FileEntry:
    return FileEntry(bytes=written.bytes, sha256=written.sha256)


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
    write_atomic(folder / MANIFEST, text, within=within)
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
