"""Progress of long work: what is done, the rate and the time left. A bar on a terminal or in a notebook, plain lines in a log."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, TextIO, TypeVar

from cxr_ray.runtime import notebook

EVERY = 5.0, 0.1
"""Least seconds and least share of the work between two lines."""
TRAINING_S = 30.0
TRACKED_AFTER_S = 2.0
"""Work of `track` that takes no longer shows nothing."""
BAR_WIDTH = 12

T = TypeVar("T")
_tracked: ContextVar[bool] = ContextVar("tracked", default=False)


class Rate:
    """Units a second since the first call, which does not count what an earlier process has done, if the work was resumed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._first = clock, 0
        self.start: float | None = None

    def __call__(self, done: int) -> float:
        """The rate when `done` units are done; 0 if it is unknown."""
        now = self._clock()
        if self.start is None:
            self.start, self._first = now, done
        return (done - self._first) / (now - self.start) if now > self.start else 0.0


class Progress:
    """Call it with the numbers of `unit`s (done, total) and a note. Use it as a context manager, which closes the bar.

    Without a terminal it prints a line at the first call, then after at least `every` (seconds, share of the work), and at the end,
    so that a job's log stays short. `log` gets the lines in place of the terminal, notebook or `stream`. Nothing is shown in
    the first `after_s` seconds. `stays`: whether the bar of a terminal stays when the work is done."""

    def __init__(
        self,
        what: str,
        unit: str = "images",
        *,
        log: Callable[[str], None] | None = None,
        stream: TextIO | None = None,
        after_s: float = 0.0,
        every: tuple[float, float] = EVERY,
        stays: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what, self._unit, self._clock = what, unit, clock
        self._stream = stream or sys.stdout
        self._log = log or (lambda line: print(line, file=self._stream, flush=True))
        self._after_s, self._every = after_s, every
        self._stays = stays
        self._rate = Rate(clock)
        self._printed_s, self._printed_done = float("-inf"), float("-inf")
        self._on_terminal = log is None and self._stream.isatty()
        self._bar: Any = None
        in_cell = log is None and stream is None and notebook.in_notebook()
        self._cell = notebook.Output() if in_cell else None

    def __enter__(self) -> "Progress":
        return self

    def __call__(self, done: int, total: int, note: str = "") -> None:
        rate = self._rate(done)
        now = self._clock()
        if self._rate.start is None or now - self._rate.start < self._after_s:
            return
        line = text(self._what, done, total, self._unit, rate=rate, note=note)
        if self._on_terminal:
            self._draw(done, total, line)
        elif self._cell is not None:
            self._cell.show(notebook.bar(done, total, line))
        else:
            seconds, share = self._every
            more = done - self._printed_done
            due = now - self._printed_s >= seconds and more >= share * total
            if more > 0 and (due or done >= total):
                self._log(line)
                self._printed_s, self._printed_done = now, done

    @classmethod
    def of_training(cls, what: str, log: Callable[[str], None] | None = None) -> "Progress":
        """That of an epoch or its evaluation: as lines to `log`, which the line of the epoch follows; without `log` on the terminal."""
        if log is None:
            return cls(what, stays=False)
        return cls(what, log=log, after_s=TRAINING_S, every=(TRAINING_S, 0.0))

    def _draw(self, done: int, total: int, line: str) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar
            from rich.table import Column

            words = TextColumn(
                "{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")
            )
            self._bar = Bar(BarColumn(BAR_WIDTH), words, console=Console(file=self._stream), transient=not self._stays)
            self._bar.add_task(line, total=total)
            self._bar.start()
        self._bar.update(0, completed=done, total=total, description=line)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def text(what: str, done: int, total: int, unit: str, *, rate: float = 0.0, note: str = "") -> str:
    """`ingest: 500 of 1,000 images (50%) at 10 images/s, 50 s left, 2 rejected`; `rate` in units a second, 0 if unknown."""
    share = 100 * done / total if total else 100.0
    speed = f" at {_rate(rate, unit)}" if rate > 0 else ""
    left = f", {duration((total - done) / rate)} left" if rate > 0 and done < total else ""
    return f"{what}: {done:,} of {total:,} {unit} ({share:.0f}%){speed}{left}{f', {note}' if note else ''}"


def duration(seconds: float) -> str:
    """Seconds in two digits or so: `45 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _rate(per_s: float, unit: str) -> str:
    """In the shortest time in which at least one unit is done."""
    scale, per = next(((n, per) for n, per in ((1, "s"), (60, "min")) if per_s * n >= 1), (3600, "h"))
    value = per_s * scale
    return f"{value:,.0f} {unit}/{per}" if value >= 9.95 else f"{value:.1f} {unit}/{per}"


@contextmanager
def shown() -> Iterator[None]:
    """Within it, the work of `track` shows its progress."""
    token = _tracked.set(True)
    try:
        yield
    finally:
        _tracked.reset(token)


def track(parts: Iterable[T], what: str, unit: str, *, total: int, sized: bool = False) -> Iterator[T]:
    """The `parts` of a long computation, one after the other: `total` units, one a part, or `len` of each part if `sized`.

    Within `shown()` its progress is shown, without that of computations inside it; elsewhere nothing is."""
    if not _tracked.get():
        yield from parts
        return
    token = _tracked.set(False)
    try:
        with Progress(what, unit, after_s=TRACKED_AFTER_S) as progress:
            done = 0
            progress(done, total)
            for part in parts:
                yield part
                done += len(part) if sized and isinstance(part, Sized) else 1
                progress(done, total)
    finally:
        _tracked.reset(token)
