"""Waiting for what another process does."""

import subprocess
import time
from collections.abc import Callable
from typing import Any


def until(so: Callable[[], Any], seconds: float, process: subprocess.Popen[str] | None = None) -> float:
    """Seconds until `so` holds, which is to be within `seconds`, and while `process` lives."""
    began = time.monotonic()
    while not so():
        assert process is None or process.poll() is None, "the process ended before that"
        assert time.monotonic() - began < seconds, "it never came to that"
        time.sleep(0.05)
    return time.monotonic() - began
