"""One copy of a remote store per node, shared by its processes: its folder, its lock, and which files are missing.

The folder has the digest of the store's manifest as its name, so a store that was written again gets another copy. The
manifest is written last: without it a copy is incomplete, and the next process copies the missing files. Parses no
manifest.
"""

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from cxr_ray.data.store_format import fix_hint
from cxr_ray.errors import UserError
from cxr_ray.storage.atomic import as_user_error, write_atomic
from cxr_ray.storage.remote import CHUNK_BYTES, RemotePath, map_threaded

_private: dict[str, Path] = {}
"""Temporary folders of this process, by digest."""


class Entry(Protocol):
    """Expected length and checksum of a file."""

    @property
    def bytes(self) -> int: ...
    @property
    def sha256(self) -> str: ...


def folder(cache: str, digest: str) -> Path:
    """Folder of the copy of the store `digest`. `cache`: auto (in `XDG_CACHE_HOME`, else in ~/.cache), a folder, or none (a
    temporary folder of this process, removed at its end)."""
    if cache == "none":
        if digest not in _private:
            _private[digest] = Path(tempfile.mkdtemp(prefix="cxr-ray-store-"))
            atexit.register(shutil.rmtree, _private[digest], ignore_errors=True)
        return _private[digest] / digest
    if cache == "auto":
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cxr_ray" / "stores" / digest
    return Path(cache).absolute() / digest


def copy_store(
    remote: RemotePath,
    into: Path,
    files: Mapping[str, Entry],
    last: tuple[str, bytes],
    *,
    log: Callable[[str], None] | None = None,
) -> Path:
    """Copy `files` of the folder `remote` to `into`, with a check of their lengths and checksums, then the file `last` (name,
    content). Returns `into`.

    One process copies; others wait and find the copy complete. Raises `UserError` if a file does not match its entry, and on
    a full disk."""
    if _is_complete(into, files, last):
        return into
    try:
        into.mkdir(parents=True, exist_ok=True)
        with _locked(into.parent / f"{into.name}.lock"):
            if not _is_complete(into, files, last):
                _copy(remote, into, files, last, log)
    except OSError as error:
        known = as_user_error(error, into)
        if known is error:
            known = UserError(f"cannot make the copy {into} ({error.strerror}); name another folder with data.cache")
        raise known from None
    return into


def _is_complete(into: Path, files: Mapping[str, Entry], last: tuple[str, bytes]) -> bool:
    """Whether all files are there with their lengths. The bytes were checked while copying."""
    name, content = last
    try:
        return (into / name).read_bytes() == content and not _missing(into, files)
    except OSError:
        return False


def _missing(into: Path, files: Mapping[str, Entry]) -> list[str]:
    return [name for name, entry in files.items() if _length(into / name) != entry.bytes]


def check_space(remote: RemotePath, into: Path, files: Mapping[str, Entry]) -> None:
    """Raises `UserError` if the disk of `into`, which need not exist, has no space for what the copy still lacks."""
    disk = next(folder for folder in (into, *into.parents) if folder.exists())
    needed, free = _mib(_missing(into, files), files), shutil.disk_usage(disk).free / 2**20
    if needed > free:
        raise UserError(
            f"no space for a copy of {remote}: it needs {needed:,.0f} MiB, {into.parent} has {free:,.0f} MiB free; "
            "free some, or name another folder with data.cache"
        )


def _mib(names: Iterable[str], files: Mapping[str, Entry]) -> float:
    return sum(files[name].bytes for name in names) / 2**20


def _length(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return -1


def _copy(
    remote: RemotePath,
    into: Path,
    files: Mapping[str, Entry],
    last: tuple[str, bytes],
    log: Callable[[str], None] | None,
) -> None:
    for stale in into.glob(".*.tmp"):  # left by a killed process: this one has the lock
        stale.unlink(missing_ok=True)
    check_space(remote, into, files)
    todo = _missing(into, files)
    if log is not None and todo:
        rest = "" if len(todo) == len(files) else f", the rest of {len(files)} files"
        log(f"copying {remote} to {into}: {_mib(todo, files):,.0f} MiB{rest}")

    def copy_file(name: str) -> None:
        entry = files[name]

        def write(file: Any) -> None:
            with (remote / name).open() as source:
                shutil.copyfileobj(source, file, CHUNK_BYTES)
            if (file.bytes, file.sha256.hexdigest()) != (entry.bytes, entry.sha256):
                raise UserError(f"{remote / name} does not match the store's manifest; {fix_hint(remote)}")

        try:
            write_atomic(into / name, write)
        except FileNotFoundError:
            raise UserError(f"{remote / name} is missing; {fix_hint(remote)}") from None

    for _ in map_threaded(copy_file, todo, threads=8):
        pass
    write_atomic(into / last[0], last[1])


@contextmanager
def _locked(lock: Path) -> Iterator[None]:
    """Exclusive lock for one process of this machine. The kernel releases it when the process ends, for any reason."""
    with lock.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
