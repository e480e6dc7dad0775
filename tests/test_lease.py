"""One live training a run folder: refused while its holder lives, free once it is dead."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cxr_ray import lease
from cxr_ray.errors import UserError


def test_a_second_training_is_refused_and_a_later_one_is_not(tmp_path):
    said = f"is being trained now, by process {os.getpid()} of this machine; wait"
    with lease.Lease(tmp_path), pytest.raises(UserError, match=said):
        lease.Lease(tmp_path).__enter__()
    assert list(tmp_path.iterdir()) == []
    with lease.Lease(tmp_path):
        pass


def test_a_killed_holder_is_known_at_once(tmp_path):
    code = f"import os; from pathlib import Path; from cxr_ray.lease import Lease; Lease(Path({str(tmp_path)!r})).__enter__(); os._exit(9)"
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


LINK, LOCK = os.link, fcntl.flock


def refused(*_: Any) -> None:
    raise OSError(errno.ENOTSUP, "not here")


@pytest.mark.parametrize("before", ["nothing", "dead", "half"])
@pytest.mark.parametrize("disk", ["local", "no locks", "no locks, no links"])
def test_of_many_that_start_at_once_one_alone_has_it(tmp_path, monkeypatch, before: str, disk: str):
    """Where folders cannot be locked, and a dead one's lease lies there, it may be that none has it: they try again."""
    monkeypatch.setattr(fcntl, "flock", LOCK if disk == "local" else refused)
    monkeypatch.setattr(os, "link", refused if disk.endswith("links") else LINK)
    monkeypatch.setattr(lease, "SETTLE_S", 0.5)
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        held = [at_once(tmp_path / str(attempt), before) for attempt in range(25 if disk == "local" else 6)]
    finally:
        sys.setswitchinterval(switch)
    assert max(held) == 1
    assert disk != "local" or min(held) == 1


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
from cxr_ray import lease
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


def test_one_that_lost_it_is_interrupted_and_leaves_the_others_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_S", 0.01)
    file = tmp_path / "lease.json"
    others = json.dumps({"holder": "y", "pid": 1, "started": "1", "on": "elsewhere"})
    with pytest.raises(UserError, match="was silent for over 30 s and has lost"), lease.Lease(tmp_path) as mine:
        file.write_text(others)
        os.utime(file, (5, 5))
        mine.lost.wait(30)
        time.sleep(30)  # what the interrupt ends
    assert mine.lost.is_set() and file.read_text() == others and file.stat().st_mtime == 5


def test_a_lease_that_came_in_between_is_put_back(tmp_path, monkeypatch):
    """One that lives is never removed, however late the look at the dead one before it."""
    file = tmp_path / "lease.json"
    late = lease.Lease(tmp_path)
    with lease.Lease(tmp_path):
        held = file.read_text()
        with pytest.raises(UserError, match="is being trained now"):
            late._put_aside(file, {"holder": "long dead"})
        assert file.read_text() == held and list(tmp_path.iterdir()) == [file]
