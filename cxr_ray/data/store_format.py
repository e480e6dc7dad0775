"""The store's format: file names, columns, the manifest, its digest and the checksums. Reads and writes no pixels."""

import hashlib
import json
import os
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from cxr_ray.data.info import DatasetInfo
from cxr_ray.errors import UserError
from cxr_ray.imaging.pixels import Aspect, Depth
from cxr_ray.labels import LABEL_PREFIX, label_column
from cxr_ray.storage.atomic import sha256 as file_sha256
from cxr_ray.storage.job_copy import place_in_copy
from cxr_ray.storage.remote import AnyPath, map_threaded, to_path

FORMAT_VERSION = 3
"""The format that is written, and the newest that is read. 1: uint8 images. 2: uint8 or uint16. 3: the label columns of the index
have a prefix, and prose does not count in the digest."""

MANIFEST = "manifest.json"

INDEX = "index.parquet"

REJECTED = "rejected.parquet"

BOXES = "boxes.parquet"

INGEST_FOLDER = ".ingest"
"""Folder of an unfinished ingest, inside the store's folder."""

MAX_SHARDS = 50_000
"""Shards of a store. A process maps each of them, and Linux allows 65,530 maps by default (`vm.max_map_count`); five digits number them."""

RECORD_COLUMNS = ("source_row", "image", "patient", "study", "view", "sex", "age", "source", "split", "mask")

LOCATION_COLUMNS = ("row", "shard", "offset")

IMAGE_COLUMNS = (
    "height", "width", "scale_y", "scale_x", "top", "left", "window_low", "window_high", "mean", "variance",
    "pixels_sha256", "file_sha256", "phash",
)  # fmt: skip

RESERVED = frozenset((*LOCATION_COLUMNS, *RECORD_COLUMNS, *IMAGE_COLUMNS))
"""Column names that no extra column of a source may have."""

MANIFEST_CHANGED = f"{MANIFEST}: bytes changed, its digest differs, so the other files cannot be checked"


@dataclass(frozen=True)
class ImageFormat:
    """Size and bit depth of the stored images."""

    size: tuple[int, int] = (224, 224)
    """(H, W) in pixels."""
    aspect: Aspect = "squash"
    """How an image of another aspect ratio is fitted to `size`."""
    depth: Depth = 8
    """Bits per gray value."""
    exact_jpeg: bool = False
    """JPEGs were decoded at full size; see `imaging.decode`."""


class FileEntry(BaseModel):
    """Length and checksum of one file of a store."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: int
    sha256: str


class Manifest(DatasetInfo):
    """What a store holds, with a checksum of every file and of the manifest itself."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)

    format_version: int = 1
    source: str
    """Name of the source that read the records."""
    size: tuple[int, int]
    """(H, W) of the stored images in pixels."""
    aspect: Aspect = "squash"
    depth: Depth = 8
    """Bits per stored gray value."""
    exact_jpeg: bool = False
    """JPEGs were decoded at full size. Only written if true, so that other manifests keep the bytes of 0.1.0."""
    settings: str = ""
    """Digest of the records and settings of the ingest. Equal digests: the same ingest would write the same bytes."""
    rows: int
    """Number of stored images."""
    rejected: int = 0
    """Number of listed images that could not be used."""
    files: dict[str, FileEntry]
    prose: str = ""
    """sha256 of the notes and the descriptions of filters, which do not count in the digest. Empty before format 3."""
    digest: str = ""
    """sha256 of the other fields as JSON with sorted keys, hexadecimal; see `fingerprint_of`."""

    @property
    def image_format(self) -> ImageFormat:
        """Format of the stored images."""
        return ImageFormat(self.size, self.aspect, self.depth, self.exact_jpeg)

    @property
    def info(self) -> DatasetInfo:
        """The fields that describe the dataset."""
        fields = {name: getattr(self, name) for name in DatasetInfo.model_fields}
        return DatasetInfo(**fields | {"default_labels": self.default_labels or self.labels})


