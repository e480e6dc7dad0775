"""`cxr-ray ingest`: a dataset on disk to a store of shards."""

import dataclasses
import re
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter, validators

from cxr_ray.errors import UserError
from cxr_ray.labels import Filter
from cxr_ray.verbs import flags
from cxr_ray.verbs.progress import Progress

USAGE = "cxr-ray ingest SOURCE ROOT OUT [--size 224] [--dry-run] [--SOURCE-OPTION VALUE ...]"

Aspect = Literal["squash", "pad", "center_crop"]
Words = Annotated[str, Parameter(name="word", show=False, allow_leading_hyphen=True)]

app = App(
    name="ingest",
    usage=f"Usage: {USAGE}",
    help_format="markdown",
    help_epilogue="Each source has options of its own, such as --patient-regex of image_folder: `cxr-ray sources NAME` lists them.",
)

OWN_FLAGS = [
    "--size",
    "--aspect",
    "--address",
    "--where",
    "--max-rejected",
    "--shard-mib",
    "--dry-run",
    "--report",
    "--cpus",
    "--help",
]


@app.default
def ingest(
    *words: Words,
    size: str = "224",
    aspect: Aspect = "squash",
    address: str | None = None,
    where: str | None = None,
    max_rejected: Annotated[float, Parameter(validator=validators.Number(gte=0, lte=1))] = 0.01,
    shard_mib: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 32,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    report: Path | None = None,
    cpus: Annotated[int | None, Parameter(validator=validators.Number(gte=1))] = None,
) -> None:
    """Decode and resize a dataset once, in parallel, into Arrow shards.

    SOURCE is a name that `cxr-ray sources` lists, ROOT the dataset's folder, OUT the store to make. An ingest that was
    killed goes on where it stopped when the same command is given again. An image that cannot be used is written to
    rejected.parquet with its reason.

    Parameters
    ----------
    size
        Pixels of the stored images: 224, or HEIGHTxWIDTH such as 320x320.
    aspect
        squash to the size, pad to it with black, or center_crop.
    address
        Ray cluster to work on, such as auto; without it, this machine.
    where
        pandas query over the records, such as "view == 'PA'": only these rows are decoded.
    max_rejected
        Largest share of images that may be refused before the ingest fails.
    shard_mib
        Largest size of a shard in MiB.
    dry_run
        Read no pixels: rows kept and dropped, label vectors, missing files, bytes and time to expect.
    report
        With --dry-run: folder for records.parquet and cleaning.json.
    cpus
        Cores to use on this machine; without it, all.
    """
    source, root, out, options = split_words(words, dry_run=dry_run)
    if report is not None and not dry_run:
        raise UserError("--report is of --dry-run; give both, or neither")
    size_HW = read_size(size)
    if dry_run:
        plan(source, root, size=size_HW, where=where, options=options, report=report, out=out)
        return
    assert out is not None
    run(
        source,
        root,
        out,
        size=size_HW,
        aspect=aspect,
        address=address,
        where=where,
        max_rejected=max_rejected,
        shard_mib=shard_mib,
        cpus=cpus,
        options=options,
    )


def split_words(words: tuple[str, ...], *, dry_run: bool) -> tuple[str, Path, Path | None, dict[str, Any]]:
    """SOURCE, ROOT, OUT and the source's own options, wherever the flags stand. Raises `UserError`."""
    from cxr_ray.registry import SOURCES

    if not words:
        raise UserError(f"ingest what? {USAGE}; `cxr-ray sources` lists the sources")
    # Flags may stand before the source; which words are their values only the source's options can tell.
    name = next((word for word in words if word in SOURCES), "") if words[0].startswith("-") else words[0]
    entry = SOURCES[name]
    rest, options = flags.parse(words, entry.options, also=OWN_FLAGS, greedy=False, kind=f"flag of ingest {name}")
    wanted = (2, 3) if dry_run else (3,)
    if len(rest) not in wanted:
        raise UserError(f"ingest takes SOURCE ROOT OUT, got {len(rest)} of them: {shlex.join(rest)}; {USAGE}")
    return rest[0], Path(rest[1]), Path(rest[2]) if len(rest) == 3 else None, options


