"""Cores and memory, within the limits of a container."""

import os
from pathlib import Path

import pytest

from cxr_ray.runtime import machine


@pytest.mark.parametrize(
    ("limit", "share"), [("150000 100000", 1), ("50000 100000", 1), ("200000 100000", 2), ("max 100000", 10**6)]
)
def test_the_share_of_a_container_limits_the_cores(
    limit: str, share: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(limit + "\n")
    monkeypatch.setattr(machine, "CPU_LIMIT", tmp_path / "cpu.max")
    assert machine.cores() == min(share, len(os.sched_getaffinity(0)))


def test_without_a_container_all_cores_of_the_process_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CPU_LIMIT", tmp_path / "none")
    assert machine.cores() == len(os.sched_getaffinity(0))


def test_some_memory_is_free() -> None:
    total, free = machine.memory_bytes()
    assert 0 < free <= total
