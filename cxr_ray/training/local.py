"""Training in this process, on one device, without Ray."""

from collections.abc import Callable

from cxr_ray import config as cfg
from cxr_ray import runs
from cxr_ray.data import plan as plans
from cxr_ray.data import store as stores
from cxr_ray.runtime import signals


def train_in_process(
    config: cfg.Config, plan: plans.Plan, store: stores.Store, run: runs.Run, log: Callable[[str], None]
) -> None:
    """Train `run`. Progress goes to its log and to `log`; SIGTERM, or a `stop` file, stops it after a checkpoint."""
    import torch

    from cxr_ray.runtime.context import LocalContext, pick_device
    from cxr_ray.training import trainer

    if config.train.threads:
        torch.set_num_threads(config.train.threads)

    class RunContext(LocalContext):
        def log(self, line: str) -> None:
            run.log(line)
            log(line)

        def should_stop(self) -> bool:
            return run.stop_requested

    with signals.on_sigterm(run.request_stop):
        trainer.fit(config, plan, store, RunContext(device=pick_device(config.train.gpu)), run)
