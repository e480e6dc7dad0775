"""Ray's own output: its processes, libraries and threads write to the terminal, past every logger. Here it goes to a file."""

import io
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STDERR = 2
RAYS_THREADS = "ray_"
"""How the names of the threads begin in which Ray prints what nodes report."""


class _Terminal(io.TextIOWrapper):
    """The terminal for our own code; what Ray's threads write goes to the descriptor of the error stream, as the rest of its output."""

    def write(self, text: str) -> int:
        if threading.current_thread().name.startswith(RAYS_THREADS):
            return os.write(STDERR, text.encode("utf-8", "replace"))
        return super().write(text)


@contextmanager
def into(file: Path) -> Iterator[None]:
    """Within it, what anything but our own code writes to the error stream is appended to `file`: Ray's C++ core writes to the
    descriptor, its loggers hold the stream that was there before. Ours still reaches the terminal. Nothing changes with CXR_RAY_DEBUG,
    or where Python's error stream is not the process's own (a notebook)."""
    try:
        is_own = sys.stderr is not None and sys.stderr.fileno() == STDERR
    except (OSError, ValueError):
        is_own = False
    if not is_own or os.environ.get("CXR_RAY_DEBUG"):
        yield
        return
    before = sys.stderr
    before.flush()
    terminal = os.dup(STDERR)
    ours = _Terminal(os.fdopen(os.dup(terminal), "wb"), before.encoding, before.errors, line_buffering=True)
    with file.open("ab") as opened:
        os.dup2(opened.fileno(), STDERR)
    sys.stderr = ours
    try:
        yield
    finally:
        ours.flush()
        before.flush()
        sys.stderr = before
        os.dup2(terminal, STDERR)
        os.close(terminal)
        ours.close()
        if file.exists() and not file.stat().st_size:
            file.unlink()
