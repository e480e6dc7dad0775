"""Keyed hashes of identifiers, equal for equal keys, and the key file, which must be outside the dataset."""

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
from cxr_ray.storage.remote import AnyPath

BITS = 80
"""Bits of a hash: the probability that any two of 10^6 identifiers collide is 4 in 10^13."""


def default_key_path() -> Path:
    """The key file of this user."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "cxr_ray" / "hash.key"


def load_key(path: Path | None, *, outside: AnyPath | None) -> bytes:
    """The secret key in the file `path` (None: `default_key_path`). If there is none, a random key that only its owner can read
    is created.

    With the key, hashes can be tested against guessed identifiers: raises `UserError` if the file is in `outside`, the
    dataset's folder (None: there is none), cannot be read or created, or has less than 16 bytes."""
    path = path or default_key_path()
    if isinstance(outside, Path) and path.resolve().is_relative_to(outside.resolve()):
        raise UserError(
            f"the key {path} is in the dataset's folder, where it would expose the hashes; give another file"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            pass
        else:
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32) + "\n")
        secret = path.read_bytes().strip()
    except OSError as error:
        raise UserError(f"cannot read or create the key {path} ({error.strerror}); give another file") from None
    if len(secret) < 16:
        raise UserError(f"the key {path} is shorter than 16 bytes; delete it, and a new one is created")
    return secret


def pseudonym(kind: str, identifier: str, secret: bytes) -> str:
    """The first 80 bits of the HMAC-SHA256 of an identifier, in hexadecimal. `kind` separates patient 7 from study 7."""
    return hmac.new(secret, f"{kind}\0{identifier}".encode(), hashlib.sha256).hexdigest()[: BITS // 4]


def pseudonymise(records: Records, secret: bytes) -> Records:
    """`records` with hashes as patients, studies and file names; `Records.paths` still has the path of each image.

    In most datasets a file name identifies the patient (patient00001/study1/...). Paths of masks, and URLs, are removed for
    the same reason. Records with hashes of their source are returned unchanged."""
    if records.files is not None:
        return records
    table = records.table.copy()
    for kind in ("patient", "study"):
        table[kind] = _pseudonyms(table[kind], kind, secret)
    image = table["image"]
    suffix = image.map(lambda name: PurePosixPath(name).suffix.lower())
    table["image"] = _pseudonyms(image, "image", secret) + suffix.astype(image.dtype)
    notes = list(records.info.notes)
    if table["mask"].notna().any():
        notes.append("paths of masks were removed, because they contain the names that are hashed")
        table["mask"] = pd.Series(np.nan, index=table.index, dtype=image.dtype)
    if "url" in table:  # of a case report, or with the name of the file
        table["url"] = pd.Series(np.nan, index=table.index, dtype=image.dtype)
    info = records.info.model_copy(update={"notes": tuple(notes)})
    return replace(records, table=table, info=info, files=image)


def _pseudonyms(column: "pd.Series[str]", kind: str, secret: bytes) -> "pd.Series[str]":
    known = column.dropna().unique()
    return column.map({name: pseudonym(kind, name, secret) for name in known}).astype(column.dtype)
