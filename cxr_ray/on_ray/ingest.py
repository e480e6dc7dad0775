"""The parallel, resumable ingest of records into a store. The tasks are in ingest_shards.py, the store's format is in `data`.

The records are cut into shards before the first image is read, so memory is bounded by a shard, and the bytes do not depend
on the number of CPUs. Progress is recorded in `.ingest` inside the store's folder: records.parquet and settings.json, then
for each finished shard a part file, written after the shard itself. The same ingest, started again, continues with the
shards that have no part file, and with those whose part file lists rejected images.
"""
# N records, H x W pixels of a stored image

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from cxr_ray.data import store_format, store_writer
from cxr_ray.data.filters import selected
from cxr_ray.data.store_format import INGEST_FOLDER, ImageFormat, Manifest
from cxr_ray.datasets import Records
from cxr_ray.errors import UserError
from cxr_ray.imaging.pixels import Aspect, Depth
from cxr_ray.labels import Filter
from cxr_ray.on_ray.ingest_shards import ShardJob, ShardRange, read_part, run_shards
from cxr_ray.storage.atomic import make_folder, write_atomic
from cxr_ray.storage.lease import Lease
from cxr_ray.storage.remote import AnyPath, remove_tree, to_path

MIN_SHARDS = 16
"""A small dataset keeps several cores busy too, and at the end few cores wait for the last shard."""
MIN_SHARD_ROWS = 64
"""Rows of a shard, if there are enough."""
SETTINGS = "settings.json"
"""In the ingest folder: everything that the bytes of the store depend on."""
ProgressCallback = Callable[[int, int, int], None]
"""Called with (images done, images in total, images rejected)."""


@dataclass(frozen=True)
class IngestSettings:
    """How records become a store."""

    source: str
    """Name of the source that read the records, for the manifest."""
    size: tuple[int, int] = (224, 224)
    """(H, W) of the stored images in pixels."""
    aspect: Aspect = "squash"
    """How an image of another aspect ratio is fitted to `size`."""
    depth: Depth = 8
    """Bits per stored gray value."""
    exact_jpeg: bool = False
    """Decode JPEGs at full size, however large they are."""
    max_rejected: float = 0.01
    """Largest share of images that may be rejected."""
    shard_mib: int = 32
    """Largest size of a shard in MiB."""
    where: str | None = None
    """pandas query over the records. Other records are left out; row numbers stay as they are."""

    @property
    def image_format(self) -> ImageFormat:
        """Format of the stored images."""
        return ImageFormat(self.size, self.aspect, self.depth, self.exact_jpeg)


@dataclass(frozen=True)
class IngestResult:
    """Outcome of an ingest."""

    path: AnyPath
    rows: int
    """Number of stored images."""
    rejected: int
    """Number of listed images that could not be used; rejected.parquet has the reasons."""
    seconds: float
    already: bool = False
    """Nothing was done: the store was already complete, with the same records and settings."""
    resumed: int = 0
    """Records in shards that an earlier, stopped ingest had finished."""


