"""One live training a run folder: refused while its holder lives, free once it is dead."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from cxr_ray.errors import UserError
from cxr_ray.storage import lease


def test_a_second_training_is_refused_and_a_later_one_is_not(tmp_path):
    said = f"is being trained now, by process {os.getpid()} of this machine; wait"
    with lease.Lease(tmp_path), pytest.raises(UserError, match=said):
        lease.Lease(tmp_path).__enter__()
    assert list(tmp_path.iterdir()) == []
    with lease.Lease(tmp_path):
        pass


def test_a_killed_holder_is_known_at_once(tmp_path):
    code = f"import os; from pathlib import Path; from cxr_ray.storage.lease import Lease; Lease(Path({str(tmp_path)!r})).__enter__(); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert (tmp_path / "lease.json").exists()
    with lease.Lease(tmp_path):
        pass


def test_a_process_number_used_again_is_not_the_holder(tmp_path):
    with lease.Lease(tmp_path):
        held = json.loads((tmp_path / "lease.json").read_text())
    (tmp_path / "lease.json").write_text(json.dumps({**held, "started": "0"}))
    with lease.Lease(tmp_path):
        pass


def test_another_machine_s_lease_runs_out_when_it_is_not_renewed(tmp_path):
    file = tmp_path / "lease.json"
    file.write_text(json.dumps({"holder": "x", "pid": 1, "started": "1", "on": "elsewhere"}))
    with pytest.raises(UserError, match=r"by another machine.*runs out after 30 s"):
        lease.Lease(tmp_path).__enter__()
    long_ago = time.time() - lease.LASTS_S - 1
    os.utime(file, (long_ago, long_ago))
    with lease.Lease(tmp_path):
        assert json.loads(file.read_text())["holder"] != "x"


def test_it_is_renewed_while_held(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_S", 0.01)
    with lease.Lease(tmp_path):
        long_ago = time.time() - 100
        os.utime(tmp_path / "lease.json", (long_ago, long_ago))
        deadline = time.monotonic() + 10
        while (tmp_path / "lease.json").stat().st_mtime < long_ago + 50:
            assert time.monotonic() < deadline, "never renewed"
            time.sleep(0.01)


def test_a_half_written_lease_holds_nothing(tmp_path):
    (tmp_path / "lease.json").write_text('{"hol')
    with lease.Lease(tmp_path):
        pass


@pytest.mark.parametrize("before", ["nothing", "dead", "half"])
@pytest.mark.parametrize("links", [True, False])
def test_of_many_that_start_at_once_one_alone_has_it(tmp_path, monkeypatch, before: str, links: bool):
    if not links:
        monkeypatch.setattr(os, "link", _refused)
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        held = [at_once(tmp_path / str(attempt), before) for attempt in range(15)]
    finally:
        sys.setswitchinterval(switch)
    assert set(held) == {1}


def _refused(*_: Any) -> None:
    raise OSError(errno.ENOTSUP, "not here")


def test_where_nothing_can_be_locked_it_looks_again_before_it_believes(tmp_path, monkeypatch):
    """Another, which has seen the same dead lease, puts its own there meanwhile."""
    monkeypatch.setattr(fcntl, "flock", _refused)
    file = tmp_path / "lease.json"
    dead = {"holder": "x", "pid": 1, "started": "0", "on": lease._machine()}
    others = {"holder": "y", "pid": os.getpid(), "started": lease._started(os.getpid()), "on": lease._machine()}
    for late, ends in ((True, pytest.raises(UserError, match="is being trained now")), (False, nullcontext())):
        file.write_text(json.dumps(dead))
        monkeypatch.setattr(lease.time, "sleep", lambda s, late=late: late and file.write_text(json.dumps(others)))
        with ends, lease.Lease(tmp_path):
            assert json.loads(file.read_text())["holder"] not in "xy"


def at_once(folder: Path, before: str, *, threads: int = 6) -> int:
    """How many of as many threads as that hold the lease together, when all have been answered."""
    folder.mkdir()
    dead = json.dumps({"holder": "x", "pid": 1, "started": "0", "on": lease._machine()})
    if before != "nothing":
        (folder / "lease.json").write_text(dead if before == "dead" else dead[:5])
    start, answered = threading.Barrier(threads), threading.Barrier(threads)
    held = []

    def one() -> None:
        start.wait()
        mine = lease.Lease(folder)
        try:
            mine.__enter__()
        except UserError:
            answered.wait()
            return
        held.append(mine)
        answered.wait()
        mine.__exit__(None, None, None)

    running = [threading.Thread(target=one) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert [path.name for path in folder.iterdir() if path.name != "lease.json"] == []
    return len(held)


def test_of_many_processes_one_alone_has_it(tmp_path):
    code = """
import sys, time
from pathlib import Path
from cxr_ray.storage import lease
from cxr_ray.errors import UserError
print("ready", flush=True)
sys.stdin.readline()
for attempt in range(20):
    try:
        with lease.Lease(Path(sys.argv[1])):
            with open(Path(sys.argv[1]) / "inside", "x"):
                time.sleep(0.005)
            (Path(sys.argv[1]) / "inside").unlink()
    except UserError:
        time.sleep(0.001)
print("done", flush=True)
"""
    started = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path], stdin=-1, stdout=-1, stderr=-1, text=True)
        for _ in range(3)
    ]
    for process in started:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in started:
        said, complaint = process.communicate(timeout=60)
        assert said == "done\n" and process.returncode == 0, complaint
    assert list(tmp_path.iterdir()) == []


LOSES = """
import json, os, signal, sys, threading
from pathlib import Path
from cxr_ray.storage import lease
lease.RENEW_S = 0.01
signal.signal(signal.SIGINT, getattr(signal, sys.argv[2]))

def hold():
    with lease.Lease(Path(sys.argv[1])):
        Path(sys.argv[1], "lease.json").write_text(sys.argv[4])
        threading.Event().wait(60)

if sys.argv[3] == "main":
    hold()
else:
    threading.Thread(target=hold).start()
"""


@pytest.mark.parametrize(
    ("interrupts", "thread"), [("default_int_handler", "main"), ("SIG_IGN", "main"), ("default_int_handler", "other")]
)
def test_one_that_lost_it_ends_and_leaves_the_others_alone(tmp_path, interrupts: str, thread: str):
    others = json.dumps({"holder": "y", "pid": 1, "started": "1", "on": "elsewhere"})
    ended = subprocess.run(
        [sys.executable, "-c", LOSES, tmp_path, interrupts, thread, others], capture_output=True, text=True, timeout=50
    )
    assert ended.returncode == 1 and "was silent for over 30 s and has lost" in ended.stderr
    assert ("UserError" in ended.stderr) == (
        interrupts != "SIG_IGN" and thread == "main"
    )  # else there is nobody to raise it to
    assert (tmp_path / "lease.json").read_text() == others
