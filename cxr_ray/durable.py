"""Files that are whole or absent: temporary name, fsync, rename; and their checksums."""

import hashlib
import os
from pathlib import Path


def write_whole(path: Path, body: str | bytes) -> None:
    """Write `body` so that `path` is either as it was or whole, also after a kill or a full disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(body.encode("utf-8") if isinstance(body, str) else body)
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have the disk hold what was written to `path`."""
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes, read in pieces."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