def rows_per_shard(count: int, image_format: ImageFormat, shard_mib: int) -> int:
    """Rows per shard for `count` records: at least 16 shards if each has at least 64 rows then, and no shard larger than
    `shard_mib` MiB. Raises `UserError` if that makes more shards than a process can map."""
    (height, width), depth = image_format.size, image_format.depth
    image_bytes = height * width * depth // 8
    most = max(1, shard_mib * 2**20 // image_bytes)
    if -(-count // most) > store_format.MAX_SHARDS:
        needed = -(-count // store_format.MAX_SHARDS) * image_bytes
        raise UserError(
            f"{count:,} images of {height} x {width} make {-(-count // most):,} shards of {shard_mib} MiB, more than the "
            f"{store_format.MAX_SHARDS:,} that a process can map; give --shard-mib {-(-needed // 2**20)}"
        )
    return min(max(-(-count // MIN_SHARDS), MIN_SHARD_ROWS), most)


def ingest(
    records: Records,
    root: str | AnyPath,
    out: str | AnyPath,
    settings: IngestSettings,
    *,
    progress: ProgressCallback | None = None,
) -> IngestResult:
    """Decode the images of `records` below `root` and write them as a store in the folder `out`. Both may be local or remote.

    Starts a Ray of its own if this process has none, and stops it at the end. Workers read credentials from the environment
    of their own nodes. `progress` is called at the start and after each shard. An ingest that was killed continues when
    started again, and the store has the same bytes. Raises `UserError` if `out` contains something else or is being written
    by another process, if too many images are rejected, and if no image is left."""
    started = time.perf_counter()
    root, out = to_path(root).absolute(), to_path(out).absolute()
    records = replace(records, table=store_format.separate_labels(records.table, records.info.labels))
    store_format.index_columns(records.table.columns, records.info.labels)  # refuses reserved names before any work
    table = _narrow(records.table, settings.where)
    step = rows_per_shard(len(table), settings.image_format, settings.shard_mib)
    contents = _contents(records, table, settings, step)
    if (out / store_format.MANIFEST).exists():
        return _complete(out, contents, started)
    job = ShardJob(str(root), str(out), -(-len(table) // step), settings.image_format)
    ranges = [ShardRange(n, n * step, min((n + 1) * step, len(table))) for n in range(job.shards)]
    _make_ingest_folder(out)
    with Lease(out / INGEST_FOLDER, busy=f"{out} is being written by another ingest", alternative="give a new folder"):
        if (out / store_format.MANIFEST).exists():  # another process has finished it just now
            return _complete(out, contents, started)
        contents = _record_contents(out, table, contents)
        todo = [each for each in ranges if not _is_done(out, each.number, job.shards)]
        resumed = len(table) - sum(each.stop - each.start for each in todo)
        done, rejected = resumed, 0
        if progress is not None:
            progress(done, len(table), rejected)
        for finished in run_shards(todo, job, table.assign(image=records.paths.loc[table.index])):
            done, rejected = done + finished["rows"], rejected + finished["rejected"]
            if progress is not None:
                progress(done, len(table), rejected)
        manifest = _finish(out, records, table, job, settings, contents)
    remove_tree(out / INGEST_FOLDER)
    return IngestResult(out, manifest.rows, manifest.rejected, time.perf_counter() - started, resumed=resumed)


# ---- what is ingested


def _narrow(table: pd.DataFrame, where: str | None) -> pd.DataFrame:
    """The records that `where` selects. Raises `UserError` if there are none."""
    if table.empty:
        raise UserError("there is no record to ingest; does the source find its images?")
    return table if where is None else selected(table, where)


def _contents(records: Records, table: pd.DataFrame, settings: IngestSettings, step: int) -> dict[str, Any]:
    """Everything that the bytes of the store depend on, except the images themselves, and the prose that is written with it.
    Without the root: a dataset may be moved."""
    # Defaults are left out, as in 0.1.0, which had neither setting, so that digests stay the same.
    deep = {} if settings.depth == 8 else {"depth": settings.depth}
    exact = {"exact_jpeg": True} if settings.exact_jpeg else {}
    return {
        "source": settings.source,
        "size": list(settings.size),
        "aspect": settings.aspect,
        "step": step,
        **deep,
        **exact,
        "records": _digest_of_table(table.drop(columns="url", errors="ignore")),  # earlier versions did not store it
        "boxes": None if records.boxes is None else _digest_of_table(records.boxes),
        **records.info.model_dump(mode="json", exclude={"other_class"}),  # earlier versions did not know it
    }


def _decisive(contents: dict[str, Any]) -> dict[str, Any]:
    """What equal ingests have in common: all but prose, which a later version may word differently, and the format that an
    earlier version recorded."""
    return {k: v for k, v in store_format.without_prose(contents).items() if k != "format_version"}


def _digest_of_ingest(contents: dict[str, Any], manifest: Manifest) -> str:
    """The digest of `contents` as the version that wrote `manifest` computed it: before format 3 prose and the format counted."""
    if manifest.format_version >= 3:
        return store_format.digest_of(_decisive(contents))
    written = manifest.model_dump(mode="json", include={"format_version", "notes", "filters"})
    if _decisive({**contents, **written}) != _decisive(contents):  # a filter differs in more than its description
        return ""
    return store_format.digest_of({**contents, **written})


def _digest_of_table(table: pd.DataFrame) -> str:
    """sha256 of a table's index, column names and values with their types."""
    body = hashlib.sha256(table.index.to_numpy(np.int64).tobytes())
    for name in table.columns:
        body.update(f"|{name}|".encode())
        values = table[name].to_numpy()
        if values.dtype == object:
            body.update("\0".join("\1" if pd.isna(v) else f"{type(v).__name__}:{v}" for v in values).encode())
        else:
            body.update(values.dtype.str.encode() + np.ascontiguousarray(values).tobytes())
    return body.hexdigest()


# ---- the ingest folder


def _complete(out: AnyPath, contents: dict[str, Any], started: float) -> IngestResult:
    """Result for a store that is complete already. Raises `UserError` if its records or settings differ, or if it is damaged."""
    manifest = store_format.check(out)
    if manifest.settings != _digest_of_ingest(contents, manifest):
        raise UserError(
            f"{out} already contains a store of other records or settings; give a new folder, or delete that one"
        )
    remove_tree(out / INGEST_FOLDER)  # left by an ingest that was killed after its last write
    seconds = time.perf_counter() - started
    return IngestResult(out, manifest.rows, manifest.rejected, seconds, already=True, resumed=manifest.rows)


def _make_ingest_folder(out: AnyPath) -> None:
    """Make `out`/.ingest if it is missing. Raises `UserError` if `out` contains something else."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; give a folder to write the store in")
    foreign = sorted({here.name for here in out.iterdir()} - {INGEST_FOLDER}) if out.exists() else []
    if foreign and not (out / INGEST_FOLDER / SETTINGS).exists():
        raise UserError(
            f"{out} is not empty (it contains {foreign[0]}) and is not an unfinished ingest; give a new folder"
        )
    make_folder(out / INGEST_FOLDER)


def _record_contents(out: AnyPath, table: pd.DataFrame, contents: dict[str, Any]) -> dict[str, Any]:
    """Write settings.json and records.parquet, or compare with an earlier start's; returns the contents of the first start. Raises
    `UserError` if they differ."""
    folder, file = out / INGEST_FOLDER, out / INGEST_FOLDER / SETTINGS
    if file.exists():
        decisive = _decisive(contents)
        try:
            earlier = json.loads(file.read_text(encoding="utf-8"))
            before = _decisive(earlier)
        except (ValueError, KeyError):
            before = {}
        if before != decisive:
            changed = [k for k in decisive if before.get(k) != decisive[k]]
            raise UserError(
                f"{out} is an unfinished ingest with other {', '.join(changed) or 'settings'}; "
                "run that one again to finish it, give a new folder, or delete this one"
            )
    else:
        store_writer.write_parquet(folder / "records.parquet", table.reset_index(names="row"))
        write_atomic(file, json.dumps(contents, indent=1, ensure_ascii=False))
        earlier = contents
    for stale in folder.glob(".*.tmp"):  # left by a killed ingest
        stale.unlink(missing_ok=True)
    return earlier


def _is_done(out: AnyPath, number: int, count: int) -> bool:
    """Whether a shard is finished and has no rejected images. Those may have been fixed since, so they are read again."""
    try:
        _, rejected, entry = read_part(out, number)
        size = (out / store_format.shard_name(number, count)).stat().st_size
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return False
    return size == entry.bytes and rejected.empty


# ---- the end


def _finish(
    out: AnyPath,
    records: Records,
    table: pd.DataFrame,
    job: ShardJob,
    settings: IngestSettings,
    contents: dict[str, Any],
) -> Manifest:
    """Write the tables and the manifest of a store whose shards are all finished."""
    stored, unusable, files = [], [], {}
    for number in range(job.shards):
        images, others, files[store_format.shard_name(number, job.shards)] = read_part(out, number)
        stored.append(images.assign(shard=number))
        unusable.append(others)
    rejected = pd.concat(unusable, ignore_index=True)
    rejected = rejected.assign(image=table["image"].loc[rejected["row"]].to_numpy())[["row", "image", "reason"]]
    _check_rejected(out, rejected, len(table), settings.max_rejected)
    columns = store_format.index_columns(records.table.columns, records.info.labels)
    index = pd.concat(stored, ignore_index=True).join(table, on="row")[columns]
    boxes = records.boxes
    if boxes is not None:
        boxes = boxes[boxes["row"].isin(index["row"])]
    return store_writer.finish(
        out,
        store_writer.Tables(index, rejected, boxes),
        records.info.model_copy(
            update={
                "notes": tuple(contents["notes"]),
                "filters": tuple(map(Filter.model_validate, contents["filters"])),
            }
        ),
        source=settings.source,
        image_format=settings.image_format,
        files=files,
        settings=store_format.digest_of(_decisive(contents)),
    )


def _check_rejected(out: AnyPath, rejected: pd.DataFrame, listed: int, max_rejected: float) -> None:
    """Raises `UserError` if too many images were rejected, or all of them."""
    if len(rejected) <= max_rejected * listed and len(rejected) < listed:
        return
    path = out / INGEST_FOLDER / store_format.REJECTED
    store_writer.write_parquet(path, rejected)
    reasons = rejected["reason"].value_counts()
    examples = ", ".join(
        f"{count:,} {reason} (such as {rejected['image'][rejected['reason'] == reason].iloc[0]})"
        for reason, count in reasons.head(3).items()
    )
    if len(rejected) == listed:
        fix = "is this the right root?"
    else:
        share = min(1.0, np.ceil(len(rejected) / listed * 100) / 100)
        fix = f"fix the files and run the same command again, or accept this with --max-rejected {share:g}"
    raise UserError(
        f"{len(rejected):,} of {listed:,} images cannot be used, more than --max-rejected {max_rejected:g} allows: {examples}; "
        f"no store was made; the list is in {path}; {fix}"
    )
