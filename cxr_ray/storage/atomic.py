"""Atomic file writes and folders (temporary name, fsync, rename; remotely one upload), checksums, and a lock per folder. Knows no format."""

import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from cxr_ray.errors import UserError
from cxr_ray.storage.job_copy import check_lasting
from cxr_ray.storage.remote import CHUNK_BYTES, AnyPath, RemotePath

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


class WrittenFile(NamedTuple):
    """Size and checksum of a file that was written."""

    bytes: int
    sha256: str
    """Hexadecimal, computed while writing: a large file is not read again."""


def write_atomic(
    path: AnyPath, body: str | bytes | Callable[[Any], object], *, temporary_folder: AnyPath | None = None
) -> WrittenFile:
    """Write `body`, or what `body(file)` writes, so that `path` is either unchanged or complete, even after a kill or a full disk.

    The temporary file is in `temporary_folder`, by default in the folder of `path`; a remote file is buffered in memory instead.
    Raises `UserError` on a full disk, if the folder is not writable, or as `check_lasting` does; then `path` is unchanged and no temporary file is left."""
    check_lasting(path)
    write = body if callable(body) else _writer(body)
    if isinstance(path, RemotePath):
        buffer = io.BytesIO()
        hashing = _HashingFile(buffer)
        write(hashing)
        path.write_bytes(buffer.getbuffer())
        return WrittenFile(hashing.bytes, hashing.sha256.hexdigest())
    assert temporary_folder is None or isinstance(temporary_folder, Path)
    temporary = (temporary_folder or path.parent) / f".{path.name}.{uuid.uuid4().hex}.tmp"
    try:
        with temporary.open("wb") as file:
            hashing = _HashingFile(file)
            write(hashing)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        fsync_folder(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise as_user_error(error, path) from None
        raise
    return WrittenFile(hashing.bytes, hashing.sha256.hexdigest())


def make_folder(folder: AnyPath) -> None:
    """Make `folder` and its parents if they are missing. Raises `UserError` if that fails, and as `check_lasting` does."""
    check_lasting(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {folder} ({error.strerror}); choose a folder that you may write to") from None


def check_replaceable(folder: Path, *, marker: str) -> None:
    """Raises `UserError` if `replace_folder` would refuse `folder`: it is neither empty nor has it a file named `marker`. For work that
    takes long before it writes."""
    if folder.exists() and not (folder.is_dir() and ((folder / marker).is_file() or not any(folder.iterdir()))):
        raise UserError(
            f"{folder.absolute()} exists and was not written by this command (it has no {marker}); choose another folder"
        )


@contextmanager
def replace_folder(folder: Path, *, marker: str) -> Iterator[Path]:
    """A new folder to fill, which becomes `folder` after the block. If the block raises, `folder` is unchanged and nothing is left.

    An earlier `folder` is replaced as a whole if it is empty or has a file named `marker`. Raises `UserError` for any other, before
    the block, and on a full disk or a folder that is not writable."""
    folder = folder.absolute()
    check_replaceable(folder, marker=marker)
    make_folder(folder.parent)
    temporary = folder.parent / f".{folder.name}.{uuid.uuid4().hex}.tmp"
    old = temporary.with_suffix(".old")
    try:
        temporary.mkdir()
        yield temporary
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
        fsync_folder(folder.parent)
    except BaseException as error:
        if old.exists() and not folder.exists():
            old.rename(folder)
        if isinstance(error, OSError):
            raise as_user_error(error, folder) from None
        raise
    finally:
        for left in (temporary, old):
            shutil.rmtree(left, ignore_errors=True)


def as_user_error(error: OSError, path: Path) -> UserError | OSError:
    """A one-line error for a full disk or a path that is not writable; any other error unchanged."""
    if error.errno in DISK_FULL:
        return UserError(f"no space left to write {path}; free some and run the same command again")
    if error.errno in NOT_WRITABLE:
        return UserError(f"cannot write {path} ({error.strerror}); choose a folder that you may write to")
    return error


def fsync_folder(folder: Path) -> None:
    """Flush the names in `folder` to disk, so that a rename survives a crash."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def folder_lock(folder: AnyPath) -> Iterator[bool]:
    """Exclude other processes of this machine that take the same lock, briefly; the kernel releases it if this process dies.

    False if the folder cannot be locked (some network disks, a URL): then nobody is excluded."""
    with ExitStack() as open_files:
        try:
            descriptor = os.open(str(folder), os.O_RDONLY)
            open_files.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            locked = True
        except OSError:
            locked = False
        yield locked


def update_json(file: Path, changes: Mapping[str, Any]) -> None:
    """Update keys of the JSON mapping in `file` atomically.

    A lock on the folder serialises driver, workers, trackers and `evaluate` on one machine, so that no update is lost."""
    with folder_lock(file.parent):
        current = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        write_atomic(file, json.dumps({**current, **changes}, indent=1, sort_keys=True))


def sha256(path: AnyPath) -> str:
    """Hex digest of a file, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _writer(body: str | bytes) -> Callable[[Any], object]:
    data = body.encode("utf-8") if isinstance(body, str) else body
    return lambda file: file.write(data)


class _HashingFile:
    """A binary file that computes the sha256 and the length of what is written to it."""

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
