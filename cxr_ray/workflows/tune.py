"""A sweep from its trials to its winner and page, for the command and for Python. The trials are run by on_ray/tune.py."""

import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cxr_ray import config as configs
from cxr_ray.runtime import notebook
from cxr_ray.runtime.progress import Progress
from cxr_ray.workflows.settings import resolve

if TYPE_CHECKING:
    from cxr_ray.tuning.sweep import Sweep

PAGE_WARNING = "the page of the sweep could not be written"
TABLE_WARNING = "the table of the trials could not be drawn"
LAST_UPDATE_S = 60.0
"""At the end of a sweep, the wait for its last update; the page of many trials takes some seconds."""


def tune(
    config: configs.Config | Mapping[str, Any],
    *,
    address: str | None = None,
    wait: float | None = None,
    plugins: Sequence[str] = (),
    retry_failed: bool = False,
    log: Callable[[str], None] = print,
    draw: "Callable[[Sweep], None] | None" = None,
) -> "Sweep":
    """Search hyperparameters by the `tune` section of a config of `load_config`, or of a mapping of settings, and return the sweep
    with its winner (`best`), which is evaluated on test once.

    The trials run on the Ray cluster at `address`, in RAY_ADDRESS, or on a Ray that is started on this machine, as far as there
    is room; if there is none for a single trial, they wait at most `wait` minutes (default: without an end in a Ray job, else 10). The same config and
    name resume a stopped sweep; `retry_failed` then also continues trials that failed. `plugins` are modules that register models or
    losses; they are added to the config's. `draw` is called in a background thread with the sweep when trials report; by default a
    notebook shows a table of the trials that is updated in place, and `log` gets lines elsewhere. Raises `UserError`, `Stopped` if a
    stop was requested, and `Interrupted` after the first Ctrl-C."""
    config = resolve(config, plugins, function="tune")
    from cxr_ray.on_ray import tune as on_ray
    from cxr_ray.workflows import select

    with updates(draw or trial_progress(log)) as update:
        sweep = on_ray.tune(config, address=address, wait=wait, retry_failed=retry_failed, log=log, on_update=update)
    select.select_best(sweep, log=log)
    try_write_page(sweep)
    return sweep


def load_sweep(path: "Sweep | str | os.PathLike[str]") -> "Sweep":
    """Open the sweep in the folder `path`: its trials, winner and figures. Raises `UserError` if it is not a sweep, with the closest name
    nearby."""
    from cxr_ray.tuning import sweep as sweeps

    return path if isinstance(path, sweeps.Sweep) else sweeps.load(path)


def trial_progress(log: Callable[[str], None]) -> "Callable[[Sweep], None]":
    """A function that shows how many trials of a sweep have ended: lines to `log`, or in a notebook a bar and a table of the trials."""
    from cxr_ray.tuning.trial import ENDED

    in_notebook = notebook.in_notebook()
    show: Progress | None = None
    table = notebook.Output() if in_notebook else None

    def draw(sweep: "Sweep") -> None:
        nonlocal show
        show = show or Progress(sweep.path.name, "trials", log=None if in_notebook else log, every=(5.0, 0.0))
        trials, info = sweep.trial_records, sweep.info
        leading = next((f"best {info['metrics'][0]} {one.values[0]:.3f}" for one in sweep.ranked()), "")
        show(sum(t.status in ENDED for t in trials), max(int(info.get("planned") or 0), len(trials)), leading)
        if table is not None:
            table.show(sweep.trials_html())

    return draw


@contextmanager
def updates(draw: "Callable[[Sweep], None]") -> "Iterator[Callable[[Sweep], None]]":
    """A function to call with the sweep when trials report. In a background thread it calls `draw` and writes the page; an error of
    either is one warning, because the trials must continue."""
    table, page = warn_once(draw, TABLE_WARNING), warn_once(_write_page, PAGE_WARNING)

    def both(sweep: "Sweep") -> None:
        table(sweep)
        page(sweep)

    with in_background(both) as update:
        yield update


def try_write_page(sweep: "Sweep") -> Any:
    """Write the sweep's page and return its path; None, with a warning, if it cannot be written."""
    return warn_once(_write_page, PAGE_WARNING)(sweep)


def _write_page(sweep: "Sweep") -> Any:
    from cxr_ray.report import sweep_page

    return sweep_page.write(sweep)


def warn_once(draw: Callable[[Any], Any], warning: str) -> Callable[[Any], Any]:
    """`draw`, but an exception (a full disk, a bug in a figure) only prints a warning, once: the trials must continue."""
    warned = False

    def safe(sweep: Any) -> Any:
        nonlocal warned
        try:
            return draw(sweep)
        except Exception as error:
            if not warned:
                why = " ".join(str(error).split()) or type(error).__name__
                print(f"warning: {warning}: {why}", file=sys.stderr, flush=True)
            warned = True
            return None

    return safe


@contextmanager
def in_background(draw: Callable[[Any], None]) -> Iterator[Callable[[Any], None]]:
    """A function that draws a sweep in a background thread and returns at once; updates that arrive while it draws are merged.

    `draw` must not raise. The exit waits at most `LAST_UPDATE_S` for the last drawing."""
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()  # its put never blocks
    ended = threading.Event()

    def work() -> None:
        while (sweep := waiting.get()) is not None:
            start = time.monotonic()
            draw(sweep)
            ended.wait(9 * (time.monotonic() - start))  # use at most a tenth of a core

    def update(sweep: Any) -> None:
        if waiting.empty():
            waiting.put(sweep)

    thread = threading.Thread(target=work, name="cxr-sweep-page", daemon=True)
    thread.start()
    try:
        yield update
    finally:
        ended.set()
        waiting.put(None)
        thread.join(LAST_UPDATE_S)
