"""`cxr-ray ingest`: parses the command, shows a dry run or runs the ingest. The ingest itself is in on_ray.ingest."""

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter, validators

from cxr_ray.cli import flags, next_steps, parameters
from cxr_ray.config.image_sizes import read_size
from cxr_ray.errors import UserError, shortened, unknown
from cxr_ray.labels import Filter
from cxr_ray.registry import SOURCES, load_plugins
from cxr_ray.storage.remote import AnyPath, to_path

USAGE = "cxr-ray ingest SOURCE ROOT OUT [--size 224] [--dry-run] [--SOURCE-OPTION VALUE ...]"

Aspect = Literal["squash", "pad", "center_crop"]
Depth = Literal[8, 16]
Word = Annotated[str, Parameter(name="word", show=False, allow_leading_hyphen=True)]

app = App(
    name="ingest",
    usage=f"Usage: {USAGE}",
    help_format="markdown",
    help_epilogue="Each source also has its own options, such as --patient-regex of image_folder: `cxr-ray sources NAME` lists them.",
)


@dataclass(frozen=True)
class Ingest:
    """Settings of an ingest. Each field is a flag."""

    size: str = "224"
    """Size of the stored images in pixels: 224, or HEIGHTxWIDTH such as 320x320."""
    aspect: Aspect = "squash"
    """How images get this size: squash (ignores the aspect ratio), pad with black, or center_crop."""
    depth: Depth = 8
    """Bits per stored gray value: 8, or 16, which preserves the precision of 16-bit PNGs and DICOMs and needs twice the space."""
    exact_jpeg: Annotated[bool, Parameter(negative="")] = False
    """Decode large JPEGs at full size, not at 1/2, 1/4 or 1/8. Slower; gray values at edges differ by up to 24, 0.2 on average."""
    where: str | None = None
    """pandas query over the records, such as "view == 'PA'": ingest only the rows that match."""
    max_rejected: Annotated[float, Parameter(validator=validators.Number(gte=0, lte=1))] = 0.01
    """The ingest fails if more than this fraction of the images is rejected."""
    shard_mib: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 32
    """Maximum size of a shard in MiB."""
    hash_patients: Annotated[bool, Parameter(negative="")] = False
    """Replace patients, studies and file names by hashes keyed with a secret (dicom_folder always does)."""
    hash_key: Path | None = None
    """File of that secret, created if missing. Default: ~/.config/cxr_ray/hash.key."""
    address: str | None = None
    """Address of the Ray cluster, such as auto. Default: RAY_ADDRESS (set in every Ray job), else this machine."""
    wait: parameters.Wait = None
    """Minutes to wait while the cluster has no room, before the command gives up. Default: without an end in a Ray job, else 10."""
    cpus: Annotated[int | None, Parameter(validator=validators.Number(gte=1))] = None
    """Number of cores to use on this machine. Default: all."""
    plugins: parameters.Words = None
    """Modules that register more sources."""

    @property
    def size_HW(self) -> tuple[int, int]:
        """`size` as (height, width) in pixels. Raises `UserError`."""
        return read_size(self.size, name="--size")

    def words(self) -> str:
        """The flags that reproduce these settings, with a leading space: the size, and all that differ from their defaults."""
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        defaults = {f.name: f.default for f in dataclasses.fields(self) if f.name != "size"}
        switches = "".join(f" --{name.replace('_', '-')}" for name, value in given.items() if value is True)
        return as_flags({n: v for n, v in given.items() if v is not True and v != defaults.get(n)}) + switches


DEFAULTS = Ingest()


@app.default
def ingest(
    *words: Word,
    how: Annotated[Ingest, Parameter(name="*")] = DEFAULTS,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    report: Path | None = None,
) -> None:
    """Decode and resize a dataset once, in parallel, into Arrow shards.

    SOURCE is a name that `cxr-ray sources` lists, ROOT the dataset's folder and OUT the store to write. ROOT and OUT may be URLs
    (s3://, gs://, abfs://). A killed ingest resumes when the same command is run again. Images that cannot be used are listed
    in rejected.parquet with the reason.

    Parameters
    ----------
    dry_run
        Store nothing: show selected and dropped rows, label vectors, missing files, and the expected size and time.
    report
        With --dry-run: folder for records.parquet and cleaning.json.
    """
    load_plugins(how.plugins or ())
    source, root, out, options = split_words(words, dry_run=dry_run)
    if report is not None and not dry_run:
        raise UserError("--report needs --dry-run; give both, or neither")
    if how.hash_key is not None and not how.hash_patients:
        raise UserError("--hash-key needs --hash-patients; give both, or neither")
    if dry_run:
        plan(source, root, out, options, how, report=report)
        return
    assert out is not None
    run(source, root, out, options, how)


