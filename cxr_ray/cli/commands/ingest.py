"""`cxr-ray ingest`: a dataset on disk to a store of shards."""

import dataclasses
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter, validators

from cxr_ray.cli import flags
from cxr_ray.cli.progress import Progress
from cxr_ray.errors import UserError
from cxr_ray.labels import Filter
from cxr_ray.storage.remote import Place, place

USAGE = "cxr-ray ingest SOURCE ROOT OUT [--size 224] [--dry-run] [--SOURCE-OPTION VALUE ...]"

Aspect = Literal["squash", "pad", "center_crop"]
Depth = Literal[8, 16]
Words = Annotated[str, Parameter(name="word", show=False, allow_leading_hyphen=True)]

app = App(
    name="ingest",
    usage=f"Usage: {USAGE}",
    help_format="markdown",
    help_epilogue="Each source has options of its own, such as --patient-regex of image_folder: `cxr-ray sources NAME` lists them.",
)


@dataclass(frozen=True)
class Ingest:
    """How a dataset becomes a store; a flag a field."""

    size: str = "224"
    """Pixels of the stored images: 224, or HEIGHTxWIDTH such as 320x320."""
    aspect: Aspect = "squash"
    """squash to the size, pad to it with black, or center_crop."""
    depth: Depth = 8
    """Bits of a stored gray value: 8, or 16, which keeps the steps of 16-bit PNGs and DICOMs and takes twice the space."""
    where: str | None = None
    """pandas query over the records, such as "view == 'PA'": only these rows are decoded."""
    max_rejected: Annotated[float, Parameter(validator=validators.Number(gte=0, lte=1))] = 0.01
    """Largest share of images that may be refused before the ingest fails."""
    shard_mib: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 32
    """Largest size of a shard in MiB."""
    hash_patients: Annotated[bool, Parameter(negative="")] = False
    """Patients, studies and file names leave as hashes keyed with a secret (dicom_folder does so by itself)."""
    hash_key: Path | None = None
    """File of that secret, made where it is not there; without it, ~/.config/cxr_ray/hash.key."""
    address: str | None = None
    """Ray cluster to work on, such as auto; without it, the one that RAY_ADDRESS names (every Ray job sets it), else this machine."""
    cpus: Annotated[int | None, Parameter(validator=validators.Number(gte=1))] = None
    """Cores to use on this machine; without it, all."""

    @property
    def size_HW(self) -> tuple[int, int]:
        """`size` as (height, width) in pixels. Raises `UserError`."""
        return read_size(self.size)

    def words(self) -> str:
        """The flags that say this again, a space before each: the size, and what differs from the defaults."""
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        usual = {f.name: f.default for f in dataclasses.fields(self) if f.name != "size"}
        switches = "".join(f" --{name.replace('_', '-')}" for name, value in given.items() if value is True)
        return spelled({n: v for n, v in given.items() if v is not True and v != usual.get(n)}) + switches


AS_USUAL = Ingest()


@app.default
def ingest(
    *words: Words,
    how: Annotated[Ingest, Parameter(name="*")] = AS_USUAL,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    report: Path | None = None,
) -> None:
    """Decode and resize a dataset once, in parallel, into Arrow shards.

    SOURCE is a name that `cxr-ray sources` lists, ROOT the dataset's folder, OUT the store to make; either may be a URL below
    s3://, gs:// or abfs://. An ingest that was
    killed goes on where it stopped when the same command is given again. An image that cannot be used is written to
    rejected.parquet with its reason.

    Parameters
    ----------
    dry_run
        Read no pixels: rows kept and dropped, label vectors, missing files, bytes and time to expect.
    report
        With --dry-run: folder for records.parquet and cleaning.json.
    """
    source, root, out, options = split_words(words, dry_run=dry_run)
    if report is not None and not dry_run:
        raise UserError("--report is of --dry-run; give both, or neither")
    if how.hash_key is not None and not how.hash_patients:
        raise UserError("--hash-key is of --hash-patients; give both, or neither")
    if dry_run:
        plan(source, root, out, options, how, report=report)
        return
    assert out is not None
    run(source, root, out, options, how)


def own_flags() -> list[str]:
    """The flags of the verb itself, which are no source's."""
    named = [name for argument in app.assemble_argument_collection() for name in argument.names]
    return [*(name for name in named if name.startswith("--")), "--help"]


