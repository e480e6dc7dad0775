"""One copy of a remote store a node, shared by its processes: where it lies, whose turn it is to copy, what of it is there.

A copy's folder is called by the digest of the store's manifest, so a store that was written anew is another copy. The
manifest is written last: without it a copy is known to be cut, and the next process goes on with the files that are missing.
What a manifest says is `shards.py`'s.
"""

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from cxr_ray.errors import UserError
from cxr_ray.storage.atomic import fixable, write_atomic
from cxr_ray.storage.remote import PIECE, Remote, ahead

_private: dict[str, Path] = {}
"""Copies of this process alone, by digest."""


class Entry(Protocol):
    """What is known of a file before it is copied."""

    @property
    def bytes(self) -> int: ...
    @property
    def sha256(self) -> str: ...


def folder(cache: str, digest: str) -> Path:
    """Where the copy of the store `digest` lies. `cache`: auto (`XDG_CACHE_HOME`, else ~/.cache), a folder, or none: a
    folder of this process alone, removed when it ends."""
    if cache == "none":
        if digest not in _private:
            _private[digest] = Path(tempfile.mkdtemp(prefix="cxr-ray-store-"))
            atexit.register(shutil.rmtree, _private[digest], ignore_errors=True)
        return _private[digest] / digest
    if cache == "auto":
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cxr_ray" / "stores" / digest
    return Path(cache).absolute() / digest


def copied(
    remote: Remote,
    into: Path,
    files: Mapping[str, Entry],
    last: tuple[str, bytes],
    *,
    log: Callable[[str], None] | None = None,
) -> Path:
    """Have `files` of the folder `remote`, checked against their lengths and checksums, in `into`, and then the file `last`
    (name, content). Returns `into`.

    One process copies, the others wait and find it done. Raises `UserError` where a file is not what its entry says, and on a
    full disk."""
    if _is_whole(into, files, last):
        return into
    try:
        into.mkdir(parents=True, exist_ok=True)
        with _turn(into.parent / f"{into.name}.lock"):
            if not _is_whole(into, files, last):
                _copy(remote, into, files, last, log)
    except OSError as error:
        told = fixable(error, into)
        if told is error:
            told = UserError(f"cannot make the copy {into} ({error.strerror}); name another folder with data.cache")
        raise told from None
    return into


def _is_whole(into: Path, files: Mapping[str, Entry], last: tuple[str, bytes]) -> bool:
    """Whether all is there, each file of its length; the bytes were checked when they came."""
    name, content = last
    try:
        return (into / name).read_bytes() == content and not _missing(into, files)
    except OSError:
        return False


def _missing(into: Path, files: Mapping[str, Entry]) -> list[str]:
    return [name for name, entry in files.items() if _length(into / name) != entry.bytes]


def _length(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return -1


def _copy(
    remote: Remote,
    into: Path,
    files: Mapping[str, Entry],
    last: tuple[str, bytes],
    log: Callable[[str], None] | None,
) -> None:
    for stale in into.glob(".*.tmp"):  # of a killed process: this one has the turn
        stale.unlink(missing_ok=True)
    todo = _missing(into, files)
    mib = sum(files[name].bytes for name in todo) / 2**20
    free = shutil.disk_usage(into).free / 2**20
    if mib > free:
        raise UserError(
            f"no space for a copy of {remote}: it takes {mib:,.0f} MiB, {into.parent} has {free:,.0f} MiB free; "
            "free some, or name another folder with data.cache"
        )
    if log is not None and todo:
        rest = "" if len(todo) == len(files) else f", the rest of {len(files)} files"
        log(f"copying {remote} to {into}: {mib:,.0f} MiB{rest}")

    def one(name: str) -> None:
        entry = files[name]

        def write(file: Any) -> None:
            with (remote / name).open() as source:
                shutil.copyfileobj(source, file, PIECE)
            if (file.bytes, file.sha256.hexdigest()) != (entry.bytes, entry.sha256):
                raise UserError(
                    f"{remote / name} is not what its manifest says; `cxr-ray verify '{remote}'` lists all damage; ingest "
                    "again into a fresh folder"
                )

        try:
            write_atomic(into / name, write)
        except FileNotFoundError:
            raise UserError(
                f"{remote / name} is missing; `cxr-ray verify '{remote}'` lists all damage; ingest again into a fresh folder"
            ) from None

    for _ in ahead(one, todo, at_once=8):
        pass
    write_atomic(into / last[0], last[1])


@contextmanager
def _turn(lock: Path) -> Iterator[None]:
    """The turn of one process of this machine; the kernel ends it with the process, however that ends."""
    with lock.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
