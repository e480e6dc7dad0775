"""One live writer per folder, of a run or of an ingest: a lease file, renewed while its holder lives. Knows no run and no store.

The file is created only if none exists; that of a dead holder is removed under a lock of the folder. Its age is measured against
a file written now on the same disk, so that the clocks of two machines need not agree. On the holder's own machine a dead process
is detected at once; elsewhere its lease expires. If nothing can be locked (object stores, some network disks), and after a dead
holder on another machine, each process waits `SETTLE_S` and reads the lease again, so that one of two wins unless one was slower
than that; the slower one then notices at its next renewal that another holds the lease, and ends.
"""

import json
import os
import signal
import sys
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

from cxr_ray.errors import UserError
from cxr_ray.storage.atomic import folder_lock, write_atomic
from cxr_ray.storage.remote import AnyPath, RemotePath

NAME = "lease.json"
RENEW_S = 5.0
EXPIRES_S = 30.0
"""A holder on another machine counts as dead after this long without a renewal: six renewals missed."""
SETTLE_S = 1.0
"""Wait on an object store, or after a dead holder on another machine, before a new holder trusts its own lease; a request takes a
tenth of that."""


class Lease:
    """The right to write to `folder`, as a context manager. Raises `UserError`, which begins with `busy` and offers `alternative`,
    if another process holds it.

    A holder that did not renew in time (its machine slept) may find that another process has taken the lease. Two must not write
    to one folder: a block in the main thread is interrupted and raises `UserError`; in another thread, or if interrupts are
    ignored, the process prints the error and exits."""

    def __init__(self, folder: AnyPath, *, busy: str | None = None, alternative: str = "give another name") -> None:
        self._file = folder / NAME
        self._busy, self._alternative = busy or f"the run {folder} is being trained now", alternative
        self._holder = uuid.uuid4().hex
        self._ended = threading.Event()
        self._lost = threading.Event()

    def __enter__(self) -> "Lease":
        me = {"holder": self._holder, "pid": os.getpid(), "started": process_start(os.getpid()), "on": machine_id()}
        self._body = json.dumps(me).encode()
        if isinstance(self._file, RemotePath):
            self._take_remote(self._file)
        else:
            with folder_lock(self._file.parent) as locked:
                self._take(self._file, locked=locked)
        # Programs started in the background may ignore interrupts.
        interruptible = threading.current_thread() is threading.main_thread() and callable(
            signal.getsignal(signal.SIGINT)
        )
        self._thread = threading.Thread(target=self._renew, args=(interruptible,), name="cxr-lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        with folder_lock(self._file.parent):
            found = self._read()
            if found is not None and found["holder"] == self._holder:
                self._file.unlink(missing_ok=True)
        if self.lost and kind is KeyboardInterrupt:
            raise UserError(self._lost_message()) from None

    @property
    def lost(self) -> bool:
        """Whether another process has taken the lease: this one must write nothing more."""
        return self._lost.is_set()

    def _lost_message(self) -> str:
        return (
            f"this process did not renew its lease for over {EXPIRES_S:.0f} s and has lost {self._file.parent} to another process, "
            "which writes there now: wait for that one, or stop it and run the same command again"
        )

    def _take(self, file: Path, *, locked: bool) -> None:
        """Create the lease if none exists; remove that of a dead holder first. `locked`: no other process does so now."""
        settle = False
        while not self._create(file):
            found = self._read() or self._read(after_s=0.1)  # it may be half written
            if found is not None and found["holder"] == self._holder:  # on NFS the reply to a link may get lost
                break
            if found is not None and self._alive(found):
                raise self._busy_error(found)
            settle |= not locked or (found is not None and found.get("on") != machine_id())
            file.unlink(missing_ok=True)
        if settle:
            self._settle()

    def _create(self, file: Path) -> bool:
        """Create `file` with this lease, complete, unless it exists; whether it was created."""
        mine = file.with_name(f".{NAME}.{self._holder}.new")
        try:
            write_atomic(mine, self._body)
            os.link(mine, file)
        except FileExistsError:
            return False
        except OSError:  # a file system without links: for a moment others may see it half written
            try:
                with file.open("xb") as handle:
                    handle.write(self._body)
            except FileExistsError:
                return False
        finally:
            mine.unlink(missing_ok=True)
        return True

    def _take_remote(self, file: RemotePath) -> None:
        found = self._read()
        if found is not None and self._alive(found):
            raise self._busy_error(found)
        file.write_bytes(self._body)
        self._settle()

    def _settle(self) -> None:
        """Wait and read the lease again: of two that started at once the later one wins."""
        found = self._read(after_s=SETTLE_S)
        if found is None or found["holder"] != self._holder:
            raise self._busy_error(found or {"pid": "?"})

    def _renew(self, interruptible: bool) -> None:
        while not self._ended.wait(RENEW_S):
            try:
                found = self._read()
                if found is not None and found["holder"] != self._holder:
                    self._lost.set()
                    if not interruptible:
                        print(f"error: {self._lost_message()}", file=sys.stderr, flush=True)
                        os._exit(1)
                    # A signal also wakes a thread that waits.
                    signal.pthread_kill(int(threading.main_thread().ident or 0), signal.SIGINT)
                    return
                self._file.write_bytes(self._body) if isinstance(self._file, RemotePath) else os.utime(self._file)
            except (OSError, UserError):  # a folder that is unreachable now may be back in five seconds
                continue

    def _read(self, *, after_s: float = 0.0) -> dict[str, Any] | None:
        """The lease file; None if it is missing or unreadable."""
        time.sleep(after_s)
        try:
            found: dict[str, Any] = json.loads(self._file.read_text(encoding="utf-8"))
            return found if "holder" in found else None
        except (OSError, ValueError):
            return None

    @property
    def holder(self) -> str | None:
        """Who has the lease now, this process or another: the same as long as nobody else takes it. None if nobody has it."""
        found = self._read()
        return None if found is None else str(found["holder"])

    def is_abandoned(self) -> bool:
        """Whether the lease is that of a dead process, which did not give it back. Takes nothing."""
        found = self._read()
        return found is not None and not self._alive(found)

    def _alive(self, found: dict[str, Any]) -> bool:
        if found.get("on") == machine_id():
            return found.get("started") is not None and process_start(int(found["pid"])) == found["started"]
        return self._age() < EXPIRES_S

    def _age(self) -> float:
        now = self._file.parent / f".{NAME}.{self._holder}.now"
        try:
            now.write_bytes(b"")
            return now.stat().st_mtime - self._file.stat().st_mtime
        except OSError:
            return 0.0
        finally:
            now.unlink(missing_ok=True)

    def _busy_error(self, found: dict[str, Any]) -> UserError:
        here = found.get("on") == machine_id()
        where = f"process {found['pid']} of this machine" if here else "another machine"
        return UserError(
            f"{self._busy}, by {where}; wait for it, stop it, or {self._alternative}"
            + ("" if here else f" (the lease of a dead process expires after {EXPIRES_S:.0f} s)")
        )


def machine_id() -> str:
    """A hash that distinguishes this machine, and this container on it, from others without naming them."""
    parts = []
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            parts.append(str(Path(path).readlink()) if path.endswith("pid") else Path(path).read_text().strip())
        except OSError:
            parts.append(hex(uuid.getnode()))
    return uuid.uuid5(uuid.NAMESPACE_OID, " ".join(parts)).hex


def process_start(pid: int) -> str | None:
    """Start time of the process `pid` in kernel ticks; None if it is gone. Distinguishes a process number that is used again."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
        try:  # no /proc on this system: only whether it lives is known
            os.kill(pid, 0)
        except OSError:
            return None
        return "alive"
    except (OSError, IndexError):
        return None
