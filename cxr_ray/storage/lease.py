"""One live writer a folder, of a run or of an ingest: a lease file, renewed while its holder lives.

The file appears only where none is; a dead one's is removed under a lock of the folder. Its age is measured against a file
written now on the same disk, so that clocks of two machines need not agree. On the holder's own machine a dead process is known
at once; elsewhere its lease runs out. Where nothing can be locked (object stores, some network disks), and after a dead one of
another machine, each waits `SETTLE_S` and looks again, so two are told apart unless one was slower than that; it then notices at its
next renewal that the lease is another's, and ends.
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
from cxr_ray.storage.atomic import one_at_a_time, write_atomic
from cxr_ray.storage.remote import Place, Remote

NAME = "lease.json"
RENEW_S = 5.0
LASTS_S = 30.0
"""A holder elsewhere that was silent for so long is taken for dead: six renewals missed."""
SETTLE_S = 1.0
"""Wait of a holder on an object store, or after a dead one of another machine, before it believes its own lease; a request takes
a tenth of that."""


class Lease:
    """The right to write to `folder`, as a context manager. Raises `UserError`, which begins with `busy`, where another
    process holds it.

    A holder that was silent for too long (its machine slept) may find another's lease in its place. Two must not write to one
    folder: a block in the main thread is interrupted and raises `UserError`; elsewhere, or where interrupts are ignored, the process
    says so and ends."""

    def __init__(self, folder: Place, *, busy: str | None = None, instead: str = "give another --name") -> None:
        self._file = folder / NAME
        self._busy, self._instead = busy or f"the run {folder} is being trained now", instead
        self._holder = uuid.uuid4().hex
        self._ended = threading.Event()
        self._lost = threading.Event()

    def __enter__(self) -> "Lease":
        me = {"holder": self._holder, "pid": os.getpid(), "started": _started(os.getpid()), "on": _machine()}
        self._body = json.dumps(me).encode()
        if isinstance(self._file, Remote):
            self._take_remote(self._file)
        else:
            with one_at_a_time(self._file.parent) as alone:
                self._take(self._file, alone=alone)
        # Programs that are started in the background may ignore interrupts.
        hears = threading.current_thread() is threading.main_thread() and callable(signal.getsignal(signal.SIGINT))
        self._thread = threading.Thread(target=self._renew, args=(hears,), name="cxr-lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        with one_at_a_time(self._file.parent):
            held = self._read()
            if held is not None and held["holder"] == self._holder:
                self._file.unlink(missing_ok=True)
        if self._lost.is_set() and kind is KeyboardInterrupt:
            raise UserError(self._said_lost()) from None

    def _said_lost(self) -> str:
        return (
            f"this process was silent for over {LASTS_S:.0f} s and has lost {self._file.parent} to another, which writes there now: "
            "wait for that one, or stop it and run the same command again"
        )

    def _take(self, file: Path, *, alone: bool) -> None:
        """Make the lease appear where none is, a dead one removed first; `alone` where no other does that now."""
        settle = False
        while not self._appear(file):
            held = self._read() or self._read(after_s=0.1)  # it may be in the making
            if held is not None and held["holder"] == self._holder:  # the answer to a link may get lost on NFS
                break
            if held is not None and self._alive(held):
                raise self._taken(held)
            settle |= not alone or (held is not None and held.get("on") != _machine())
            file.unlink(missing_ok=True)
        if settle:
            self._believe()

    def _appear(self, file: Path) -> bool:
        """Let `file` hold this lease, whole, where nothing is; whether it was so."""
        mine = file.with_name(f".{NAME}.{self._holder}.new")
        try:
            write_atomic(mine, self._body)
            os.link(mine, file)
        except FileExistsError:
            return False
        except OSError:  # a file system without links: for a moment it may be seen half written
            try:
                with file.open("xb") as handle:
                    handle.write(self._body)
            except FileExistsError:
                return False
        finally:
            mine.unlink(missing_ok=True)
        return True

    def _take_remote(self, file: Remote) -> None:
        held = self._read()
        if held is not None and self._alive(held):
            raise self._taken(held)
        file.write_bytes(self._body)
        self._believe()

    def _believe(self) -> None:
        """Wait and look again: of two that started at once the later one has it."""
        after = self._read(after_s=SETTLE_S)
        if after is None or after["holder"] != self._holder:
            raise self._taken(after or {"pid": "?"})

    def _renew(self, hears: bool) -> None:
        while not self._ended.wait(RENEW_S):
            try:
                held = self._read()
                if held is not None and held["holder"] != self._holder:
                    self._lost.set()
                    if not hears:
                        print(f"error: {self._said_lost()}", file=sys.stderr, flush=True)
                        os._exit(1)
                    # A signal, since it also wakes a thread that waits.
                    signal.pthread_kill(int(threading.main_thread().ident or 0), signal.SIGINT)
                    return
                self._file.write_bytes(self._body) if isinstance(self._file, Remote) else os.utime(self._file)
            except (OSError, UserError):  # a folder that cannot be reached now may be there again in five seconds
                continue

    def _read(self, *, after_s: float = 0.0) -> dict[str, Any] | None:
        """Who holds the lease; None where there is none, or none that can be read."""
        time.sleep(after_s)
        try:
            held: dict[str, Any] = json.loads(self._file.read_text(encoding="utf-8"))
            return held if "holder" in held else None
        except (OSError, ValueError):
            return None

    def _alive(self, held: dict[str, Any]) -> bool:
        if held.get("on") == _machine():
            return held.get("started") is not None and _started(int(held["pid"])) == held["started"]
        return self._age() < LASTS_S

    def _age(self) -> float:
        now = self._file.parent / f".{NAME}.{self._holder}.now"
        try:
            now.write_bytes(b"")
            return now.stat().st_mtime - self._file.stat().st_mtime
        except OSError:
            return 0.0
        finally:
            now.unlink(missing_ok=True)

    def _taken(self, held: dict[str, Any]) -> UserError:
        where = f"process {held['pid']} of this machine" if held.get("on") == _machine() else "another machine"
        return UserError(
            f"{self._busy}, by {where}; wait for it, stop it, or {self._instead}"
            + ("" if held.get("on") == _machine() else f" (a dead one's lease runs out after {LASTS_S:.0f} s)")
        )


def _machine() -> str:
    """What tells this machine, and this container on it, from others; names neither."""
    parts = []
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            parts.append(str(Path(path).readlink()) if path.endswith("pid") else Path(path).read_text().strip())
        except OSError:
            parts.append(hex(uuid.getnode()))
    return uuid.uuid5(uuid.NAMESPACE_OID, " ".join(parts)).hex


def _started(pid: int) -> str | None:
    """When the process `pid` started, in the kernel's ticks; None where it is gone. Tells a number used again apart."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
        try:  # no /proc on this system: whether it lives is all that is known
            os.kill(pid, 0)
        except OSError:
            return None
        return "alive"
    except (OSError, IndexError):
        return None
