"""One live writer a folder, of a run or of an ingest: a lease file, renewed while its holder lives.

The file's age is measured against a file written now on the same disk, so that clocks of two machines need not agree. On the
holder's own machine a dead process is known at once; elsewhere its lease runs out. Object stores let nobody write only where
nothing is: there each waits `SETTLE_S` and looks again, so two are told apart unless one was slower than that.
"""

import json
import os
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

from cxr_ray.durable import write_whole
from cxr_ray.errors import UserError
from cxr_ray.places import Place, Remote

NAME = "lease.json"
RENEW_S = 5.0
LASTS_S = 30.0
"""A holder elsewhere that was silent for so long is taken for dead: six renewals missed."""
SETTLE_S = 1.0
"""Wait of a holder on an object store before it believes its own lease; a request takes a tenth of that."""


class Lease:
    """The right to write to `folder`, as a context manager. Raises `UserError`, which begins with `busy`, where another
    process holds it."""

    def __init__(self, folder: Place, *, busy: str | None = None, instead: str = "give another --name") -> None:
        self._file = folder / NAME
        self._busy, self._instead = busy or f"the run {folder} is being trained now", instead
        self._holder = uuid.uuid4().hex
        self._ended = threading.Event()

    def __enter__(self) -> "Lease":
        held = self._read()
        if held is not None and self._alive(held):
            raise self._taken(held)
        body = json.dumps(
            {"holder": self._holder, "pid": os.getpid(), "started": _started(os.getpid()), "on": _machine()}
        )
        self._body = body
        write_whole(self._file, body)
        if isinstance(self._file, Remote):
            time.sleep(SETTLE_S)
        after = self._read()
        if after is None or after["holder"] != self._holder:  # two started at once: the later one has it
            raise self._taken(after or {"pid": "?"})
        self._thread = threading.Thread(target=self._renew, name="cxr-lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        held = self._read()
        if held is not None and held["holder"] == self._holder:
            self._file.unlink(missing_ok=True)

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_S):
            try:
                self._file.write_bytes(self._body.encode()) if isinstance(self._file, Remote) else os.utime(self._file)
            except (OSError, UserError):  # a folder that cannot be reached now may be there again in five seconds
                continue

    def _read(self) -> dict[str, Any] | None:
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