def own_flags() -> list[str]:
    """The flags of the command itself, without those of the sources."""
    named = [name for argument in app.assemble_argument_collection() for name in argument.names]
    return [*(name for name in named if name.startswith("--")), "--help"]


def split_words(words: tuple[str, ...], *, dry_run: bool) -> tuple[str, AnyPath, AnyPath | None, dict[str, Any]]:
    """SOURCE, ROOT, OUT and the source's options; flags may be anywhere. Raises `UserError`."""
    if not words:
        raise UserError(f"ingest needs a source: {USAGE}; `cxr-ray sources` lists the sources")
    # Flags may precede the source, but only the source's options determine which words are values of flags.
    name = next((word for word in words if word in SOURCES), "") if words[0].startswith("-") else words[0]
    known = own_flags()
    if not name and words[0].split("=")[0] not in known:
        raise unknown("flag", words[0], known, where=" of ingest")
    if not name:
        raise UserError(
            f"ingest needs a source, got only flags: {shlex.join(words)}; {USAGE}; `cxr-ray sources` lists the sources"
        )
    entry = SOURCES[name]
    rest, options = flags.parse(words, entry.options, also=own_flags(), greedy=False, kind=f"flag of ingest {name}")
    wanted = (2, 3) if dry_run else (3,)
    if len(rest) not in wanted:
        raise UserError(f"ingest takes SOURCE ROOT OUT, got {len(rest)} of them: {shlex.join(rest)}; {USAGE}")
    return rest[0], to_path(rest[1]), to_path(rest[2]) if len(rest) == 3 else None, options


def plan(
    source: str, root: AnyPath, out: AnyPath | None, options: dict[str, Any], how: Ingest, *, report: Path | None = None
) -> Any:
    """Print what an ingest would do. Only a few images are decoded, to estimate its time. Raises `UserError` if every file is missing."""
    from cxr_ray.datasets.preview import dry_run
    from cxr_ray.workflows.ingest import read_records

    size = how.size_HW
    records = read_records(source, root, options, hash_patients=how.hash_patients, hash_key=how.hash_key)
    if how.where is not None:  # --where is shown as one more rule, before those of the source
        rules = (Filter(name="--where", query=how.where), *records.info.filters)
        records = dataclasses.replace(records, info=records.info.model_copy(update={"filters": rules}))
    found = dry_run(
        records, root, size=size, aspect=how.aspect, depth=how.depth, exact_jpeg=how.exact_jpeg, cores=how.cpus
    )
    print(found.to_text())
    if report is not None:
        found.save(report)
        print(f"report: {report.resolve()}")
    if found.missing and found.missing == found.ingested:
        raise UserError(
            f"none of the {found.ingested:,} images exists in {root}, such as {shortened(found.first_missing)}; is this the right root?"
        )
    if found.missing > how.max_rejected * found.ingested:
        share = 100 * found.missing / found.ingested
        print(
            f"warning: {share:.1f}% of the files are missing; the ingest fails with more than --max-rejected {how.max_rejected:g}"
        )
    places = f"{shlex.quote(str(root))} {shlex.quote(str(out or 'OUT'))}"
    next_steps.show(f"cxr-ray ingest {source} {places}{as_flags(options)}{how.words()}")
    return found


def as_flags(options: dict[str, Any]) -> str:
    """The flags that give these options, with a leading space."""
    words = []
    for name, value in options.items():
        for each in value if isinstance(value, list) else [value]:
            word = str(each) if isinstance(each, str | Path) else flags.plain(each)
            words += [f"--{name.replace('_', '-')}", shlex.quote(word)]
    return "".join(f" {word}" for word in words)


def run(source: str, root: AnyPath, out: AnyPath, options: dict[str, Any], how: Ingest = DEFAULTS) -> Any:
    """Ingest, print the path of the store, and return the result."""
    from cxr_ray.workflows.ingest import read_records, write_store

    size = how.size_HW
    given = {field.name: getattr(how, field.name) for field in dataclasses.fields(how)}
    del given["plugins"]
    hashed = {name: given.pop(name) for name in ("hash_patients", "hash_key")}
    records = read_records(
        source, root, options, **hashed
    )  # before Ray starts, so that a wrong path is reported at once
    result, _ = write_store(records, root, out, **{**given, "size": size})
    print(f"shards: {result.path.resolve()}")
    next_steps.show(f"cxr-ray describe {shlex.quote(str(out))}; {next_steps.train_on(out)}")
    return result
