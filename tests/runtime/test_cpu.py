"""Which CPUs multiply bf16, from excerpts of their /proc/cpuinfo."""

import platform
from pathlib import Path

import pytest
import torch

from cxr_ray.runtime.cpu import bf16_instructions

SAPPHIRE_RAPIDS = "flags\t\t: fpu avx512f avx512vl avx512_bf16 amx_bf16 avx512_fp16 amx_tile amx_int8"
ZEN_4 = "flags\t\t: fpu avx2 avx512f avx512dq avx512_bf16 avx512vbmi avx512_vpopcntdq"
ICE_LAKE = "flags\t\t: fpu avx2 avx512f avx512dq avx512vbmi avx512_vpopcntdq"
ZEN_3 = "flags\t\t: fpu sse4_2 fma avx2"
GRAVITON_3 = "Features\t: fp asimd sve svei8mm svebf16 i8mm bf16"


@pytest.mark.parametrize(
    ("cpuinfo", "instructions"),
    [(SAPPHIRE_RAPIDS, "AMX"), (ZEN_4, "AVX512-BF16"), (ICE_LAKE, ""), (ZEN_3, ""), (GRAVITON_3, ""), ("", "")],
)
def test_instructions_of_known_cpus(tmp_path: Path, cpuinfo: str, instructions: str) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: one\n{cpuinfo}\nbogomips\t: 5400.00\n")
    assert bf16_instructions(tmp_path / "cpuinfo") == instructions


def test_a_machine_without_cpuinfo_has_none(tmp_path: Path) -> None:
    assert bf16_instructions(tmp_path / "cpuinfo") == ""


@pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc/cpuinfo")
def test_this_cpu_as_torch_sees_it() -> None:
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else None
    if found is None:
        pytest.skip("this torch does not list a CPU's instructions")
    assert bool(bf16_instructions()) == bool(found.get("amx_bf16") or found.get("avx512_bf16"))
