"""A thread for the time of a block."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def background(work: Callable[[threading.Event], None], *, name: str) -> Iterator[None]:
    """Run `work(ended)` in a thread called `name` beside the block; `ended` is set as the block ends, and the thread waited for."""
    ended = threading.Event()
    thread = threading.Thread(target=work, args=(ended,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
