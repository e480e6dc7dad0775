"""How Ray Train prepares the processes of a training for torch: Ray's own torch backend, after all of them have imported what they need.

With Ray's backend alone, the controller imports torch before it starts a worker, each worker then imports it too, waits for the others,
and imports the rest. Here the workers import everything at once, and the controller does at the same time. This module and what its
classes refer to must not import torch: the controller unpickles them."""

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.util import TrainingFramework

from cxr_ray.runtime import garbage

if TYPE_CHECKING:
    from ray.train.torch import TorchConfig


@dataclass
class LoadingTorchConfig(BackendConfig):
    """Stands for Ray's `TorchConfig`, whose fields it has."""

    backend: str | None = None
    """Of the process group; `TorchTrainer` sets it."""
    timeout_s: int = 600
    """Seconds that an operation of the process group may take."""

    @property
    def backend_cls(self) -> type[Backend]:
        """Runs in the controller."""
        return LoadingTorchBackend

    @property
    def train_func_context(self) -> Any:
        """Sets a worker's device, as Ray does."""
        return self.of_ray().train_func_context

    @property
    def framework(self) -> TrainingFramework:
        """What Ray's dashboard shows."""
        return TrainingFramework.TORCH

    def to_dict(self) -> dict[str, Any]:
        """What Ray's dashboard shows."""
        return {"backend": self.backend, "timeout_s": self.timeout_s}

    def of_ray(self) -> "TorchConfig":
        """Ray's own config with these values."""
        with garbage.starting():
            from ray.train.torch import TorchConfig

        return TorchConfig(backend=self.backend, timeout_s=self.timeout_s)


class LoadingTorchBackend(Backend):
    """Ray's torch backend, after the imports."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Import everything here and in the workers, and form their process group."""
        import ray

        loading = worker_group.execute_async(load_training)
        config = backend_config.of_ray()
        ray.get(loading)
        config.backend_cls().on_start(worker_group, config)

    def on_training_start(self, worker_group: Any, backend_config: Any) -> None:
        """As Ray's."""
        config = backend_config.of_ray()
        config.backend_cls().on_training_start(worker_group, config)

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        """As Ray's."""
        config = backend_config.of_ray()
        config.backend_cls().on_shutdown(worker_group, config)


def load_training() -> None:
    """Import what a worker of a training needs. What cannot be imported is an error where it is used, as without this."""
    with garbage.starting(), suppress(Exception):
        import cxr_ray.on_ray.context
        import cxr_ray.training.trainer  # noqa: F401
    garbage.keep_imports()
