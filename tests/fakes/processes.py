"""Processes that a test started, to be killed by it: never those of another test or program of the same machine."""

import os
from contextlib import suppress
from pathlib import Path


def started(word: str, *, by: int | None = None) -> list[int]:
    """Ids of the processes with `word` in their command line that descend from the process `by` (default: this one), in order."""
    root, found = by or os.getpid(), []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if word.encode() in file.read_bytes() and root in _ancestors(int(file.parent.name)):
                found.append(int(file.parent.name))
    return sorted(found)


def _ancestors(pid: int) -> list[int]:
    above: list[int] = []
    with suppress(OSError):
        while pid > 1:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            above.append(pid)
    return above
