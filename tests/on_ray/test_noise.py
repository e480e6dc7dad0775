"""Ray's output goes to a file, ours to the terminal."""

import subprocess
import sys

CODE = """
import logging, os, sys, threading
from pathlib import Path
from cxr_ray.on_ray import noise

logging.basicConfig(stream=sys.stderr)
with noise.into(Path(sys.argv[1])):
    os.write(2, b"from C++\\n")
    logging.warning("from a logger")
    thread = threading.Thread(target=lambda: print("from a thread of Ray", file=sys.stderr), name="ray_print_logs")
    thread.start()
    thread.join()
    print("ours", file=sys.stderr)
print("ours afterwards", file=sys.stderr)
os.write(2, b"and C++\\n")
"""


def test_only_our_own_lines_reach_the_terminal(tmp_path):
    for _ in range(2):
        run = subprocess.run([sys.executable, "-c", CODE, str(tmp_path / "ray.log")], capture_output=True, text=True)
        assert run.stderr == "ours\nours afterwards\nand C++\n"
    assert (tmp_path / "ray.log").read_text() == "from C++\nWARNING:root:from a logger\nfrom a thread of Ray\n" * 2