def digest_of(body: Any) -> str:
    """sha256 of plain values as JSON with sorted keys, hexadecimal."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def without_prose(body: Mapping[str, Any]) -> dict[str, Any]:
    """`body` without notes and without the descriptions of filters: text for readers, which may be worded differently for the
    same data."""
    filters = [{k: v for k, v in rule.items() if k != "about"} for rule in body.get("filters", ())]
    return {**{k: v for k, v in body.items() if k != "notes"}, "filters": filters}


def prose_digest(body: Mapping[str, Any]) -> str:
    """sha256 of the notes of a manifest, then the descriptions of its filters."""
    return digest_of([*body.get("notes", ()), *(rule.get("about", "") for rule in body.get("filters", ()))])


def fingerprint_of(body: Mapping[str, Any]) -> str:
    """The digest of a manifest with the content `body`: of everything but the digests themselves and, from format 3, prose."""
    if body["format_version"] < 3:
        return digest_of({k: v for k, v in body.items() if k != "digest"})
    return digest_of({k: v for k, v in without_prose(body).items() if k not in ("prose", "digest")})


def canonical_json(body: Any) -> bytes:
    """The only accepted bytes of a manifest with the content `body`."""
    return (json.dumps(body, indent=1, ensure_ascii=False) + "\n").encode()


def digest_matches(text: bytes) -> bool:
    """Whether the bytes of a manifest agree with the digest inside."""
    body = json.loads(text)  # not the parsed model: fields of a later version count in the digest
    digest = body.pop("digest", "")
    if body["format_version"] >= 3 and body.get("prose") != prose_digest(body):
        return False
    return fingerprint_of(body) == digest and text == canonical_json({**body, "digest": digest})


# ---- reading


def read_manifest(folder: AnyPath) -> Manifest:
    """The manifest of the store in `folder`. Its digest is not checked. Raises `UserError` like `store.open`."""
    return parse_manifest(read_manifest_bytes(folder), folder)


def read_manifest_bytes(folder: AnyPath) -> bytes:
    """The bytes of the manifest in `folder`. Raises `UserError` if there is none, with the reason."""
    try:
        return (folder / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if (place := place_in_copy(folder)) is not None and not folder.exists():
            raise UserError(
                f"no store at {place} in Ray's copy of the working directory, where a job's relative paths lead: give its absolute path"
            ) from None
        if not folder.exists():
            raise UserError(f"no store at {folder}: there is no such folder; make one with cxr-ray ingest") from None
        if (folder / INGEST_FOLDER).is_dir() or any(folder.glob("images-*.arrow")):
            raise UserError(
                f"{folder} is an unfinished ingest: it has no {MANIFEST}; run the same ingest again to finish it"
            ) from None
        raise UserError(
            f"{folder} is not a store: it has no {MANIFEST}; give the folder that cxr-ray ingest wrote"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {folder / MANIFEST} ({error}); {fix_hint(folder)}") from None


def parse_manifest(text: bytes, folder: AnyPath) -> Manifest:
    """The manifest with the bytes `text`. `folder` is named in errors. Raises `UserError` for a damaged manifest or a newer
    format."""
    try:
        body = json.loads(text)
        version = body["format_version"]
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise UserError(
                f"{folder} has store format {version}, this cxr_ray reads up to {FORMAT_VERSION}; install a newer cxr_ray"
            )
        return Manifest.model_validate(body)
    except (ValueError, KeyError, TypeError, ValidationError):
        raise UserError(
            f"{folder / MANIFEST} is damaged: it is not a manifest of cxr_ray; {fix_hint(folder)}"
        ) from None


# ---- checking


def check(folder: AnyPath) -> Manifest:
    """The manifest of the store in `folder`, after a check of its digest and of every file's presence and size. Copies
    nothing. Raises `UserError` like `store.open`."""
    manifest = read_manifest(folder)
    refuse_damage(find_problems(folder, manifest, every_byte=False), folder, fix_hint(folder))
    return manifest


def verify(path: str | os.PathLike[str] | AnyPath) -> list[str]:
    """Check every checksum of the store in `path`. One line per problem (changed, cut, missing or extra file), starting with
    the file's name; empty if the store is intact. A remote store is read in place. Raises `UserError` if there is no store."""
    folder = to_path(path).absolute()
    try:
        manifest = read_manifest(folder)
    except UserError as error:
        if (folder / MANIFEST).exists():
            return [f"{MANIFEST}: {error}"]
        raise
    return find_problems(folder, manifest, every_byte=True)


