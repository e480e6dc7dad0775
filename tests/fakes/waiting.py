"""Waiting for another process."""

import subprocess
import time
from collections.abc import Callable
from typing import Any


def until(condition: Callable[[], Any], seconds: float, process: subprocess.Popen[Any] | None = None) -> float:
    """Wait until `condition()` is true; returns the seconds. Fails after `seconds`, or if `process` ends before."""
    started = time.monotonic()
    while not condition():
        assert process is None or process.poll() is None, "the process ended before the condition was true"
        assert time.monotonic() - started < seconds, "the condition did not become true"
        time.sleep(0.05)
    return time.monotonic() - started
