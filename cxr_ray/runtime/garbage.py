"""When Python looks for cyclic garbage in a process that is starting. Loads no torch."""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

STARTUP_OBJECTS = 1_000_000
"""A few more than the containers of a process that has imported everything: 900,000 (torch 2.12, Ray 2.60)."""


@dataclass
class _Start:
    """Of this process."""

    begun: bool = False
    thresholds: tuple[int, int, int] | None = None
    """The usual ones, while the collector waits."""


_start = _Start()


@contextmanager
def starting() -> Iterator[None]:
    """Around a process's imports: the collector waits until the block ends, `started` is called, or there are `STARTUP_OBJECTS`.

    Imports make no garbage, but Python looks through their objects again and again as their number grows: a quarter of the time that
    torch and Ray take to import (benchmarks/README.md, `first_step`). A process starts once: a second block does nothing."""
    if _start.begun or not gc.isenabled():
        yield
        return
    _start.begun, _start.thresholds = True, gc.get_threshold()
    gc.set_threshold(STARTUP_OBJECTS, *_start.thresholds[1:])
    gc.callbacks.append(_on_collection)
    try:
        yield
    finally:
        started()


def started() -> None:
    """Let the collector work as usual from now on. It will not look through what was imported, which stays as long as the process does."""
    if _start.thresholds is None:
        return
    gc.callbacks.remove(_on_collection)
    gc.set_threshold(*_start.thresholds)
    _start.thresholds = None
    gc.freeze()
    atexit.register(gc.unfreeze)  # libraries whose objects are left at the end complain about them on stderr


def _on_collection(phase: str, _info: dict[str, Any]) -> None:
    if phase == "start":
        started()