def find_problems(folder: AnyPath, manifest: Manifest, *, every_byte: bool) -> list[str]:
    """The lines of `verify`. Without `every_byte`: only the manifest's digest, and each file's presence and size."""
    if not digest_matches(read_manifest_bytes(folder)):
        return [MANIFEST_CHANGED]
    names = sorted(manifest.files)
    problem_of_each = map_threaded(
        lambda name: _problem(folder / name, manifest.files[name], every_byte=every_byte), names
    )
    problems = [f"{name}: {problem}" for name, problem in zip(names, problem_of_each, strict=True) if problem]
    if every_byte:
        extra = {p.name for p in folder.iterdir()} - set(manifest.files) - {MANIFEST}
        problems += [f"{name}: extra, the manifest does not list it" for name in sorted(extra)]
    return problems


def _problem(file: AnyPath, entry: FileEntry, *, every_byte: bool) -> str:
    """What is wrong with one file, or an empty string."""
    try:
        size = file.stat().st_size
    except FileNotFoundError:
        return "missing"
    if size != entry.bytes:
        return f"{'cut' if size < entry.bytes else 'longer'}, {size} bytes instead of {entry.bytes}"
    return "bytes changed, its checksum differs" if every_byte and file_sha256(file) != entry.sha256 else ""


def refuse_damage(problems: Sequence[str], folder: AnyPath, fix: str) -> None:
    """Raises `UserError` with the first of `problems`, if there are any, and with the advice `fix`."""
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(f"{folder} is damaged: {problems[0]}{more}; {fix}")


def fix_hint(folder: AnyPath) -> str:
    """Advice for a damaged store, the end of an error message."""
    return f"`cxr-ray verify {shlex.quote(str(folder))}` lists all damage; ingest again into a new folder"


# ---- names


def shard_name(number: int, count: int) -> str:
    """`images-00003-of-00012.arrow` for number 3 of 12."""
    return f"images-{number:05d}-of-{count:05d}.arrow"


def separate_labels(table: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    """A table of records whose labels have columns of their own: one that has the name of a column of the store is renamed, see
    `labels.label_column`."""
    shared = [label_column(label, table.columns) for label in labels]
    return table.rename(columns={name: LABEL_PREFIX + name for name in shared if name in RESERVED})


def index_columns(table_columns: Collection[str], labels: Sequence[str]) -> list[str]:
    """Columns of the index in order, for records with `table_columns`. Raises `UserError` if an extra column of the source has a
    reserved name."""
    own = [label_column(label, table_columns) for label in labels]
    extra = [c for c in table_columns if c not in RECORD_COLUMNS and c not in own]
    for name in extra:
        if name in RESERVED or name.startswith(LABEL_PREFIX):
            raise UserError(f"the store reserves the column name {name!r}; rename that column in the dataset's table")
    return [*LOCATION_COLUMNS, *RECORD_COLUMNS, *extra, *IMAGE_COLUMNS, *own]


def names_on_disk(columns: Collection[str], labels: Sequence[str]) -> dict[str, str]:
    """Column of the index in memory to its name in index.parquet, of all label columns."""
    return {label_column(label, columns): LABEL_PREFIX + label for label in labels}


def names_in_memory(columns: Collection[str], labels: Sequence[str]) -> dict[str, str]:
    """The inverse of `names_on_disk`, without those that keep their name."""
    return {LABEL_PREFIX + label: label for label in labels if label not in columns and label not in RESERVED}
