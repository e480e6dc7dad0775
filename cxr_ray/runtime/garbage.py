"""When Python looks for cyclic garbage in a process that is starting. Loads no torch."""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

STARTUP_OBJECTS = 1_000_000
"""A few more than the containers of a process that has imported everything: 900,000 (torch 2.12, Ray 2.60)."""

Thresholds = tuple[int, int, int]
_begun: list[bool] = []
_waiting: list[tuple[Thresholds, Thresholds]] = []
"""The usual thresholds, and those that wait, until `started`. Taken out at once, since any thread may do it."""


@contextmanager
def starting() -> Iterator[None]:
    """Around a process's imports: the collector looks through new objects only, and once through each, until the block ends, `started` is
    called, someone asks for a whole collection, or some `STARTUP_OBJECTS` were made.

    Imports make little garbage, but Python looks through all their objects again and again as their number grows: a quarter of the time
    that torch and Ray take to import (benchmarks/README.md, `first_step`). A process starts once: a second block does nothing."""
    usual = gc.get_threshold()
    if _begun or not gc.isenabled() or not usual[0]:
        yield
        return
    _begun.append(True)
    _waiting.append((usual, (usual[0], max(usual[1], STARTUP_OBJECTS // usual[0]), usual[2])))
    gc.set_threshold(*_waiting[0][1])
    gc.callbacks.append(_on_collection)
    try:
        yield
    finally:
        started()


def started() -> None:
    """Let the collector work as usual from now on."""
    try:
        usual, waiting = _waiting.pop()
    except IndexError:
        return
    if _on_collection in gc.callbacks:
        gc.callbacks.remove(_on_collection)
    if gc.get_threshold() == waiting:  # else someone else has set what they want
        gc.set_threshold(*usual)


def keep_imports() -> None:
    """Do not look through the objects that there are now again. Only for a process of our own: garbage among them stays, too, so that a
    notebook's would never be freed."""
    gc.freeze()
    atexit.register(gc.unfreeze)  # libraries whose objects are left at the end complain about them on stderr


def _on_collection(phase: str, info: dict[str, Any]) -> None:
    if phase == "start" and info["generation"]:
        started()
