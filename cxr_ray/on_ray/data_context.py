"""Settings of Ray Data for the duration of a block: what it prints is replaced by our own progress."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.data import DataContext


@contextmanager
def quiet(*, preserve_order: bool = False, **settings: Any) -> Iterator[None]:
    """Within it Ray Data prints and logs nothing, and has these `settings` of its context; all are restored at the end."""
    context, log = (
        DataContext.get_current(),
        logging.getLogger("ray.data"),
    )  # logs every start and end, and workers that died
    wanted = {"enable_progress_bars": False, "print_on_execution_start": False, **settings}
    previous = {name: getattr(context, name) for name in wanted}
    order, level = context.execution_options.preserve_order, log.level
    for name, value in wanted.items():
        setattr(context, name, value)
    context.execution_options.preserve_order = order or preserve_order
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)
        context.execution_options.preserve_order = order
        for name, value in previous.items():
            setattr(context, name, value)
