"""A Ray head without CPUs whose autoscaler starts nodes as further processes of this machine."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.fakes.ports import free_port

COMMANDS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)
RAY = str(Path(sys.executable).parent / "ray")


@contextmanager
def autoscaling_head(*, cpus: float = 1, most: int = 2, environment: dict[str, str] | None = None) -> Iterator[str]:
    """Within it, the address of a head of 0 CPUs that starts up to `most` nodes of `cpus` CPUs. `environment` is that of all nodes.

    Its files are in a folder of its own, by which its processes are found at the end: no other Ray of the machine is ended."""
    folder = Path(tempfile.mkdtemp(prefix="cxr", dir="/tmp"))  # short: sockets have paths of at most 107 bytes
    port = free_port()
    config = {
        "cluster_name": "fake",
        "max_workers": most,
        "idle_timeout_minutes": 5,
        "provider": {
            "type": "fake_multinode",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "gcs_address": f"127.0.0.1:{port}",
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": {"CPU": cpus}, "node_config": {}, "min_workers": 0, "max_workers": most},
        },
        "head_node_type": "ray.head.default",
        "auth": {},
        "docker": {},
        "file_mounts": {},
        **{key: [] for key in (*COMMANDS, "cluster_synced_files", "rsync_exclude", "rsync_filter")},
        "file_mounts_sync_continuously": False,
        "upscaling_speed": 1.0,
    }
    (folder / "autoscaling.yaml").write_text(json.dumps(config), encoding="utf-8")
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_ADDRESS")}
    env |= {"RAY_TMPDIR": str(folder), "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"} | (
        environment or {}
    )
    env["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "0"
    command = [RAY, "start", "--head", f"--port={port}", "--num-cpus=0", "--disable-usage-stats", "--block"]
    command += ["--include-dashboard=false", f"--autoscaling-config={folder / 'autoscaling.yaml'}"]
    command += [f"--dashboard-agent-listen-port={free_port()}", "--node-ip-address=127.0.0.1"]
    with (folder / "head.log").open("wb") as log:
        head = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while b"Ray runtime started" not in (folder / "head.log").read_bytes():
            assert head.poll() is None and time.monotonic() < deadline, (folder / "head.log").read_text()[-3000:]
            time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        head.terminate()
        with suppress(subprocess.TimeoutExpired):
            head.wait(timeout=20)
        _end_processes_of(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _end_processes_of(folder: Path) -> None:
    """End every process that was started with `folder` as its RAY_TMPDIR."""
    mark = f"RAY_TMPDIR={folder}".encode()
    for file in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark in file.read_bytes().split(b"\0") and int(file.parent.name) != os.getpid():
                os.kill(int(file.parent.name), 9)
