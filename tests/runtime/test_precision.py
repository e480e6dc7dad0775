"""Number formats: the meaning of each name, and the gradient scaler of fp16."""

import pytest
import torch
from torch import nn

from cxr_ray.config import Optim
from cxr_ray.runtime import cpu, precision
from cxr_ray.training import optim

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_layers_compute_in_the_dtype_and_weights_stay_in_fp32(name: str, dtype: torch.dtype) -> None:
    chosen = precision.pick(name, CPU)
    layer = nn.Conv2d(1, 2, 3).to(memory_format=chosen.layout)
    with chosen.autocast(CPU):
        out = layer(torch.randn(2, 1, 8, 8))
    assert out.dtype == chosen.dtype == dtype and layer.weight.dtype == torch.float32
    assert chosen.scaler(CPU).is_enabled() == (name == "fp16") and chosen.name == name


def test_auto_is_bf16_if_the_hardware_multiplies_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for available in (True, False):
        monkeypatch.setattr(precision, "has_bf16", lambda _device, available=available: available)
        assert precision.pick("auto", CPU).name == ("bf16" if available else "fp32")


@pytest.mark.parametrize("instructions", ["AMX", "AVX512-BF16", ""])
def test_a_cpu_that_multiplies_bf16_has_it(monkeypatch: pytest.MonkeyPatch, instructions: str) -> None:
    monkeypatch.setattr(cpu, "bf16_instructions", lambda: instructions)
    assert precision.has_bf16(CPU) == bool(instructions)
    assert precision.pick("auto", CPU).name == ("bf16" if instructions else "fp32")


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_a_step_that_overflows_is_skipped_and_halves_the_scale(name: str) -> None:
    layer = nn.Linear(3, 2)
    optimizer = optim.build(layer, Optim(name=name, lr=0.1))
    scaler = precision.pick("fp16", CPU).scaler(CPU)

    def step(factor: float) -> None:
        optimizer.zero_grad()
        scaler.scale(layer(torch.ones(1, 3)).sum() * factor).backward()
        scaler.step(optimizer)
        scaler.update()

    before, scale = layer.weight.detach().clone(), scaler.get_scale()
    step(1e38)
    assert torch.equal(layer.weight, before) and scaler.get_scale() == scale / 2
    plain = nn.Linear(3, 2)
    plain.load_state_dict(layer.state_dict())
    plain_optimizer = optim.build(plain, Optim(name=name, lr=0.1))
    step(1.0)
    plain(torch.ones(1, 3)).sum().backward()
    plain_optimizer.step()
    assert torch.allclose(layer.weight, plain.weight, atol=1e-6) and not torch.equal(layer.weight, before)
