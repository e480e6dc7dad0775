"""`events.jsonl` of a run or a sweep: what happened to its training, with times. The log says the same in words."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cxr_ray.storage.atomic import update_json
from cxr_ray.storage.lease import Lease

FILE = "events.jsonl"
KINDS = (
    "started",
    "waiting",
    "workers",
    "lost",
    "draining",
    "restarting",
    "resizing",
    "head",
    "replaced",
    "finished",
    "stopped",
    "interrupted",
    "failed",
)
"""docs/reference/formats.md explains them."""


FORGOTTEN_S = 24 * 3600.0
"""A training without a lease, as of earlier versions, or killed before it took one, is over if it has written nothing for so long: more
than an epoch takes, and than the clocks of two machines differ."""


def record(folder: Path, kind: str, text: str = "", **numbers: int) -> None:
    """Append an event. `numbers` are counts, such as of workers."""
    assert kind in KINDS, kind
    event = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": kind, "text": text, **numbers}
    with (folder / FILE).open("a", encoding="utf-8") as handle:  # one write: processes of several nodes append
        handle.write(json.dumps(event) + "\n")


def read(folder: Path) -> list[dict[str, Any]]:
    """The events of a folder, in order. A line that a killed process left incomplete is skipped."""
    file, events = folder / FILE, []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        with suppress(ValueError):
            events.append(json.loads(line))
    return events


def settle(file: Path) -> None:
    """Correct a `run.json` or `sweep.json` that says `started` although no process trains there: it was killed, or its machine."""
    with suppress(OSError, ValueError, KeyError):  # damaged, or somebody else's and read-only
        folder, lease = file.parent, Lease(file.parent)
        if _status(file) != "started":
            return
        if lease.is_abandoned():
            why = "the process that trained ended without a word: it or its machine was killed"
        elif lease.holder is None and time.time() - _last_write(folder) > FORGOTTEN_S:
            why = "no process trains it, and nothing was written for more than a day"
        else:
            return
        update_json(file, {"status": "interrupted"})
        record(folder, "interrupted", why)


def _last_write(folder: Path) -> float:
    """When something in the folder was last written, in seconds since 1970."""
    return max(file.stat().st_mtime for file in folder.rglob("*"))


def _status(file: Path) -> str:
    return str(json.loads(file.read_text(encoding="utf-8"))["status"])


class Said:
    """What a start says: each line goes to `log` at once, and to the log of its run as soon as there is one."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._folder: Path | None = None
        self._kept: list[str] = []

    def __call__(self, line: str) -> None:
        self._log(line)
        self._write([line])

    def keep_in(self, folder: Path) -> None:
        """Write what was said, and what will be, to `log.txt` of `folder`."""
        self._folder = folder
        self._write(self._kept)

    def _write(self, lines: list[str]) -> None:
        if self._folder is None:
            self._kept += lines
            return
        with (self._folder / "log.txt").open("a", encoding="utf-8") as handle:
            handle.writelines(f"{line}\n" for line in lines)
