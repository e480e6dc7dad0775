"""The tasks of an ingest: each reads, decodes, resizes and writes one shard, and records it in a part file. Ray Data runs them.

Which shards there are, and what was finished earlier, is decided in ingest.py.

A decoder in C can kill its process, and a process can be killed for memory. Ray would start the same task again for ever. Here no
task is repeated by Ray: shards whose worker died are read once more with care, each image decoded in a process of its own. An image
whose decoder crashes there twice is rejected; one that is only near a crash, or was on a lost node, is not.
"""
# n rows of one shard, H x W pixels of a stored image

import hashlib
import os
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import ray.data
from ray.util.annotations import RayDeprecationWarning

from cxr_ray.data import store_writer
from cxr_ray.data.store_format import INGEST_FOLDER, FileEntry, ImageFormat
from cxr_ray.errors import UserError
from cxr_ray.imaging.decode import decode
from cxr_ray.imaging.files import Root
from cxr_ray.imaging.isolated import DecoderCrash, IsolatedDecoder, decode_with_care
from cxr_ray.imaging.pixels import PIXEL_DTYPES, DecodedImage, ImageError
from cxr_ray.imaging.statistics import image_statistics
from cxr_ray.on_ray import cluster, data_context
from cxr_ray.runtime.machine import memory_bytes
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


Care = Literal["none", "isolated", "alone"]
"""How images are decoded: in the task's own process; in a second one that may crash; or so while no other shard is in work, with
most of the free memory, so that no other image can be why one is killed."""
ROUNDS: tuple[Care, ...] = ("none", "isolated", "alone", "alone")
"""Each round takes the shards that the one before could not finish."""
RAY_KILLS_AT = 0.95
"""Share of a node's memory in use at which Ray kills workers, its default."""
RAY_THRESHOLD = "RAY_memory_usage_threshold"
"""Environment variable that overrides it."""
MEMORY_MARGIN = 0.05
"""Share of the memory that an image which is decoded alone must leave free below that, so that its own process fails first."""
LEAST_MEMORY = 256 * 2**20
"""Bytes that such an image may take in any case."""


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
    care: Care = "none"


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


def image_paths(table: pd.DataFrame) -> pa.Table:
    """What the tasks need of the records: their rows, and the path of each image below the root."""
    return pa.table({"row": table.index.to_numpy(np.int64), "image": pa.array(table["image"].tolist(), pa.string())})


def ingest_shard(job: ShardJob, paths_of_all: pa.Table, shard: ShardRange) -> dict[str, int]:
    """One task: read and decode the images of a shard, write the shard and its part file. `paths_of_all`: `image_paths` of all
    records. Returns the number of rows and of rejected ones.

    Raises `DecoderCrash` or `MemoryError` if an image cannot be decoded with the care of `job`, and more care may help."""
    here = paths_of_all.slice(shard.start, shard.stop - shard.start)
    rows, paths = here["row"].to_numpy(), here["image"].to_pylist()
    images_nHW = np.empty((len(rows), *job.image_format.size), PIXEL_DTYPES[job.image_format.depth])
    part: list[dict[str, Any]] = []
    stored: list[dict[str, Any]] = []
    with _decoder(job) as decode_one:
        for row, data in zip(rows.tolist(), Root(job.root).read_each(paths), strict=True):
            entry: dict[str, Any] = {"row": row, "offset": -1}
            part.append(entry)
            try:
                if isinstance(data, ImageError):
                    raise data
                image = decode_one(data)
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


@contextmanager
def _decoder(job: ShardJob) -> Iterator[Callable[[bytes], DecodedImage]]:
    """What decodes the bytes of one image, with the care of `job`."""
    options: dict[str, Any] = vars(job.image_format)
    if job.care == "none":
        yield lambda data: decode(data, **options)
        return
    with IsolatedDecoder(memory=_memory_of_one() if job.care == "alone" else None) as decoder:
        yield lambda data: decode_with_care(decoder, data, options, is_alone=job.care == "alone")


def _memory_of_one() -> int | None:
    """Bytes that an image may take while no other is in work; None: unknown."""
    total, free = memory_bytes()
    share = float(os.environ.get(RAY_THRESHOLD, RAY_KILLS_AT)) - MEMORY_MARGIN
    return max(LEAST_MEMORY, int(share * total) - (total - free)) if total else None


Task = Callable[[ShardJob, pa.Table, ShardRange], dict[str, int]]


def run_shards(
    todo: list[ShardRange], job: ShardJob, table: pd.DataFrame, task: Task = ingest_shard
) -> Iterator[dict[str, int]]:
    """Run one task per shard; yields the result of each as it finishes. Raises the `UserError` of a task, and one if workers die in
    every round."""
    if not todo:
        return
    quiet = data_context.quiet(
        op_resource_reservation_enabled=False,  # with it, one of two CPUs stays idle
        max_errored_blocks=-1,  # a worker that died ends its shard only
    )
    # A session of ours: Ray would join any cluster that it finds on this machine.
    with cluster.session(), quiet:
        paths = [ray.put(image_paths(table))]  # a reference inside a list stays a reference
        for care in ROUNDS:
            unfinished = {shard.number: shard for shard in todo}
            for number, finished in _run_round(todo, replace(job, care=care), paths, task):
                del unfinished[number]
                yield finished
            todo = list(unfinished.values())
            if not todo:
                return
    raise UserError(
        f"the workers of {len(todo)} of {job.shards} shards died {len(ROUNDS)} times, though not at one image: machines were lost, or "
        "other programs need the memory; free some, or use fewer cores with --cpus, and run the same command again, which continues"
    )


def _run_round(
    todo: list[ShardRange], job: ShardJob, paths: list[Any], task: Task
) -> Iterator[tuple[int, dict[str, int]]]:
    """The number and the result of each shard whose worker did not die and that needs no more care. Raises the error of a task."""

    def work(item: dict[str, int]) -> dict[str, Any]:
        # Errors are returned as values: if raised here, Ray prints three tracebacks, and drops the shard as it does for a dead worker.
        shard = ShardRange(**item)
        try:
            return {"number": shard.number, **task(job, ray.get(paths[0]), shard)}
        except UserError as error:
            return {"error": str(error)}
        except (DecoderCrash, MemoryError):
            return {"unfinished": shard.number}
        except Exception as error:
            return {"defect": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}

    items = [each._asdict() for each in todo]
    shards = ray.data.from_items(items, override_num_blocks=len(items))
    pool = ray.data.TaskPoolStrategy(size=1 if job.care == "alone" else None)
    with warnings.catch_warnings():  # Ray Data deprecates such arguments, and has no other way to limit its retries
        warnings.simplefilter("ignore", RayDeprecationWarning)
        results = shards.map(work, compute=pool, max_retries=0)
    for finished in results.iter_rows():
        if "error" in finished:
            raise UserError(finished["error"])
        if "defect" in finished:
            defect = RuntimeError(finished["defect"])
            defect.add_note(finished["traceback"])
            raise defect
        if "unfinished" not in finished:
            yield finished.pop("number"), finished
