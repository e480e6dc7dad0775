"""Ray's own output: its processes, libraries and threads write to the terminal, past every logger. Here it goes to a file."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ray._private import worker as rays_worker

STDERR = 2


@contextmanager
def into(file: Path) -> Iterator[None]:
    """Within it, what Ray prints is appended to `file`; what our own code prints still reaches the terminal. Nothing changes with
    CXR_RAY_DEBUG."""
    if os.environ.get("CXR_RAY_DEBUG"):
        yield
        return
    with ExitStack() as stack:
        opened = stack.enter_context(file.open("ab", buffering=0))
        stack.enter_context(_reports_into(opened))
        if _is_own_stream():
            stack.enter_context(_error_stream_into(opened))
        yield
    if file.exists() and not file.stat().st_size:
        file.unlink()


@contextmanager
def _reports_into(opened: Any) -> Iterator[None]:
    """What nodes report of lost workers: a thread of Ray prints it to the output stream, by this function."""

    def write(data: Any, ignore_prefix: bool) -> None:
        opened.write("".join(f"({data.get('pid')}) {line}\n" for line in data["lines"]).encode("utf-8", "replace"))

    before = rays_worker.print_to_stdstream
    rays_worker.print_to_stdstream = write
    try:
        yield
    finally:
        rays_worker.print_to_stdstream = before


def _is_own_stream() -> bool:
    """Whether Python's error stream is that of the process: not in a notebook."""
    try:
        return sys.stderr is not None and sys.stderr.fileno() == STDERR
    except (OSError, ValueError):
        return False


@contextmanager
def _error_stream_into(opened: Any) -> Iterator[None]:
    """The error stream of everything but our own code: Ray's C++ core writes to the descriptor, its loggers hold the stream that was
    there before."""
    before = sys.stderr
    before.flush()
    terminal = os.dup(STDERR)
    ours = os.fdopen(os.dup(terminal), "w", buffering=1, encoding=before.encoding, errors=before.errors)
    os.dup2(opened.fileno(), STDERR)
    sys.stderr = ours
    try:
        yield
    finally:
        before.flush()
        sys.stderr = before
        os.dup2(terminal, STDERR)
        os.close(terminal)
        ours.close()
