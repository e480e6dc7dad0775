"""The store's format: file names, columns, the manifest, its digest and checksums. Pixels are neither read nor written."""
# N images, H x W pixels of the stored picture, L labels

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from cxr_ray.errors import UserError
from cxr_ray.imaging.pixels import Depth
from cxr_ray.labels import Filter
from cxr_ray.storage.atomic import sha256 as file_sha256
from cxr_ray.storage.remote import Place, ahead, place

FORMAT_VERSION = 2
"""1: uint8. 2: what 1 has, or uint16; written only where that is used."""

MANIFEST = "manifest.json"

INDEX = "index.parquet"

REJECTED = "rejected.parquet"

BOXES = "boxes.parquet"

WORKSHOP = ".ingest"
"""Folder of an unfinished ingest inside the store's."""

RECORD_COLUMNS = ("source_row", "image", "patient", "study", "view", "sex", "age", "source", "split", "mask")

PLACE_COLUMNS = ("row", "shard", "offset")

PICTURE_COLUMNS = (
    "height", "width", "scale_y", "scale_x", "top", "left", "window_low", "window_high", "mean", "variance",
    "pixels_sha256", "file_sha256", "phash",
)  # fmt: skip

RESERVED = frozenset((*PLACE_COLUMNS, *RECORD_COLUMNS, *PICTURE_COLUMNS))
"""Column names that no label and no extra column of a source may take."""


class FileEntry(BaseModel):
    """One file of a store as the manifest knows it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a store holds, with a checksum of every file and of this body itself."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)

    format_version: int = 1
    source: str
    """Name of the source that read the records."""
    labels: tuple[str, ...]
    task: Literal["multilabel", "multiclass", "binary"]
    groups: dict[str, tuple[str, ...]] = {}
    """Label groups by name."""
    filters: tuple[Filter, ...] = ()
    """The cleaning that the source declares; applied in the plan, not here."""
    default_labels: tuple[str, ...] = ()
    """Labels that the declared cleaning keeps."""
    features: tuple[str, ...] = ()
    """Columns whose balance between the parts is watched."""
    notes: tuple[str, ...] = ()
    """What every report about this store must say."""
    size: tuple[int, int]
    """(H, W) of the stored pictures."""
    aspect: Literal["squash", "pad", "center_crop"] = "squash"
    depth: Depth = 8
    """Bits of a stored gray value."""
    settings: str = ""
    """Digest of the records and settings of the ingest: equal means that the same ingest would write the same bytes."""
    rows: int
    """Images in the store."""
    rejected: int = 0
    """Images listed that could not be used."""
    files: dict[str, FileEntry]
    digest: str = ""
    """sha256 of all the above as JSON with sorted keys, hexadecimal."""


def format_version(depth: Depth) -> int:
    """The first format that holds pictures of `depth` bits: older readers still read what they can."""
    return 1 if depth == 8 else 2


def digest_of(body: Any) -> str:
    """sha256 of plain values as JSON with sorted keys, hexadecimal."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def check(folder: Place) -> Manifest:
    """The manifest of the store in `folder`, once every file is there and of its size; nothing is copied. Raises `UserError`
    as `open`."""
    manifest = read_manifest(folder)
    _refuse(_problems(folder, manifest, every_byte=False), folder, _fix_hint(folder))
    return manifest


def _refuse(problems: list[str], folder: Place, fix: str) -> None:
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(f"{folder} is damaged: {problems[0]}{more}; {fix}")


def read_manifest(folder: Place) -> Manifest:
    """The manifest of the store in `folder`; its digest is not checked. Raises `UserError` as `open`."""
    return _parsed(_text(folder), folder)


