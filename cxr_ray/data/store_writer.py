"""Write a store: shards, tables, and the manifest last. The parallel ingest is on_ray/ingest.py."""
# N images, n images of one shard, H x W pixels of a stored image

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cxr_ray.data.info import DatasetInfo
from cxr_ray.data.store import Store, open
from cxr_ray.data.store_format import (
    BOXES,
    FORMAT_VERSION,
    INDEX,
    INGEST_FOLDER,
    MANIFEST,
    REJECTED,
    RESERVED,
    FileEntry,
    ImageFormat,
    Manifest,
    canonical_json,
    fingerprint_of,
    index_columns,
    names_on_disk,
    prose_digest,
    separate_labels,
    shard_name,
)
from cxr_ray.errors import UserError
from cxr_ray.imaging.pixels import Pixels
from cxr_ray.imaging.statistics import image_statistics
from cxr_ray.storage.atomic import WrittenFile, make_folder, write_atomic
from cxr_ray.storage.remote import AnyPath, to_path

ROW_GROUP_ROWS = 8192
"""Rows per row group of a table. The writer buffers one row group in memory, not the table."""


@dataclass(frozen=True)
class Tables:
    """The tables of a store."""

    index: pd.DataFrame
    """index.parquet, in any order of rows."""
    rejected: pd.DataFrame | None = None
    """Images that could not be used: row, image, reason. None: there are none."""
    boxes: pd.DataFrame | None = None
    """row, label, x, y, w, h in pixels of the original images. None: the dataset has no boxes."""


def write_shard(
    folder: AnyPath,
    number: int,
    count: int,
    rows: npt.NDArray[np.int64],
    images: Pixels,
    *,
    temporary_folder: AnyPath | None = None,
) -> tuple[str, FileEntry]:
    """Write shard `number` of `count`: the images [n, H, W] of the row numbers `rows` [n]. Returns the file's name, and its
    length and checksum, computed in memory while writing. `temporary_folder`: see `write_atomic`."""
    n, height, width = images.shape
    assert images.dtype in (np.uint8, np.uint16) and len(rows) == n, "one row number per image"
    cell = pa.from_numpy_dtype(images.dtype)
    kind = pa.fixed_shape_tensor(cell, [height, width])
    flat = pa.Array.from_buffers(cell, n * height * width, [None, pa.py_buffer(np.ascontiguousarray(images))])
    tensor = pa.ExtensionArray.from_storage(kind, pa.FixedSizeListArray.from_arrays(flat, height * width))
    batch = pa.record_batch([pa.array(np.asarray(rows, np.int64)), tensor], names=["row", "image"])

    def write(file: Any) -> None:
        with pa.ipc.new_file(pa.PythonFile(file, mode="w"), batch.schema) as writer:
            writer.write_batch(batch)

    name = shard_name(number, count)
    return name, _entry(write_atomic(folder / name, write, temporary_folder=temporary_folder))


def write_parquet(path: AnyPath, frame: pd.DataFrame, *, temporary_folder: AnyPath | None = None) -> FileEntry:
    """Write `frame` without its index as a Parquet file whose bytes depend on the values alone. `temporary_folder`: see
    `write_atomic`."""
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

    def write(file: Any) -> None:
        pq.write_table(table, pa.PythonFile(file, mode="w"), compression="zstd", row_group_size=ROW_GROUP_ROWS)

    try:
        return _entry(write_atomic(path, write, temporary_folder=temporary_folder))
    finally:
        pa.default_memory_pool().release_unused()  # else the pool keeps the writer's buffers


def _entry(written: WrittenFile) -> FileEntry:
    return FileEntry(bytes=written.bytes, sha256=written.sha256)


def finish(
    folder: AnyPath,
    tables: Tables,
    info: DatasetInfo,
    *,
    source: str,
    image_format: ImageFormat,
    files: Mapping[str, FileEntry],
    settings: str = "",
) -> Manifest:
    """Complete the store in `folder`, whose shards are there: write its tables, and the manifest last.

    `files`: entries of the shards from `write_shard`. `settings`: digest of the records and settings of the ingest.
    Temporary files go to the ingest folder, if there is one."""
    temporary_folder = folder / INGEST_FOLDER if (folder / INGEST_FOLDER).is_dir() else None
    index, rejected = tables.index.sort_values("row", kind="stable"), tables.rejected
    assert index["row"].is_unique, "a row is stored once"
    if rejected is None:
        rejected = pd.DataFrame(
            {"row": np.zeros(0, np.int64), "image": np.zeros(0, object), "reason": np.zeros(0, object)}
        )
    index = index.rename(columns=names_on_disk(index.columns, info.labels))
    entries = dict(files)
    entries[INDEX] = write_parquet(folder / INDEX, index, temporary_folder=temporary_folder)
    entries[REJECTED] = write_parquet(
        folder / REJECTED, rejected[["row", "image", "reason"]], temporary_folder=temporary_folder
    )
    if tables.boxes is not None:
        entries[BOXES] = write_parquet(folder / BOXES, tables.boxes, temporary_folder=temporary_folder)
    first = {"format_version": FORMAT_VERSION, "source": source}  # the first keys in the file
    manifest = Manifest.model_validate(
        {
            **first, **dict(info), "default_labels": info.default_labels or info.labels,
            "size": image_format.size, "aspect": image_format.aspect, "depth": image_format.depth,
            "exact_jpeg": image_format.exact_jpeg,
            "settings": settings, "rows": len(index), "rejected": len(rejected), "files": dict(sorted(entries.items())),
        }
    )  # fmt: skip
    left_out = {"digest"} if image_format.exact_jpeg else {"digest", "exact_jpeg"}
    body = first | manifest.model_dump(mode="json", exclude=left_out)
    body["prose"] = prose_digest(body)
    manifest = manifest.model_copy(update={"prose": body["prose"], "digest": fingerprint_of(body)})
    write_atomic(
        folder / MANIFEST, canonical_json({**body, "digest": manifest.digest}), temporary_folder=temporary_folder
    )
    return manifest


def write(
    path: str | os.PathLike[str] | AnyPath,
    images: Pixels,
    table: pd.DataFrame,
    info: DatasetInfo,
    *,
    source: str = "arrays",
    shard_rows: int = 1024,
    rejected: pd.DataFrame | None = None,
    boxes: pd.DataFrame | None = None,
) -> Store:
    """Write a store of images that are in memory: `images` [N, H, W], uint8 or uint16, and `table` (N rows: the label columns,
    and any other column of the index). Columns that are not given are filled in, with a patient per image. Returns the
    opened store.

    Raises `UserError` if `path` exists and is not empty."""
    folder = to_path(path).absolute()
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; give a new folder")
    make_folder(folder)
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
    table = separate_labels(table, info.labels)
    for name in table.columns:
        index[name] = table[name].to_numpy()
    for name in names_on_disk(table.columns, info.labels):
        index[name] = index[name].astype(np.float32)
    columns = index_columns([name for name in table.columns if name not in RESERVED], info.labels)
    index = index.assign(**{str(k): v for k, v in image_statistics(images).items()})[columns]
    files = {}
    for number in range(count):
        part = slice(number * shard_rows, (number + 1) * shard_rows)
        name, files[name] = write_shard(folder, number, count, index["row"].to_numpy()[part], images[part])
    image_format = ImageFormat(images.shape[1:], depth=8 if images.dtype == np.uint8 else 16)
    finish(folder, Tables(index, rejected, boxes), info, source=source, image_format=image_format, files=files)
    return open(folder)
