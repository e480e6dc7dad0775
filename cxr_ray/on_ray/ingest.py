"""Ray Data's part of the ingest: one task a shard reads, decodes, resizes and writes. The store's format lives in shards.py.

The records are cut into shards before the first image is read, so memory is bounded by a shard and the result is the
same bytes at any number of CPUs. What is done so far stands in the workshop, the folder `.ingest` of the store:
records.parquet and settings.json, then for each finished shard its part file, which is written after the shard itself.
The same ingest started again goes on with the shards that have no part file, or whose part file names refused images.
"""
# N records; n rows of one shard; H x W pixels of the stored picture

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import ray.data
from ray.data.context import DataContext

from cxr_ray.data import store_format, store_writer
from cxr_ray.data.plan import drop_by
from cxr_ray.data.store_format import WORKSHOP, FileEntry
from cxr_ray.datasets import Records
from cxr_ray.errors import UserError
from cxr_ray.imaging.decode import decode
from cxr_ray.imaging.files import Root
from cxr_ray.imaging.pixels import KINDS, Aspect, Depth, ImageError
from cxr_ray.imaging.statistics import picture_statistics
from cxr_ray.labels import Filter
from cxr_ray.on_ray import cluster
from cxr_ray.storage.atomic import make_folder, write_atomic
from cxr_ray.storage.lease import Lease
from cxr_ray.storage.remote import Place, place, remove_tree

SHARDS_AT_LEAST = 16
"""So that a small dataset, too, keeps some processors busy, and the last shard keeps few of them waiting."""
ROWS_AT_LEAST = 64
"""Rows of a shard, where there are as many."""
SETTINGS = "settings.json"
"""Of the workshop: what is ingested, and how."""
PART = pa.schema(
    {
        "row": pa.int64(), "offset": pa.int64(), "reason": pa.string(), "height": pa.int64(), "width": pa.int64(),
        "scale_y": pa.float64(), "scale_x": pa.float64(), "top": pa.float64(), "left": pa.float64(),
        "window_low": pa.float64(), "window_high": pa.float64(), "mean": pa.float64(), "variance": pa.float64(),
        "pixels_sha256": pa.string(), "file_sha256": pa.string(), "phash": pa.uint64(),
    }
)  # fmt: skip
"""Columns of a part file; refused images have offset -1 and a reason."""

ProgressCallback = Callable[[int, int, int], None]


@dataclass(frozen=True)
class IngestResult:
    """What an ingest made."""

    path: Place
    rows: int
    """Images in the store."""
    rejected: int
    """Images listed that could not be used; rejected.parquet says why."""
    seconds: float
    already: bool = False
    """The store was complete and of the same records and settings: nothing was done."""
    resumed: int = 0
    """Records of shards that an earlier, killed ingest had finished."""


@dataclass(frozen=True)
class _Job:
    """What each task needs besides its cut."""

    root: str
    out: str
    count: int
    size: tuple[int, int]
    aspect: Aspect
    depth: Depth = 8


