"""Training in this process, on one device, without Ray: the context that the training loop needs."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cxr_ray import config as cfg
from cxr_ray import runs
from cxr_ray.runtime.progress import Progress

if TYPE_CHECKING:  # it loads torch
    from cxr_ray.runtime.context import Context


@contextmanager
def in_process(config: cfg.Config, run: runs.Run, log: Callable[[str], None]) -> "Iterator[Context]":
    """Within it, the context for `trainer.fit` in this process: `train.gpu` chooses the device, `train.threads` the CPU threads.

    Lines go to the run's log and to `log`, progress within an epoch to the terminal if that is where `log` prints; a `stop` file stops the training after a checkpoint."""
    import torch

    from cxr_ray.runtime.context import LocalContext, pick_device

    if config.train.threads:
        torch.set_num_threads(config.train.threads)

    on_terminal = log is print and sys.stdout.isatty()

    class RunContext(LocalContext):
        def log(self, line: str) -> None:
            run.log(line)
            log(line)

        def progress(self, what: str) -> Progress:
            return Progress.of_training(what, None if on_terminal else self.log)

        def should_stop(self) -> bool:
            return run.stop_requested

    yield RunContext(device=pick_device(config.train.gpu))
