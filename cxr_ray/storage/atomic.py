"""Files that are whole or absent: temporary name, fsync, rename (of a remote one: one upload); and their checksums."""

import errno
import fcntl
import hashlib
import io
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from cxr_ray.errors import UserError
from cxr_ray.storage.remote import PIECE, Place, Remote

FULL = (errno.ENOSPC, errno.EDQUOT)
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)


class Written(NamedTuple):
    """What went into a file."""

    bytes: int
    sha256: str
    """Hexadecimal, taken on the way out: no second read of a large file."""


def write_atomic(path: Place, body: str | bytes | Callable[[Any], object], *, within: Place | None = None) -> Written:
    """Write `body`, or what `body(file)` writes, so that `path` is as it was or whole, also after a kill or a full disk.

    The temporary file lies in the folder `within`, or beside; what goes to a remote place is held in memory instead. Raises
    `UserError` on a full disk or a folder that cannot be written; then `path` is as it was, and nothing is left beside it."""
    write = body if callable(body) else _writer(body)
    if isinstance(path, Remote):
        held = io.BytesIO()
        hashed = _Hashed(held)
        write(hashed)
        path.write_bytes(held.getbuffer())
        return Written(hashed.bytes, hashed.sha256.hexdigest())
    assert within is None or isinstance(within, Path)
    temporary = (within or path.parent) / f".{path.name}.{uuid.uuid4().hex}.tmp"
    try:
        with temporary.open("wb") as file:
            hashed = _Hashed(file)
            write(hashed)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise fixable(error, path) from None
        raise
    return Written(hashed.bytes, hashed.sha256.hexdigest())


def make_folder(place: Place) -> None:
    """Make `place`, and what is above it, where it is not there. Raises `UserError` where that is refused."""
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {place} ({error.strerror}); choose a folder that you may write to") from None


def fixable(error: OSError, path: Path) -> UserError | OSError:
    """The one-line answer to a full disk or a folder that is closed to us; any other error as it is."""
    if error.errno in FULL:
        return UserError(f"no space left to write {path}; free some and run the same command again")
    if error.errno in CLOSED:
        return UserError(f"cannot write {path} ({error.strerror}); choose a folder that you may write to")
    return error


def sync_folder(folder: Path) -> None:
    """Have the disk hold the names in `folder`."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def one_at_a_time(folder: Place) -> Iterator[bool]:
    """Keep others of this machine that ask so out of here, for a moment; the kernel lets go of the folder with its process. False
    where it cannot be locked (some network disks, a URL): there nobody is kept out."""
    with ExitStack() as open_files:
        try:
            descriptor = os.open(str(folder), os.O_RDONLY)
            open_files.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            alone = True
        except OSError:
            alone = False
        yield alone


def sha256(path: Place) -> str:
    """Hex digest of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while piece := handle.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _writer(body: str | bytes) -> Callable[[Any], object]:
    data = body.encode("utf-8") if isinstance(body, str) else body
    return lambda file: file.write(data)


class _Hashed:
    """A binary file that knows the sha256 and the length of what went through it."""

    def __init__(self, file: Any) -> None:
        self._file, self.sha256, self.bytes, self.closed = file, hashlib.sha256(), 0, False

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        self._file.write(data)
        self.bytes += len(data)
        return len(data)

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self.closed = True
