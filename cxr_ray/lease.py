"""One live writer a folder, of a run or of an ingest: a lease file, renewed while its holder lives.

The file appears whole and only where none is, on a disk that machines share as well; a dead one's is first put aside by a
rename, and put back if it turns out to be another. The file's age is measured against a file written now on the same disk, so
that clocks of two machines need not agree. On the holder's own machine a dead process is known at once; elsewhere its lease
runs out. Object stores let nobody write only where nothing is: there each waits `SETTLE_S` and looks again, so two are told
apart unless one was slower than that.
"""

import _thread
import json
import os
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

from cxr_ray.durable import one_at_a_time, write_whole
from cxr_ray.errors import UserError
from cxr_ray.places import Place, Remote

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

    A holder that was silent for too long (its machine slept) may find another's lease in its place: `lost` is then set, and a block
    in the main thread interrupted, so that two do not write to the folder for long: it ends with a `UserError`."""

    def __init__(self, folder: Place, *, busy: str | None = None, instead: str = "give another --name") -> None:
        self._file = folder / NAME
        self._busy, self._instead = busy or f"the run {folder} is being trained now", instead
        self._holder = uuid.uuid4().hex
        self._ended = threading.Event()
        self.lost = threading.Event()

    def __enter__(self) -> "Lease":
        me = {"holder": self._holder, "pid": os.getpid(), "started": _started(os.getpid()), "on": _machine()}
        self._body = json.dumps(me).encode()
        if isinstance(self._file, Remote):
            self._take_remote(self._file)
        else:
            with one_at_a_time(self._file.parent) as alone:
                self._take(self._file, alone=alone)
        interrupts = threading.current_thread() is threading.main_thread()
        self._thread = threading.Thread(target=self._renew, args=(interrupts,), name="cxr-lease", daemon=True)
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
        if self.lost.is_set() and kind is KeyboardInterrupt:
            raise UserError(
                f"this process was silent for over {LASTS_S:.0f} s and has lost {self._file.parent} to another, which writes there "
                "now: wait for that one, or stop it and run the same command again"
            ) from None

    def _take(self, file: Path, *, alone: bool) -> None:
        """Make the lease appear where none is, a dead one's put aside first."""
        mine = file.with_name(f".{NAME}.{self._holder}.new")
        settle = False
        try:
            write_whole(mine, self._body)
            while not _appear(mine, file):
                held = self._read() or self._read(after_s=0.1)  # it may be in the making
                if held is not None and held["holder"] == self._holder:  # the answer to a link may get lost on NFS
                    break
                if held is not None and self._alive(held):
                    raise self._taken(held)
                settle |= not alone or (held is not None and held.get("on") != _machine())
                self._put_aside(file, held)
        finally:
            mine.unlink(missing_ok=True)
        if settle:  # what another machine is about to put aside might be ours
            self._believe()

    def _put_aside(self, file: Path, dead: dict[str, Any] | None) -> None:
        """Remove the lease of a dead holder, and no other: one that took its place meanwhile is put back."""
        aside = file.with_name(f".{NAME}.{self._holder}.old")
        try:
            file.rename(aside)
        except FileNotFoundError:
            return
        try:
            held = _read(aside)
            if held is not None and (dead is None or held["holder"] != dead["holder"]):
                _appear(aside, file)
                raise self._taken(held)
        finally:
            aside.unlink(missing_ok=True)

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

    def _renew(self, interrupts: bool) -> None:
        while not self._ended.wait(RENEW_S):
            try:
                held = self._read()
                if held is not None and held["holder"] != self._holder:
                    self.lost.set()
                    if interrupts:
                        _thread.interrupt_main()
                    return
                self._file.write_bytes(self._body) if isinstance(self._file, Remote) else os.utime(self._file)
            except (OSError, UserError):  # a folder that cannot be reached now may be there again in five seconds
                continue

    def _read(self, *, after_s: float = 0.0) -> dict[str, Any] | None:
        time.sleep(after_s)
        return _read(self._file)

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


def _read(file: Place) -> dict[str, Any] | None:
    """Who holds the lease in `file`; None where there is none, or none that can be read."""
    try:
        held: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return held if "holder" in held else None
    except (OSError, ValueError):
        return None


def _appear(source: Path, file: Path) -> bool:
    """Let `file` be what `source` is, at once and only where nothing is; whether it was so."""
    try:
        os.link(source, file)
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(source.read_bytes())
    return True


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
