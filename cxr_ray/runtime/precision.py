"""Number formats and memory layouts: the meaning of `train.precision` on a device. Casts nothing itself."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from cxr_ray.runtime import cpu


@dataclass(frozen=True)
class Precision:
    """The dtype that layers compute in, and the memory layout. Weights, losses and sums stay in fp32."""

    name: str
    dtype: torch.dtype
    layout: torch.memory_format
    """Of weights and images."""

    def autocast(self, device: torch.device) -> AbstractContextManager[None]:
        """A context in which layers compute in `dtype`."""
        return torch.autocast(device.type, dtype=self.dtype, enabled=self.dtype is not torch.float32)

    def scaler(self, device: torch.device) -> torch.amp.GradScaler:
        """Keeps gradients within the range of fp16 (Micikevicius et al. 2018): scales the loss, skips steps whose gradients overflow,
        and then halves its scale. Does nothing for other precisions, which have the range of fp32."""
        return torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)


def pick(wanted: str, device: torch.device) -> Precision:
    """The precision for `auto`, `fp32`, `bf16` or `fp16`. auto is bf16 if the hardware multiplies in bf16, else fp32; fp16, for
    GPUs without bf16, has to be requested.

    channels_last is faster on a CPU in both dtypes, and on a GPU in bf16 (benchmarks/README.md, `train`)."""
    if wanted == "auto":
        wanted = "bf16" if has_bf16(device) else "fp32"
    if wanted in ("bf16", "fp16"):
        return Precision(wanted, torch.bfloat16 if wanted == "bf16" else torch.float16, torch.channels_last)
    layout = torch.channels_last if device.type == "cpu" else torch.contiguous_format
    return Precision("fp32", torch.float32, layout)


def has_bf16(device: torch.device) -> bool:
    """Whether the CPU has instructions for bf16 (`cpu.bf16_instructions`), or the GPU bf16 tensor cores (Ampere and later)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool(cpu.bf16_instructions())