def _records(source: str, root: Place, options: dict[str, Any], how: Ingest) -> Any:
    from cxr_ray import datasets

    records = datasets.load(source, root, options)
    if how.hash_patients:
        from cxr_ray.datasets import pseudonyms

        records = pseudonyms.hide(records, pseudonyms.key(how.hash_key, away_from=root))
    return records


def _warn_of_letters(made: Any) -> None:
    """A look at the pictures that were just written; of a remote store `describe` does it, which copies it anyway."""
    if made.already or not isinstance(made.path, Path):
        return
    from cxr_ray.data import store as stores
    from cxr_ray.imaging import burned_in

    if told := burned_in.look(stores.open(made.path)).told():
        print(f"warning: {told}")


def split_words(words: tuple[str, ...], *, dry_run: bool) -> tuple[str, Place, Place | None, dict[str, Any]]:
    """SOURCE, ROOT, OUT and the source's own options, wherever the flags stand. Raises `UserError`."""
    from cxr_ray.registry import SOURCES

    if not words:
        raise UserError(f"ingest what? {USAGE}; `cxr-ray sources` lists the sources")
    # Flags may stand before the source; which words are their values only the source's options can tell.
    name = next((word for word in words if word in SOURCES), "") if words[0].startswith("-") else words[0]
    entry = SOURCES[name]
    rest, options = flags.parse(words, entry.options, also=own_flags(), greedy=False, kind=f"flag of ingest {name}")
    wanted = (2, 3) if dry_run else (3,)
    if len(rest) not in wanted:
        raise UserError(f"ingest takes SOURCE ROOT OUT, got {len(rest)} of them: {shlex.join(rest)}; {USAGE}")
    return rest[0], place(rest[1]), place(rest[2]) if len(rest) == 3 else None, options


def read_size(text: str) -> tuple[int, int]:
    """`224` or `320x256` (height x width) to (height, width) in pixels. Raises `UserError`."""
    match = re.fullmatch(r"(\d+)(?:[xX,](\d+))?", text.strip())
    size = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if min(size) < 1 or max(size) > 4096:
        raise UserError(f"--size {text}: give pixels from 1 to 4096, such as 224, or HEIGHTxWIDTH such as 320x256")
    return size


def plan(
    source: str, root: Place, out: Place | None, options: dict[str, Any], how: Ingest, *, report: Path | None = None
) -> Any:
    """Tell what an ingest would do, reading no pixels but a few images' for the estimate of its time."""
    from cxr_ray.datasets.preview import dry_run

    size = how.size_HW
    records = _records(source, root, options, how)
    if how.where is not None:  # the narrowing of the ingest is shown as one more rule, before the declared ones
        records = dataclasses.replace(records, filters=(Filter(name="--where", query=how.where), *records.filters))
    found = dry_run(records, root, size=size, aspect=how.aspect, depth=how.depth, cores=how.cpus)
    print(found.to_text())
    if report is not None:
        found.save(report)
        print(f"report: {report.resolve()}")
    places = f"{shlex.quote(str(root))} {shlex.quote(str(out or 'OUT'))}"
    print(f"next: cxr-ray ingest {source} {places}{spelled(options)}{how.words()}")
    return found


def spelled(options: dict[str, Any]) -> str:
    """Options of a source as the flags that give them again, with a space before each."""
    said = []
    for name, value in options.items():
        for each in value if isinstance(value, list) else [value]:
            word = str(each) if isinstance(each, str | Path) else flags.plain(each)
            said += [f"--{name.replace('_', '-')}", shlex.quote(word)]
    return "".join(f" {word}" for word in said)


def run(source: str, root: Place, out: Place, options: dict[str, Any], how: Ingest = AS_USUAL) -> Any:
    """Ingest, tell where the store is, and return the result."""
    size = how.size_HW
    records = _records(source, root, options, how)  # before Ray starts: a wrong path is told at once
    from cxr_ray.on_ray import cluster
    from cxr_ray.on_ray.ingest import ingest as on_ray

    with cluster.session(how.address, num_cpus=how.cpus), Progress("ingest") as progress:
        made = on_ray(
            records,
            root,
            out,
            source=source,
            size=size,
            aspect=how.aspect,
            depth=how.depth,
            max_rejected=how.max_rejected,
            shard_mib=how.shard_mib,
            where=how.where,
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
    _warn_of_letters(made)
    print(f"shards: {made.path.resolve()}")
    print(f"next: cxr-ray describe {shlex.quote(str(out))}; cxr-ray train --data.shards {shlex.quote(str(out))}")
    return made
