"""A job of a colleague: it uses CPUs of a cluster until it is ended."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_CODE = """
import sys
import ray

@ray.remote(num_cpus=float(sys.argv[2]))
class Job:
    def ready(self):
        return "started"

ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
job = Job.remote()
print(ray.get(job.ready.remote()), flush=True)
sys.stdin.read()
"""


@contextmanager
def cpus_in_use(address: str, cpus: float) -> Iterator[subprocess.Popen[str]]:
    """Within it, `cpus` CPUs of the cluster are in use, until the process that is yielded ends."""
    environment = {**os.environ, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    process = subprocess.Popen(
        [sys.executable, "-c", _CODE, address, str(cpus)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "started\n"
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=60)
