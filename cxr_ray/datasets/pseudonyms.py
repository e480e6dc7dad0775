"""Identifiers to keyed hashes, the same for the same key, and the key itself, which is kept away from the data."""

import hashlib
import hmac
import os
import secrets
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from cxr_ray.datasets.base import Records
from cxr_ray.errors import UserError
from cxr_ray.storage.remote import Place

BITS = 80
"""Of a hash: two of 10^6 identifiers meet with a chance of 4 in 10^13."""


def default_key() -> Path:
    """Where the key of this user is kept."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "cxr_ray" / "hash.key"


def key(path: Path | None, *, away_from: Place) -> bytes:
    """The secret in the file `path` (None: `default_key`), made at random, readable by its owner alone, where there is none.

    Whoever has the key can try identifiers against the hashes: raises `UserError` where it lies in `away_from`, the data;
    and where it cannot be read or made, or holds less than 16 bytes."""
    path = path or default_key()
    if isinstance(away_from, Path) and path.resolve().is_relative_to(away_from.resolve()):
        raise UserError(f"the key {path} lies with the data, whose hashes it undoes; keep it elsewhere")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            pass
        else:
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32) + "\n")
        held = path.read_bytes().strip()
    except OSError as error:
        raise UserError(f"cannot read or make the key {path} ({error.strerror}); name another file") from None
    if len(held) < 16:
        raise UserError(f"the key {path} is shorter than 16 bytes; delete it, and a good one is made")
    return held


def hashed(kind: str, identifier: str, secret: bytes) -> str:
    """HMAC-SHA256 of an identifier, its first 80 bits in hexadecimal. `kind` keeps a patient 7 apart from a study 7."""
    return hmac.new(secret, f"{kind}\0{identifier}".encode(), hashlib.sha256).hexdigest()[: BITS // 4]


def hide(records: Records, secret: bytes) -> Records:
    """`records` whose patients, studies and file names are hashes; `places` still says where each image lies.

    A file name tells who somebody is in most datasets (patient00001/study1/...). Paths of masks are left out for that. The
    records of a source that hashes by itself come back as they are."""
    if records.files is not None:
        return records
    table = records.table.copy()
    for kind in ("patient", "study"):
        table[kind] = _hashed(table[kind], kind, secret)
    image = table["image"]
    suffix = image.map(lambda name: PurePosixPath(name).suffix.lower())
    table["image"] = _hashed(image, "image", secret) + suffix.astype(image.dtype)
    notes = list(records.notes)
    if table["mask"].notna().any():
        notes.append("paths of masks were left out: with hashed file names nothing would find them")
        table["mask"] = pd.Series(np.nan, index=table.index, dtype=image.dtype)
    return replace(records, table=table, files=image, notes=tuple(notes))


def _hashed(column: "pd.Series[str]", kind: str, secret: bytes) -> "pd.Series[str]":
    known = column.dropna().unique()
    return column.map({name: hashed(kind, name, secret) for name in known}).astype(column.dtype)
