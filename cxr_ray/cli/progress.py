"""How far long work has come: a bar with images/s and time left on a terminal, plain lines without one."""

import sys
import time
from types import TracebackType
from typing import Any, TextIO

EVERY_S, EVERY_SHARE = 5.0, 0.1


class Progress:
    """Call it with (done, total, refused) images; use it as a context manager, so that the bar ends with the work.

    Without a terminal a line is printed at the first call, then at most every 5 s and at every tenth of the work,
    and at the end: a job's log stays short and still shows that something moves."""

    def __init__(self, what: str, *, stream: TextIO | None = None, clock: Any = time.monotonic) -> None:
        self.what = what
        self._stream = stream or sys.stdout
        self._clock = clock
        self._start = clock()
        self._first: int | None = None  # done before this process began, as on a resumed ingest
        self._said_s, self._said_done = float("-inf"), float("-inf")
        self._bar: Any = None
        self._task: Any = None

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

    def __call__(self, done: int, total: int, refused: int = 0) -> None:
        now = self._clock()
        if self._first is None:
            self._first = done
            self._start = now
        passed = now - self._start
        rate = (done - self._first) / passed if passed > 0 else 0.0
        bad = f", {refused:,} refused" if refused else ""
        if self._bar is not None:
            self._bar.update(
                self._task, completed=done, total=total, rate=f"{rate:,.0f} images/s{bad}" if rate else bad
            )
            return
        due = now - self._said_s >= EVERY_S and done - self._said_done >= EVERY_SHARE * total
        ended = done >= total and self._said_done < total
        if due or ended:
            left = f", {(total - done) / rate:,.0f} s left" if rate and done < total else ""
            speed = f" at {rate:,.0f} images/s" if rate else ""
            share = 100 * done / total if total else 100.0
            print(
                f"{self.what}: {done:,} of {total:,} images ({share:.0f}%){speed}{left}{bad}",
                file=self._stream,
                flush=True,
            )
            self._said_s, self._said_done = now, done

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
