"""Ingest from Python: read a dataset, write it as a store, open the store. The ingest itself: on_ray/ingest.py."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_ray import datasets, registry
from cxr_ray.config.image_sizes import read_size
from cxr_ray.data import store as stores
from cxr_ray.data import summary
from cxr_ray.datasets import Records, pseudonyms
from cxr_ray.errors import UserError
from cxr_ray.imaging import burned_in
from cxr_ray.imaging.pixels import Aspect, Depth
from cxr_ray.runtime.progress import Progress
from cxr_ray.storage.remote import AnyPath, to_path

if TYPE_CHECKING:
    from cxr_ray.on_ray.ingest import IngestResult

HAND_MADE = "records"
"""Source, in the manifest, of records that no source has read."""


def ingest(  # noqa: PLR0913 - the options of the command, all of them by keyword
    dataset: str | Records,
    root: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    size: int | tuple[int, int] = (224, 224),
    aspect: Aspect = "squash",
    depth: Depth = 8,
    exact_jpeg: bool = False,
    options: Mapping[str, Any] | None = None,
    where: str | None = None,
    max_rejected: float = 0.01,
    shard_mib: int = 32,
    hash_patients: bool = False,
    hash_key: str | os.PathLike[str] | None = None,
    address: str | None = None,
    wait: float | None = None,
    cpus: int | None = None,
    plugins: Sequence[str] = (),
    log: Callable[[str], None] = print,
) -> stores.Store:
    """Decode and resize a dataset once, in parallel, into the store `out`, and open it. An interrupted ingest continues when called
    again; a complete one is only opened.

    `dataset` is a name of `list_datasets`, with the source's `options`, or `Records` of `read_dataset`; `root` is the folder of its
    images. `root` and `out` may be URLs. Images have `size` (pixels, one number or height and width); `aspect` is how they get it:
    squash, pad or center_crop; `depth` is 8 or 16 bits. `exact_jpeg` decodes large JPEGs at full size, which takes longer, instead
    of at 1/2, 1/4 or 1/8. `where` is a pandas query over the records. At most the fraction
    `max_rejected` of the images may be unusable. `shard_mib` is the largest size of a file in MiB. `hash_patients` replaces
    patients and file names by hashes keyed with the secret in the file `hash_key`. Ray is started here with `cpus` cores, or used at
    `address`, where room is waited for at most `wait` minutes (default: without an end in a Ray job, else 10). `plugins` are modules
    that register sources. `log` gets the lines of the result; progress is printed.

    Raises `UserError` for an unknown name or option, a layout that the source does not know, and as `on_ray.ingest` does."""
    registry.load_plugins(plugins)
    records = read_records(dataset, to_path(root), options, hash_patients=hash_patients, hash_key=hash_key)
    result, store = write_store(
        records, root, out, size=size, aspect=aspect, depth=depth, exact_jpeg=exact_jpeg, where=where, max_rejected=max_rejected,
        shard_mib=shard_mib, address=address, wait=wait, cpus=cpus, log=log,
    )  # fmt: skip
    return stores.open(result.path) if store is None else store


def read_records(
    dataset: str | Records,
    root: AnyPath,
    options: Mapping[str, Any] | None = None,
    *,
    hash_patients: bool = False,
    hash_key: str | os.PathLike[str] | None = None,
) -> Records:
    """The records that an ingest of `dataset`, or its dry run, is of; see `ingest` for the parameters. Raises `UserError`."""
    records = _records(dataset, root, options)
    if hash_key is not None and not hash_patients:
        raise UserError("hash_key needs hash_patients=True; give both, or neither")
    if hash_patients:
        key = pseudonyms.load_key(None if hash_key is None else Path(hash_key), outside=root)
        records = pseudonyms.pseudonymise(records, key)
    return records


def write_store(
    records: Records,
    root: str | os.PathLike[str] | AnyPath,
    out: str | os.PathLike[str] | AnyPath,
    *,
    size: int | tuple[int, int],
    address: str | None = None,
    wait: float | None = None,
    cpus: int | None = None,
    log: Callable[[str], None] = print,
    **settings: Any,
) -> "tuple[IngestResult, stores.Store | None]":
    """Write the store, show progress, and log what was written and rejected. `settings`: the other fields of `IngestSettings`. Ray is
    started here, or used at `address`, where room is waited for as `room.wait_limit` of `wait` minutes says.

    The images that were just written are scanned for burned-in letters, and for images of one gray, in the store that is returned. It
    is None for one that is not opened here: `describe` scans a remote store, which it downloads anyway. Raises as `on_ray.ingest`
    does."""
    from cxr_ray.on_ray import cluster, resources, room
    from cxr_ray.on_ray.ingest import IngestSettings
    from cxr_ray.on_ray.ingest import ingest as on_ray

    how = IngestSettings(source=records.source or HAND_MADE, size=read_size(size, name="size"), **settings)
    if cluster.is_local(address):
        resources.check_cores(cpus)
    with cluster.session(address, num_cpus=cpus) as is_ours:
        if not is_ours:
            room.ensure({"CPU": 1.0}, 1, wait=wait, log=log)
        with Progress("ingest") as progress:

            def show(done: int, total: int, rejected: int) -> None:
                progress(done, total, f"{rejected:,} rejected" if rejected else "")

            result = on_ray(records, to_path(root), to_path(out), how, progress=show)
    if result.already:
        log(f"nothing to do: these {result.rows:,} images were already ingested with the same settings")
    else:
        per_s = (result.rows + result.rejected - result.resumed) / result.seconds if result.seconds > 0 else 0.0
        before = f", {result.resumed:,} of them by an earlier ingest" if result.resumed else ""
        log(
            f"ingested {result.rows:,} images, rejected {result.rejected:,}{before}, "
            f"in {result.seconds:.1f} s ({per_s:,.0f} images/s)"
        )
    if result.rejected:
        log(f"rejected: {(result.path / 'rejected.parquet').resolve()}")
    store = stores.open(result.path) if not result.already and isinstance(result.path, Path) else None
    if store is not None:
        for message in (summary.one_gray_warning(store.index, store.info.filters), burned_in.scan(store).warning()):
            if message:
                log(f"warning: {message}")
    return result, store


def _records(dataset: str | Records, root: AnyPath, options: Mapping[str, Any] | None) -> Records:
    """The records of a dataset by name, or `dataset` itself, checked. Raises `UserError`."""
    if isinstance(dataset, str):
        return datasets.load(dataset, root, options)
    if not isinstance(dataset, Records):
        raise UserError(
            f"ingest takes the name of a dataset, or the records of read_dataset, not {type(dataset).__name__}; for a table of your "
            "own: ingest('table', root, out, options={'table': ..., 'image': ...})"
        )
    if options:
        raise UserError("options are for a dataset given by name; give these to read_dataset")
    if not root.is_dir():
        raise UserError(f"no folder at {root.absolute()}; give the folder that holds the images of the records")
    name = dataset.source or HAND_MADE
    return dataset if dataset.source else dataclasses.replace(datasets.check_records(dataset, root, name), source=name)
