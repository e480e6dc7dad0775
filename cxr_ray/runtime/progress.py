"""Progress of long work: a bar with images/s and the time left on a terminal or in a notebook, plain lines in a log."""

import sys
import time
from types import TracebackType
from typing import Any, TextIO

from cxr_ray.runtime import notebook

INTERVAL_S, INTERVAL_SHARE = 5.0, 0.1


class Progress:
    """Call it with the numbers of images (done, total, rejected). Use it as a context manager, which closes the bar.

    Without a terminal it prints a line at the first call, at most every 5 s and 10% of the work, and at the end, so that a job's
    log stays short and still shows progress."""

    def __init__(self, what: str, *, stream: TextIO | None = None, clock: Any = time.monotonic) -> None:
        self.what = what
        self._stream = stream or sys.stdout
        self._clock = clock
        self._start = clock()
        self._first: int | None = None  # images done by an earlier process, if an ingest was resumed
        self._printed_s, self._printed_done = float("-inf"), float("-inf")
        self._bar: Any = None
        self._task: Any = None
        in_cell = stream is None and notebook.in_notebook()
        self._cell = notebook.NotebookBar(what, "images", clock=clock) if in_cell else None

    def __enter__(self) -> "Progress":
        if self._stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                console=Console(file=self._stream),
            )
            self._task = self._bar.add_task(self.what, total=None, rate="")
            self._bar.start()
        return self

    def __call__(self, done: int, total: int, rejected: int = 0) -> None:
        now = self._clock()
        if self._first is None:
            self._first = done
            self._start = now
        elapsed = now - self._start
        rate = (done - self._first) / elapsed if elapsed > 0 else 0.0
        suffix = f", {rejected:,} rejected" if rejected else ""
        if self._bar is not None:
            self._bar.update(
                self._task, completed=done, total=total, rate=f"{rate:,.0f} images/s{suffix}" if rate else suffix
            )
            return
        if self._cell is not None:
            self._cell(done, total, f"{rate:,.0f} images/s{suffix}")
            return
        due = now - self._printed_s >= INTERVAL_S and done - self._printed_done >= INTERVAL_SHARE * total
        finished = done >= total and self._printed_done < total
        if due or finished:
            left = f", {(total - done) / rate:,.0f} s left" if rate and done < total else ""
            speed = f" at {rate:,.0f} images/s" if rate else ""
            share = 100 * done / total if total else 100.0
            print(
                f"{self.what}: {done:,} of {total:,} images ({share:.0f}%){speed}{left}{suffix}",
                file=self._stream,
                flush=True,
            )
            self._printed_s, self._printed_done = now, done

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