def rows_per_shard(count: int, size: tuple[int, int], shard_mib: int, depth: Depth = 8) -> int:
    """Rows a shard for `count` records of `size` (H, W) and `depth` bits: 16 shards or more where that leaves 64 rows in each,
    none larger than `shard_mib`."""
    most = max(1, shard_mib * 2**20 // (size[0] * size[1] * depth // 8))
    return min(max(-(-count // SHARDS_AT_LEAST), ROWS_AT_LEAST), most)


def ingest(
    records: Records,
    root: str | Place,
    out: str | Place,
    *,
    source: str,
    size: tuple[int, int] = (224, 224),
    aspect: Aspect = "squash",
    depth: Depth = 8,
    max_rejected: float = 0.01,
    shard_mib: int = 32,
    where: str | None = None,
    progress: ProgressCallback | None = None,
) -> IngestResult:
    """Decode the images of `records` below `root` and write them as a store in the folder `out`, each here or remote.
    Where this process has no Ray, it has one of its own until this returns. Workers read the environment of their own nodes for
    credentials.

    `size`: (H, W) of the stored pictures, `depth` the bits of their gray values. `max_rejected`: largest share of images that may be refused. `where`: pandas
    query over the records; the others are left out, and the row numbers of those kept stay. `progress(done, total,
    refused)` is called at the start and as shards complete, in images.

    An ingest that was killed goes on where it stopped, and ends in the same bytes as one that was not. Raises `UserError`
    where `out` holds something else or is being written by another, where too many images are refused, and where no image is
    left."""
    started = time.perf_counter()
    root, out = place(root).absolute(), place(out).absolute()
    columns = store_format.index_columns(records.table.columns, records.labels)
    table = _narrow(records.table, where)
    step = rows_per_shard(len(table), size, shard_mib, depth)
    deep = {} if depth == 8 else {"depth": depth}
    settings = _settings(records, table, source=source, size=size, aspect=aspect, step=step, **deep)
    digest = store_format.digest_of(settings)

    if (out / store_format.MANIFEST).exists():
        return _complete(out, digest, started)
    job = _Job(str(root), str(out), -(-len(table) // step), size, aspect, depth)
    cuts = [(n, n * step, min((n + 1) * step, len(table))) for n in range(job.count)]
    _make_workshop(out)
    with Lease(out / WORKSHOP, busy=f"{out} is being written by another ingest", instead="give a fresh folder"):
        if (out / store_format.MANIFEST).exists():  # finished by another just now
            return _complete(out, digest, started)
        _settle(out, table, settings)
        todo = [cut for cut in cuts if not _is_done(out, cut[0], job.count)]
        resumed = sum(stop - start for _, start, stop in cuts) - sum(stop - start for _, start, stop in todo)
        done, refused = resumed, 0
        if progress is not None:
            progress(done, len(table), refused)
        for finished in _run(todo, job, table.assign(image=records.places.loc[table.index])):
            done, refused = done + finished["rows"], refused + finished["refused"]
            if progress is not None:
                progress(done, len(table), refused)
        made = _finish(
            out, records, table, columns, job, source=source, digest=digest, max_rejected=max_rejected,
            started=started, resumed=resumed,
        )  # fmt: skip
    remove_tree(out / WORKSHOP)
    return made


def _narrow(table: pd.DataFrame, where: str | None) -> pd.DataFrame:
    if table.empty:
        raise UserError("there is no record to ingest; does the source find its images?")
    if where is None:
        return table
    kept = table[drop_by(table, [Filter(name="--where", query=where)]) == ""]
    if kept.empty:
        raise UserError(f"--where {where!r} leaves none of the {len(table):,} records; widen it")
    return kept


def _settings(records: Records, table: pd.DataFrame, **options: Any) -> dict[str, Any]:
    """All that the bytes of the store depend on, beside the images themselves; not the root: a dataset may be moved."""
    return {
        **options,
        "size": list(options["size"]),
        "format_version": store_format.format_version(options.get("depth", 8)),
        "records": _digest_of_table(table),
        "boxes": None if records.boxes is None else _digest_of_table(records.boxes),
        "task": records.task,
        "labels": list(records.labels),
        "groups": {k: list(v) for k, v in records.groups.items()},
        "filters": [f.model_dump() for f in records.filters],
        "default_labels": list(records.default_labels),
        "features": list(records.features),
        "notes": list(records.notes),
    }


def _digest_of_table(table: pd.DataFrame) -> str:
    """sha256 of the index, the columns' names and the values (each with its kind) of a table."""
    body = hashlib.sha256(table.index.to_numpy(np.int64).tobytes())
    for name in table.columns:
        body.update(f"|{name}|".encode())
        values = table[name].to_numpy()
        if values.dtype == object:
            body.update("\0".join("\1" if pd.isna(v) else f"{type(v).__name__}:{v}" for v in values).encode())
        else:
            body.update(values.dtype.str.encode() + np.ascontiguousarray(values).tobytes())
    return body.hexdigest()


def _complete(out: Place, digest: str, started: float) -> IngestResult:
    manifest = store_format.check(out)
    if manifest.settings != digest:
        raise UserError(
            f"{out} already holds a store of other records or settings; give a fresh folder, or delete that one"
        )
    remove_tree(out / WORKSHOP)  # of an ingest killed after its last write
    seconds = time.perf_counter() - started
    return IngestResult(out, manifest.rows, manifest.rejected, seconds, already=True, resumed=manifest.rows)


def _make_workshop(out: Place) -> None:
    """Make `out`/.ingest where it is not there. Raises `UserError` where `out` holds something else."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; give a folder to write the store in")
    strange = sorted({here.name for here in out.iterdir()} - {WORKSHOP}) if out.exists() else []
    if strange and not (out / WORKSHOP / SETTINGS).exists():
        raise UserError(f"{out} is not empty (it holds {strange[0]}) and no ingest of ours; give a fresh folder")
    make_folder(out / WORKSHOP)


def _settle(out: Place, table: pd.DataFrame, settings: dict[str, Any]) -> None:
    """Write down what is ingested, or find it written. Raises `UserError` where it is something else."""
    workshop, note = out / WORKSHOP, out / WORKSHOP / SETTINGS
    if note.exists():
        try:
            held = json.loads(note.read_text(encoding="utf-8"))
        except ValueError:
            held = {}
        if held != settings:
            changed = [k for k in settings if held.get(k) != settings[k]]
            raise UserError(
                f"{out} is an unfinished ingest with other {', '.join(changed) or 'settings'}; "
                "run that one again to finish it, give a fresh folder, or delete this one"
            )
    else:
        store_writer.write_parquet(workshop / "records.parquet", table.reset_index(names="row"))
        text = json.dumps(settings, indent=1, ensure_ascii=False)
        write_atomic(note, text)
    for stale in workshop.glob(".*.tmp"):  # of a killed ingest
        stale.unlink(missing_ok=True)


def _part_path(out: Place, number: int) -> Place:
    return out / WORKSHOP / f"part-{number:05d}.parquet"


def _read_part(out: Place, number: int) -> tuple[pd.DataFrame, pd.DataFrame, FileEntry]:
    """Of a finished shard: the images in it, those refused (row, reason), and its file's entry."""
    table = pq.read_table(pa.BufferReader(_part_path(out, number).read_bytes()))
    entry = FileEntry.model_validate_json(table.schema.metadata[b"entry"])
    used = pc.greater_equal(table["offset"], 0)
    stored = (
        table.filter(used).drop_columns("reason").to_pandas()
    )  # apart: a missing phash would make all of them floats
    return stored, table.filter(pc.invert(used)).select(["row", "reason"]).to_pandas(), entry


def _is_done(out: Place, number: int, count: int) -> bool:
    """Whether a shard is finished and without refused images, which may have been mended meanwhile."""
    try:
        _, refused, entry = _read_part(out, number)
        size = (out / store_format.shard_name(number, count)).stat().st_size
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return False
    return size == entry.bytes and refused.empty


@contextmanager
def _data_context() -> Iterator[None]:
    """Ray Data as the ingest needs it; as it was before, afterwards."""
    context = DataContext.get_current()
    wanted = {
        "op_resource_reservation_enabled": False,  # with it one of two CPUs stays idle
        "enable_progress_bars": False,
        "print_on_execution_start": False,
    }
    held = {name: getattr(context, name) for name in wanted}
    for name, value in wanted.items():
        setattr(context, name, value)
    log = logging.getLogger("ray.data")  # tells of every start and end, and that its bars are off
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
        for name, value in held.items():
            setattr(context, name, value)


def put_records(table: pd.DataFrame) -> Any:
    """Reference of a table (row, image) in Ray's object store, that the tasks take their slices of."""
    return ray.put(
        pa.table({"row": table.index.to_numpy(np.int64), "image": pa.array(table["image"].tolist(), pa.string())})
    )


def _shard(job: _Job, images: list[Any], cut: dict[str, int]) -> dict[str, int]:
    """One task: read, decode and write one shard and its part file."""
    number, start, stop = cut["number"], cut["start"], cut["stop"]
    here = ray.get(images[0]).slice(start, stop - start)
    rows, paths = here["row"].to_numpy(), here["image"].to_pylist()
    pictures = np.empty((len(rows), *job.size), KINDS[job.depth])
    notes: list[dict[str, Any]] = []
    used: list[dict[str, Any]] = []
    for row, data in zip(rows.tolist(), Root(job.root).each(paths), strict=True):
        note: dict[str, Any] = {"row": row, "offset": -1}
        notes.append(note)
        try:
            if isinstance(data, ImageError):
                raise data
            picture = decode(data, job.size, aspect=job.aspect, depth=job.depth)
        except ImageError as error:
            note["reason"] = error.reason
            continue
        pictures[len(used)] = picture.pixels
        note |= {"offset": len(used), "file_sha256": hashlib.sha256(data).hexdigest()}
        note |= {"height": picture.height, "width": picture.width, **picture.transform._asdict()}
        if picture.window is not None:
            note |= {"window_low": picture.window[0], "window_high": picture.window[1]}
        used.append(note)
    pictures = pictures[: len(used)]
    for note, statistics in zip(used, picture_statistics(pictures).to_dict("records"), strict=True):
        note |= {str(name): value for name, value in statistics.items()}
    out = place(job.out)
    kept = np.array([note["row"] for note in used], np.int64)
    _, entry = store_writer.write_shard(out, number, job.count, kept, pictures, within=out / WORKSHOP)
    part = pa.Table.from_pylist(notes, schema=PART.with_metadata({"entry": entry.model_dump_json()}))
    write_atomic(_part_path(out, number), lambda file: pq.write_table(part, pa.PythonFile(file, mode="w")))
    return {"rows": len(notes), "refused": len(notes) - len(used)}


Task = Callable[[_Job, list[Any], dict[str, int]], dict[str, int]]


def _run(
    todo: list[tuple[int, int, int]], job: _Job, table: pd.DataFrame, task: Task = _shard
) -> Iterator[dict[str, int]]:
    """Run the tasks; yields what each finished one tells."""
    if not todo:
        return

    def work(cut: dict[str, int]) -> dict[str, Any]:
        try:
            return {**task(job, images, cut), "mistake": ""}
        except UserError as error:  # travels as a value: raised here, Ray would print three tracebacks
            return {"mistake": str(error)}

    # Not left to Ray, which would join whatever cluster it finds on this machine.
    with cluster.session(), _data_context():
        images = [put_records(table)]  # in a list a reference stays a reference
        items = [{"number": number, "start": start, "stop": stop} for number, start, stop in todo]
        for finished in ray.data.from_items(items, override_num_blocks=len(items)).map(work).iter_rows():
            if finished["mistake"]:
                raise UserError(finished["mistake"])
            yield finished


def _finish(
    out: Place,
    records: Records,
    table: pd.DataFrame,
    columns: list[str],
    job: _Job,
    *,
    source: str,
    digest: str,
    max_rejected: float,
    started: float,
    resumed: int,
) -> IngestResult:
    stored, refused, files = [], [], {}
    for number in range(job.count):
        images, others, files[store_format.shard_name(number, job.count)] = _read_part(out, number)
        stored.append(images.assign(shard=number))
        refused.append(others)
    rejected = pd.concat(refused, ignore_index=True)
    rejected = rejected.assign(image=table["image"].loc[rejected["row"]].to_numpy())[["row", "image", "reason"]]
    _check_share(out, rejected, len(table), max_rejected)
    index = pd.concat(stored, ignore_index=True).join(table, on="row")[columns]
    boxes = records.boxes
    if boxes is not None:
        boxes = boxes[boxes["row"].isin(index["row"])]
    manifest = store_writer.finish(
        out, index, source=source, labels=records.labels, task=records.task, size=job.size, aspect=job.aspect, depth=job.depth,
        groups=records.groups, filters=records.filters, default_labels=records.default_labels, features=records.features,
        notes=records.notes, rejected=rejected, boxes=boxes, settings=digest, files=files,
    )  # fmt: skip
    return IngestResult(out, manifest.rows, manifest.rejected, time.perf_counter() - started, resumed=resumed)


def _check_share(out: Place, rejected: pd.DataFrame, listed: int, max_rejected: float) -> None:
    """Raises `UserError` where too many images were refused, or all."""
    if len(rejected) <= max_rejected * listed and len(rejected) < listed:
        return
    path = out / WORKSHOP / store_format.REJECTED
    store_writer.write_parquet(path, rejected)
    reasons = rejected["reason"].value_counts()
    told = ", ".join(
        f"{count:,} {reason} (such as {rejected['image'][rejected['reason'] == reason].iloc[0]})"
        for reason, count in reasons.head(3).items()
    )
    if len(rejected) == listed:
        fix = "is this the right root?"
    else:
        share = min(1.0, np.ceil(len(rejected) / listed * 100) / 100)
        fix = f"mend the files and run the same command again, or accept it with --max-rejected {share:g}"
    raise UserError(
        f"{len(rejected):,} of {listed:,} images cannot be used, more than --max-rejected {max_rejected:g} allows: {told}; "
        f"no store was made; the list is in {path}; {fix}"
    )
