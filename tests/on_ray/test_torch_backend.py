"""Every process of a training imports at once, and then has Ray's own torch backend. Whole trainings: test_train.py."""

import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from ray.train import ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from cxr_ray.on_ray.torch_backend import LoadingTorchBackend, LoadingTorchConfig, load_training


def test_a_controller_gets_it_without_torch() -> None:
    code = f"""
import pickle, sys
import cxr_ray.on_ray.launch, cxr_ray.on_ray.launch_callback
config = pickle.loads({pickle.dumps(LoadingTorchConfig("gloo"))!r})
config.backend_cls(), config.framework, config.to_dict()
assert not {{"torch", "scipy"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_worker_has_all_it_needs_and_nothing_slow_besides() -> None:
    code = """
import sys
from cxr_ray.on_ray.torch_backend import load_training
load_training()
before = set(sys.modules)
import cxr_ray.on_ray.launch, cxr_ray.on_ray.context, cxr_ray.training.trainer
assert {"torch", "cxr_ray.training.trainer", "cxr_ray.on_ray.context"} <= before
slow = {"scipy.stats", "scipy.optimize", "scipy.sparse.csgraph", "sklearn", "matplotlib"} & set(sys.modules)
assert not slow, slow
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_what_a_worker_cannot_import_is_an_error_where_it_is_used() -> None:
    code = """
import sys
from cxr_ray.on_ray.torch_backend import load_training
sys.modules["cxr_ray.on_ray.context"] = None
load_training()
try:
    import cxr_ray.on_ray.context
except ImportError:
    print("said")
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True, text=True)
    assert done.stdout == "said\n"


def test_it_stands_for_rays_own_config() -> None:
    config = LoadingTorchConfig("gloo", timeout_s=7)
    own = TorchConfig(backend="gloo", timeout_s=7)
    assert config.of_ray() == own
    assert config.framework == own.framework
    assert config.train_func_context is own.train_func_context
    assert config.to_dict().items() <= own.to_dict().items()
    assert LoadingTorchBackend.share_cuda_visible_devices == own.backend_cls.share_cuda_visible_devices
    assert LoadingTorchBackend.has_replica_groups == own.backend_cls.has_replica_groups


def test_workers_import_before_they_form_a_group_and_every_step_is_rays(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[str, Any]] = []
    own = TorchConfig().backend_cls
    for name in ("on_start", "on_training_start", "on_shutdown"):
        monkeypatch.setattr(own, name, lambda self, group, config, name=name: steps.append((name, config)))
    monkeypatch.setattr("ray.get", lambda references: steps.append(("got", references)))

    class Group:
        """Of workers."""

        def execute_async(self, work: Callable[[], None]) -> list[str]:
            steps.append(("load", work))
            return ["reference"]

    backend, config = LoadingTorchBackend(), LoadingTorchConfig("gloo")
    backend.on_start(Group(), config)
    backend.on_training_start(Group(), config)
    backend.on_shutdown(Group(), config)
    ray_config = config.of_ray()
    assert steps == [
        ("load", load_training),
        ("got", ["reference"]),
        ("on_start", ray_config),
        ("on_training_start", ray_config),
        ("on_shutdown", ray_config),
    ]


@pytest.mark.parametrize(("use_gpu", "backend"), [(False, "gloo"), (True, "nccl")])
def test_rays_trainer_chooses_the_backend_of_the_process_group(use_gpu: bool, backend: str) -> None:
    config = LoadingTorchConfig()
    scaling = ScalingConfig(num_workers=2, use_gpu=use_gpu)
    TorchTrainer(lambda: None, torch_config=config, scaling_config=scaling)  # type: ignore[arg-type]
    assert config.of_ray() == TorchConfig(backend=backend, timeout_s=600)
