"""SIGTERM, of a scheduler or of `ray job stop`, as something to answer instead of a death."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def answered(answer: Callable[[], object]) -> Iterator[None]:
    """Let SIGTERM call `answer` for the time of the block. Python hears signals in its main thread alone: elsewhere nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: answer())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
