"""Ray's output goes to a file, ours to the terminal."""

import os
import subprocess
import sys

CODE = """
import logging, os, sys
from pathlib import Path
from ray._private import worker
from cxr_ray.on_ray import noise

logging.basicConfig(stream=sys.stderr)
with noise.into(Path(sys.argv[1])):
    os.write(2, b"from C++\\n")
    logging.warning("from a logger")
    worker.print_to_stdstream({"lines": ["a worker died"], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    print("ours", file=sys.stderr)
    print("and ours")
print("ours afterwards", file=sys.stderr)
os.write(2, b"and C++\\n")
"""


def test_only_our_own_lines_reach_the_terminal(tmp_path):
    for _ in range(2):
        command = [sys.executable, "-c", CODE, str(tmp_path / "ray.log")]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        assert run.stderr == "ours\nours afterwards\nand C++\n" and run.stdout == "and ours\n"
    assert (tmp_path / "ray.log").read_text() == "from C++\nWARNING:root:from a logger\n(raylet) a worker died\n" * 2


def test_with_debug_everything_is_shown(tmp_path):
    command = [sys.executable, "-c", CODE, str(tmp_path / "ray.log")]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "CXR_RAY_DEBUG": "1"})
    assert "from C++" in run.stderr and "a worker died" in run.stdout and not (tmp_path / "ray.log").exists()
