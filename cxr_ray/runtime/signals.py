"""Signals that end work in good order: SIGTERM, from a scheduler or `ray job stop`, and SIGINT, which is Ctrl-C or a notebook's interrupt.

Python allows handlers only in the main thread: in another one these blocks change nothing."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

AT_ONCE = "press Ctrl-C again to end at once"
TERMINATED = 143
"""Exit status of a process that SIGTERM ended: 128 + 15."""


@contextmanager
def on_sigterm(handler: Callable[[], object]) -> Iterator[None]:
    """Call `handler` on SIGTERM within the block, so that the process does not die."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: handler())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def exit_on_sigterm() -> AbstractContextManager[None]:
    """On SIGTERM within the block, raise `SystemExit` with the status `TERMINATED`, so that temporary files are removed."""
    return on_sigterm(partial(sys.exit, TERMINATED))


@dataclass
class Interrupt:
    """What SIGINT has asked for within a block of `on_stop`."""

    requested: bool = False


@contextmanager
def on_stop(
    request: Callable[[], object], *, log: Callable[[str], None], message: str, at_once: Callable[[], bool]
) -> Iterator[Interrupt]:
    """Within the block, SIGTERM and the first SIGINT call `request`, and the latter logs `message`. A second SIGINT, or one while
    `at_once()` is true, raises KeyboardInterrupt. An ignored SIGINT, as of a program in the background, stays ignored."""
    interrupt = Interrupt()

    def handle(number: int, frame: object) -> None:
        if interrupt.requested or at_once():
            raise KeyboardInterrupt
        interrupt.requested = True
        request()
        # The signal may have come in the middle of a write to the same stream, which cannot be entered twice.
        threading.Thread(target=log, args=(message,), name="cxr-interrupt", daemon=True).start()

    with ExitStack() as stack:
        stack.enter_context(on_sigterm(request))
        if threading.current_thread() is threading.main_thread() and callable(signal.getsignal(signal.SIGINT)):
            before = signal.signal(signal.SIGINT, handle)
            stack.callback(signal.signal, signal.SIGINT, before)
        yield interrupt
