"""Handles SIGTERM, from a scheduler or `ray job stop`, for the duration of a block, so that the process does not die."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def on_sigterm(handler: Callable[[], object]) -> Iterator[None]:
    """Call `handler` on SIGTERM within the block. Python allows handlers only in the main thread: elsewhere this does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: handler())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
