"""The tasks of an ingest: each reads, decodes, resizes and writes one shard, and records it in a part file. Ray Data runs them.

Which shards there are, and what was finished earlier, is decided in ingest.py.
"""
# n rows of one shard, H x W pixels of a stored image

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import ray.data
from ray.data.context import DataContext

from cxr_ray.data import store_writer
from cxr_ray.data.store_format import INGEST_FOLDER, FileEntry, ImageFormat
from cxr_ray.errors import UserError
from cxr_ray.imaging.decode import decode
from cxr_ray.imaging.files import Root
from cxr_ray.imaging.pixels import PIXEL_DTYPES, ImageError
from cxr_ray.imaging.statistics import image_statistics
from cxr_ray.on_ray import cluster
from cxr_ray.storage.atomic import write_atomic
from cxr_ray.storage.remote import AnyPath, to_path

PART_SCHEMA = pa.schema(
    {
        "row": pa.int64(), "offset": pa.int64(), "reason": pa.string(), "height": pa.int64(), "width": pa.int64(),
        "scale_y": pa.float64(), "scale_x": pa.float64(), "top": pa.float64(), "left": pa.float64(),
        "window_low": pa.float64(), "window_high": pa.float64(), "mean": pa.float64(), "variance": pa.float64(),
        "pixels_sha256": pa.string(), "file_sha256": pa.string(), "phash": pa.uint64(),
    }
)  # fmt: skip
"""Columns of a part file; rejected images have offset -1 and a reason."""


class ShardRange(NamedTuple):
    """Which records go into a shard."""

    number: int
    """Number of the shard, from 0."""
    start: int
    """Position of its first record."""
    stop: int
    """Position after its last record."""


@dataclass(frozen=True)
class ShardJob:
    """What every task needs, the same for all shards."""

    root: str
    out: str
    shards: int
    """Number of shards."""
    image_format: ImageFormat


def part_path(out: AnyPath, number: int) -> AnyPath:
    """The part file of a shard."""
    return out / INGEST_FOLDER / f"part-{number:05d}.parquet"


def read_part(out: AnyPath, number: int) -> tuple[pd.DataFrame, pd.DataFrame, FileEntry]:
    """A finished shard: its images, the rejected ones (row, reason), and the entry of its file."""
    table = pq.read_table(pa.BufferReader(part_path(out, number).read_bytes()))
    entry = FileEntry.model_validate_json(table.schema.metadata[b"entry"])
    used = pc.greater_equal(table["offset"], 0)
    # Filtered before pandas: the missing phash of a rejected image would turn the column into floats.
    stored = table.filter(used).drop_columns("reason").to_pandas()
    return stored, table.filter(pc.invert(used)).select(["row", "reason"]).to_pandas(), entry


@contextmanager
def _data_context() -> Iterator[None]:
    """Settings of Ray Data for the ingest; restored at the end."""
    context = DataContext.get_current()
    wanted = {
        "op_resource_reservation_enabled": False,  # with it, one of two CPUs stays idle
        "enable_progress_bars": False,
        "print_on_execution_start": False,
    }
    previous = {name: getattr(context, name) for name in wanted}
    for name, value in wanted.items():
        setattr(context, name, value)
    log = logging.getLogger("ray.data")  # logs every start and end, and that its progress bars are off
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
        for name, value in previous.items():
            setattr(context, name, value)


def put_records(table: pd.DataFrame) -> Any:
    """Put a table (row, image) into Ray's object store, where the tasks read their slices. Returns its reference."""
    return ray.put(
        pa.table({"row": table.index.to_numpy(np.int64), "image": pa.array(table["image"].tolist(), pa.string())})
    )


def ingest_shard(job: ShardJob, records: list[Any], shard: ShardRange) -> dict[str, int]:
    """One task: read and decode the images of a shard, write the shard and its part file. `records` is [reference from
    `put_records`]. Returns the number of rows and of rejected ones."""
    here = ray.get(records[0]).slice(shard.start, shard.stop - shard.start)
    rows, paths = here["row"].to_numpy(), here["image"].to_pylist()
    images_nHW = np.empty((len(rows), *job.image_format.size), PIXEL_DTYPES[job.image_format.depth])
    part: list[dict[str, Any]] = []
    stored: list[dict[str, Any]] = []
    for row, data in zip(rows.tolist(), Root(job.root).read_each(paths), strict=True):
        entry: dict[str, Any] = {"row": row, "offset": -1}
        part.append(entry)
        try:
            if isinstance(data, ImageError):
                raise data
            image = decode(data, job.image_format.size, aspect=job.image_format.aspect, depth=job.image_format.depth)
        except ImageError as error:
            entry["reason"] = error.reason
            continue
        images_nHW[len(stored)] = image.pixels
        entry |= {"offset": len(stored), "file_sha256": hashlib.sha256(data).hexdigest()}
        entry |= {"height": image.height, "width": image.width, **image.transform._asdict()}
        if image.window is not None:
            entry |= {"window_low": image.window[0], "window_high": image.window[1]}
        stored.append(entry)
    images_nHW = images_nHW[: len(stored)]
    for entry, statistics in zip(stored, image_statistics(images_nHW).to_dict("records"), strict=True):
        entry |= {str(name): value for name, value in statistics.items()}
    out = to_path(job.out)
    stored_rows = np.array([entry["row"] for entry in stored], np.int64)
    _, file_entry = store_writer.write_shard(
        out, shard.number, job.shards, stored_rows, images_nHW, temporary_folder=out / INGEST_FOLDER
    )
    table = pa.Table.from_pylist(part, schema=PART_SCHEMA.with_metadata({"entry": file_entry.model_dump_json()}))
    write_atomic(part_path(out, shard.number), lambda file: pq.write_table(table, pa.PythonFile(file, mode="w")))
    return {"rows": len(part), "rejected": len(part) - len(stored)}


Task = Callable[[ShardJob, list[Any], ShardRange], dict[str, int]]


def run_shards(
    todo: list[ShardRange], job: ShardJob, table: pd.DataFrame, task: Task = ingest_shard
) -> Iterator[dict[str, int]]:
    """Run one task per shard; yields the result of each as it finishes. Raises the `UserError` of a task."""
    if not todo:
        return

    def work(item: dict[str, int]) -> dict[str, Any]:
        try:
            return {**task(job, records, ShardRange(**item)), "error": ""}
        except UserError as error:  # returned as a value: if raised here, Ray prints three tracebacks
            return {"error": str(error)}

    # A session of ours: Ray would join any cluster that it finds on this machine.
    with cluster.session(), _data_context():
        records = [put_records(table)]  # a reference inside a list stays a reference
        items = [each._asdict() for each in todo]
        for finished in ray.data.from_items(items, override_num_blocks=len(items)).map(work).iter_rows():
            if finished["error"]:
                raise UserError(finished["error"])
            yield finished
