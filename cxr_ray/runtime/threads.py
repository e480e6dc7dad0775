"""A background thread for the duration of a block."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def background(work: Callable[[threading.Event], None], *, name: str) -> Iterator[None]:
    """Run `work(ended)` in a thread called `name` during the block. When the block ends, set `ended` and wait for the thread."""
    ended = threading.Event()
    thread = threading.Thread(target=work, args=(ended,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