def read_size(text: str) -> tuple[int, int]:
    """`224` or `320x256` (height x width) to (height, width) in pixels. Raises `UserError`."""
    match = re.fullmatch(r"(\d+)(?:[xX,](\d+))?", text.strip())
    size = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if min(size) < 1 or max(size) > 4096:
        raise UserError(f"--size {text}: give pixels from 1 to 4096, such as 224, or HEIGHTxWIDTH such as 320x256")
    return size


def plan(
    source: str,
    root: Path,
    *,
    size: tuple[int, int],
    where: str | None,
    options: dict[str, Any],
    report: Path | None,
    out: Path | None,
) -> Any:
    """Tell what an ingest would do, without reading a pixel."""
    from cxr_ray import sources
    from cxr_ray.dry_run import dry_run

    records = sources.load(source, root, options)
    if where is not None:  # the narrowing of the ingest is shown as one more rule, before the declared ones
        records = dataclasses.replace(records, filters=(Filter(name="--where", query=where), *records.filters))
    found = dry_run(records, root, size=size)
    print(found.to_text())
    if report is not None:
        found.save(report)
        print(f"report: {report.resolve()}")
    flags_too = spelled(options | ({"where": where} if where else {}))
    print(
        f"next: cxr-ray ingest {source} {shlex.quote(str(root))} {shlex.quote(str(out or 'OUT'))} --size {size[0]}x{size[1]}{flags_too}"
    )
    return found


def spelled(options: dict[str, Any]) -> str:
    """Options of a source as the flags that give them again, with a space before each."""
    said = []
    for name, value in options.items():
        for each in value if isinstance(value, list) else [value]:
            word = each if isinstance(each, str) else flags.plain(each)
            said += [f"--{name.replace('_', '-')}", shlex.quote(word)]
    return "".join(f" {word}" for word in said)


def run(
    source: str,
    root: Path,
    out: Path,
    *,
    size: tuple[int, int] = (224, 224),
    aspect: Aspect = "squash",
    address: str | None = None,
    where: str | None = None,
    max_rejected: float = 0.01,
    shard_mib: int = 32,
    cpus: int | None = None,
    options: dict[str, Any] | None = None,
) -> Any:
    """Ingest, tell where the store is, and return the result."""
    from cxr_ray import sources

    records = sources.load(source, root, options or {})  # before Ray starts: a wrong path is told at once
    from cxr_ray.on_ray import cluster
    from cxr_ray.on_ray.ingest import ingest as on_ray

    with cluster.session(address, num_cpus=cpus), Progress("ingest") as progress:
        made = on_ray(
            records,
            root,
            out,
            source=source,
            size=size,
            aspect=aspect,
            max_rejected=max_rejected,
            shard_mib=shard_mib,
            where=where,
            progress=progress,
        )
    if made.already:
        print(f"nothing to do: these {made.rows:,} images were ingested before, with the same settings")
    else:
        per_s = (made.rows + made.rejected - made.resumed) / made.seconds if made.seconds > 0 else 0.0
        before = f", {made.resumed:,} of them by an earlier ingest" if made.resumed else ""
        print(
            f"ingested {made.rows:,} images, refused {made.rejected:,}{before}, "
            f"in {made.seconds:.1f} s ({per_s:,.0f} images/s)"
        )
    if made.rejected:
        print(f"refused: {(made.path / 'rejected.parquet').resolve()}")
    print(f"shards: {made.path.resolve()}")
    print(f"next: cxr-ray describe {shlex.quote(str(out))}; cxr-ray train --data.shards {shlex.quote(str(out))}")
    return made
