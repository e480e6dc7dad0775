"""What the autoscaler may start: from the cluster file that the head's monitor was started with."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cxr_ray.on_ray import autoscaler
from cxr_ray.on_ray.resources import NodeType
from tests.fakes.waiting import until

CONFIG = {
    "max_workers": 3,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 0}},
        "cpu": {"resources": {"CPU": 4}, "max_workers": 2},
        "gpu": {"resources": {"CPU": 8, "GPU": 1}},
    },
}


def test_types_have_their_own_limit_or_that_of_the_cluster():
    found = autoscaler.of_config(CONFIG, active={})
    assert found.types == (NodeType({"CPU": 4.0}, 2), NodeType({"CPU": 8.0, "GPU": 1.0}, 3)) and found.more == 3
    found = autoscaler.of_config(CONFIG, active={"head": 1, "cpu": 2, "gpu": 1}, starting=2)
    assert [kind.more for kind in found.types] == [0, 2] and found.more == 0 and found.starting == 2


@pytest.mark.parametrize(
    ("port", "given", "is_found"), [("6379", True, True), ("6380", True, False), ("6379", False, False)]
)
def test_the_file_is_that_of_the_monitor_of_the_same_ray(tmp_path: Path, port: str, given: bool, is_found: bool):
    file = tmp_path / "ray_bootstrap_config.yaml"
    file.write_text(json.dumps(CONFIG), encoding="utf-8")
    words = ["ray/autoscaler/_private/monitor.py", "--gcs-address=10.0.0.1:6379"]
    words += [f"--autoscaling-config={file}"] if given else []
    monitor = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()", *words], stdin=subprocess.PIPE)
    try:
        # Popen returns when the files of the parent are closed, which is before the words are there.
        until(lambda: b"monitor.py" in Path(f"/proc/{monitor.pid}/cmdline").read_bytes(), 20, monitor)
        assert autoscaler.read_config(port) == (CONFIG if is_found else None)
    finally:
        monitor.communicate(timeout=20)
