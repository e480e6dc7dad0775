"""In a notebook, a bar of the epochs that a training has done, read from its run folder, whichever process trains."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from cxr_ray.runs import Run
from cxr_ray.runtime import notebook
from cxr_ray.runtime.progress import Progress
from cxr_ray.runtime.threads import background

INTERVAL_S = 1.0


@contextmanager
def epoch_bar(run: Run) -> Iterator[None]:
    """Show the bar while the block runs; outside a notebook, do nothing."""
    if not notebook.in_notebook():
        yield
        return
    bar, total = Progress(run.path.name, "epochs"), run.config.train.epochs

    def show() -> None:
        with suppress(Exception):  # a bar never ends a training
            metrics = run.metrics
            bar(int(metrics["epoch"].max()) if len(metrics) else 0, total)

    def follow(ended: threading.Event) -> None:
        show()
        while not ended.wait(INTERVAL_S):
            show()
        show()

    with background(follow, name="cxr-epoch-bar"):
        yield
