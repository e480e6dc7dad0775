"""Check the bytes of an opened store against its checksums in a background thread, while the images are used.

Opening a store checks sizes only, since hashing takes as long as reading every byte once. A memory-mapped file that changes afterwards is read
without an error, so a training could learn from it. A change after the check is found at the next start. Nothing that was computed from the
images is kept before the check has passed.
"""

import hashlib
import platform
import threading
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from cxr_ray.data.store import Store
from cxr_ray.data.store_format import fix_hint
from cxr_ray.errors import UserError

CHUNK = 1 << 22
"""Bytes hashed at once; hashlib releases the GIL for each, so that training goes on."""


EVERY_BYTE = ("background", "full")
"""Values of `data.verify` that ask for a check of every byte."""
T = TypeVar("T")
Node = TypeVar("Node", bound=Hashable)


class Check(Protocol):
    """A check that is running, here or on another node."""

    @property
    def is_done(self) -> bool:
        """Whether `wait` returns at once."""
        ...

    def wait(self) -> None:
        """Wait for the verdict. Raises `UserError` for damage."""
        ...

    def cancel(self) -> None:
        """End it without a verdict."""
        ...


class ByteCheck:
    """Hashes every file of `store` in a thread that starts at once. `wait` gives the verdict, `cancel` ends the thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cancelled = threading.Event()
        self._problem: str | None = None
        self._thread = threading.Thread(target=self._run, name="cxr-bytes", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until every file is hashed. Raises `UserError` that names the first damaged file, its rows, and this node."""
        self._thread.join()
        if self._problem is not None:
            raise UserError(self._problem)

    @property
    def is_done(self) -> bool:
        """Whether `wait` returns at once."""
        return not self._thread.is_alive()

    def cancel(self) -> None:
        """End the thread without a verdict."""
        self._cancelled.set()
        self._thread.join()

    def _run(self) -> None:
        for name in sorted(self._store.manifest.files):
            file = self._store.path / name
            try:
                found = self._hash(file)
            except OSError as error:
                self._problem = self._message(name, f"cannot be read ({error.strerror})")
                return
            if found is None:
                return
            if found != self._store.manifest.files[name].sha256:
                self._problem = self._message(name, "has changed: its checksum differs")
                return

    def _hash(self, file: Path) -> str | None:
        """The file's sha256; None if the check is cancelled."""
        hashed = hashlib.sha256()
        with file.open("rb", buffering=0) as opened:
            while chunk := opened.read(CHUNK):
                hashed.update(chunk)
                if self._cancelled.is_set():
                    return None
        return hashed.hexdigest()

    def _message(self, name: str, problem: str) -> str:
        store = self._store
        fix = (
            fix_hint(store.path)
            if store.origin == str(store.path)
            else f"it is a copy of {store.origin}: delete it, and it is copied again"
        )
        return f"{store.path / name}{_rows_of(store, name)} {problem}, on the node {platform.node()}; {fix}"


def start(store: Any, verify: str = "background") -> ByteCheck | None:
    """A check of `store` as `data.verify` says; None if that asks for none, or if the store is in memory and has no files."""
    return ByteCheck(store) if isinstance(store, Store) and verify in EVERY_BYTE else None


@contextmanager
def checked(store: Any, verify: str) -> Iterator[None]:
    """Check `store` while the block computes from its images; the end of the block waits. Raises `UserError` for damage."""
    check = start(store, verify)
    try:
        yield
        if check is not None:
            check.wait()
    finally:
        if check is not None:
            check.cancel()


def once_checked(
    results: Iterable[tuple[Node, T]], check_on: Callable[[Node], Check | None]
) -> Generator[T, None, None]:
    """Pass on results with the node that each was computed on, once the bytes that this node reads are checked.

    `check_on` starts the check of a node with its first result; None: it needs none. Raises `UserError` for damage: then no result of
    that node was passed on."""
    checks: dict[Node, Check | None] = {}
    waiting: dict[Node, list[T]] = {}
    try:
        for node, result in results:
            if node not in checks:
                checks[node] = check_on(node)
            waiting.setdefault(node, []).append(result)
            check = checks[node]
            if check is None or check.is_done:
                if check is not None:
                    check.wait()
                yield from waiting.pop(node)
        for node, check in checks.items():
            if check is not None:
                check.wait()
            yield from waiting.pop(node, [])
    finally:
        for check in checks.values():
            if check is not None:
                check.cancel()


def _rows_of(store: Store, name: str) -> str:
    """The row numbers in the shard called `name`, as text."""
    shards = sorted(file for file in store.manifest.files if file.endswith(".arrow"))
    if name not in shards:
        return ""
    rows = store.index.loc[store.index["shard"] == shards.index(name), "row"]
    return f" (rows {rows.min()} to {rows.max()})" if len(rows) else ""
