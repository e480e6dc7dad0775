"""What the CPU of this machine computes in. Loads no torch, so that `doctor` can tell it where torch is broken."""

from pathlib import Path

BF16_FLAGS = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16"}
"""Linux's names of the instructions that multiply bf16, as /proc/cpuinfo lists them, and how people call them."""


def bf16_instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """AMX (Intel from Sapphire Rapids on), AVX512-BF16 (AMD from Zen 4 on, Intel Cooper Lake), or "": none of them, or not Linux.

    Other CPUs take bf16 too, but oneDNN, which torch uses, then emulates it: it limited to AVX-512 without BF16
    (ONEDNN_MAX_CPU_ISA), bf16 has 0.44 of the speed of fp32, limited to AVX2 0.09 (benchmarks/README.md, `train`). The bf16 of
    ARM was not measured and does not count."""
    try:
        words = set(cpuinfo.read_text(encoding="utf-8").split())
    except OSError:
        return ""
    return next((name for flag, name in BF16_FLAGS.items() if flag in words), "")
