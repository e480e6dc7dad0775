"""What this machine offers: cores and memory, within the limits of its container; whether this process is a job of a cluster."""

import os
from pathlib import Path

CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")
"""Microseconds of CPU time in each period, and the period; of cgroup v2."""

IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Environment variable that Ray sets for the command of a submitted job."""


def in_job() -> bool:
    """Whether this process is the command of a job of a Ray cluster, where nobody looks on."""
    return IN_JOB in os.environ


def cores() -> int:
    """CPU cores that this process may use, at least one. A container's share is rounded down."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        count = os.cpu_count() or 1
    try:
        quota, period = CPU_LIMIT.read_text(encoding="utf-8").split()
        return max(1, min(count, int(quota) // int(period)))
    except (OSError, ValueError):  # no container, or `max`
        return count


def memory_bytes() -> tuple[int, int]:
    """(total, free) bytes, limited to those of the container; zeros if unknown."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        total, free = sizes["MemTotal"], sizes["MemAvailable"]
    except (OSError, KeyError, ValueError, IndexError):
        return 0, 0
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8"))
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no container, or `max`
        return total, free
    return min(total, limit), min(free, max(limit - used, 0))