def _text(folder: Place) -> bytes:
    """The manifest as it stands in its file."""
    try:
        return (folder / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if not folder.exists():
            raise UserError(f"no store at {folder}: there is no such folder; make one with cxr-ray ingest") from None
        if (folder / WORKSHOP).is_dir() or any(folder.glob("images-*.arrow")):
            raise UserError(
                f"{folder} is an unfinished ingest: it has no {MANIFEST}; run the same ingest again and it goes on where it stopped"
            ) from None
        raise UserError(
            f"{folder} is not a store: it has no {MANIFEST}; give the folder that cxr-ray ingest wrote"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {folder / MANIFEST} ({error}); {_fix_hint(folder)}") from None


def _parsed(text: bytes, folder: Place) -> Manifest:
    try:
        body = json.loads(text)
        version = body["format_version"]
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise UserError(
                f"{folder} is of store format {version}, this cxr_ray reads up to {FORMAT_VERSION}; install a newer cxr_ray"
            )
        return Manifest.model_validate(body)
    except (ValueError, KeyError, TypeError, ValidationError):
        raise UserError(f"{folder / MANIFEST} is damaged: it is not a manifest of ours; {_fix_hint(folder)}") from None


def _fix_hint(folder: Place) -> str:
    return f"cxr-ray verify {folder} lists all damage; ingest again into a fresh folder"


def verify(path: str | os.PathLike[str] | Place) -> list[str]:
    """Every checksum of the store in `path`: one line a problem, naming the file (flipped, cut, missing or extra); empty
    where all is well. A remote store is read where it lies. Raises `UserError` where there is no store."""
    folder = place(path).absolute()
    try:
        manifest = read_manifest(folder)
    except UserError as error:
        if (folder / MANIFEST).exists():
            return [f"{MANIFEST}: {error}"]
        raise
    return _problems(folder, manifest, every_byte=True)


NOT_ITSELF = f"{MANIFEST}: bytes changed, its digest differs, so the other files cannot be judged by it"


def _problems(folder: Place, manifest: Manifest, *, every_byte: bool) -> list[str]:
    if not _is_itself(_text(folder)):
        return [NOT_ITSELF]
    names = sorted(manifest.files)
    found_out = ahead(lambda name: _problem(folder / name, manifest.files[name], every_byte=every_byte), names)
    problems = [f"{name}: {what}" for name, what in zip(names, found_out, strict=True) if what]
    if every_byte:
        found = {p.name for p in folder.iterdir()} - set(manifest.files) - {MANIFEST}
        problems += [f"{name}: extra, the manifest does not know it" for name in sorted(found)]
    return problems


def _problem(file: Place, entry: FileEntry, *, every_byte: bool) -> str:
    """What is wrong with one file, or nothing."""
    try:
        size = file.stat().st_size
    except FileNotFoundError:
        return "missing"
    if size != entry.bytes:
        return f"{'cut' if size < entry.bytes else 'longer'}, {size} bytes instead of {entry.bytes}"
    return "bytes changed, its checksum differs" if every_byte and file_sha256(file) != entry.sha256 else ""


def _is_itself(text: bytes) -> bool:
    """Whether a manifest bears out its own digest."""
    body = json.loads(text)  # as it stands in the file: fields that this version does not know count too
    digest = body.pop("digest", "")
    return digest_of(body) == digest and text == _canonical({**body, "digest": digest})


# ---- writing


def shard_name(number: int, count: int) -> str:
    """`images-00003-of-00012.arrow` for number 3 of 12."""
    return f"images-{number:05d}-of-{count:05d}.arrow"


def _canonical(body: Any) -> bytes:
    return (json.dumps(body, indent=1, ensure_ascii=False) + "\n").encode()


def index_columns(table_columns: Iterable[str], labels: Sequence[str]) -> list[str]:
    """Columns of index.parquet in order, of a source whose table has `table_columns`. Raises `UserError` where a label or
    an extra column of the source takes a name that the store needs."""
    clash = sorted(RESERVED.intersection(labels))
    names = [c for c in table_columns if c not in RECORD_COLUMNS and c not in labels]
    clash += sorted(RESERVED.intersection(names))
    if clash:
        raise UserError(
            f"the store keeps the column name {clash[0]!r} for itself; rename that label or column in the dataset's table"
        )
    return [*PLACE_COLUMNS, *RECORD_COLUMNS, *names, *PICTURE_COLUMNS, *labels]
