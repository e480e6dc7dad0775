"""One live writer per folder: a second one is refused while the holder lives, and admitted once it is dead."""

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


def test_a_second_holder_is_refused_and_a_later_one_is_not(tmp_path):
    message = f"is being trained now, by process {os.getpid()} of this machine; wait"
    with lease.Lease(tmp_path), pytest.raises(UserError, match=message):
        lease.Lease(tmp_path).__enter__()
    assert list(tmp_path.iterdir()) == []
    with lease.Lease(tmp_path):
        pass


def test_a_killed_holder_is_detected_at_once(tmp_path):
    code = f"import os; from pathlib import Path; from cxr_ray.storage.lease import Lease; Lease(Path({str(tmp_path)!r})).__enter__(); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert (tmp_path / "lease.json").exists()
    with lease.Lease(tmp_path):
        pass


def test_a_process_number_used_again_is_not_the_holder(tmp_path):
    with lease.Lease(tmp_path):
        body = json.loads((tmp_path / "lease.json").read_text())
    (tmp_path / "lease.json").write_text(json.dumps({**body, "started": "0"}))
    with lease.Lease(tmp_path):
        pass


def test_a_lease_of_another_machine_expires_if_it_is_not_renewed(tmp_path):
    file = tmp_path / "lease.json"
    file.write_text(json.dumps({"holder": "x", "pid": 1, "started": "1", "on": "elsewhere"}))
    with pytest.raises(UserError, match=r"by another machine.*expires after 30 s"):
        lease.Lease(tmp_path).__enter__()
    long_ago = time.time() - lease.EXPIRES_S - 1
    os.utime(file, (long_ago, long_ago))
    with lease.Lease(tmp_path):
        assert json.loads(file.read_text())["holder"] != "x"


def test_it_is_renewed_while_its_holder_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_S", 0.01)
    with lease.Lease(tmp_path):
        long_ago = time.time() - 100
        os.utime(tmp_path / "lease.json", (long_ago, long_ago))
        deadline = time.monotonic() + 10
        while (tmp_path / "lease.json").stat().st_mtime < long_ago + 50:
            assert time.monotonic() < deadline, "never renewed"
            time.sleep(0.01)


def test_a_half_written_lease_does_not_count(tmp_path):
    (tmp_path / "lease.json").write_text('{"hol')
    with lease.Lease(tmp_path):
        pass


@pytest.mark.parametrize("before", ["nothing", "dead", "half"])
@pytest.mark.parametrize("links", [True, False])
def test_of_many_threads_that_start_at_once_exactly_one_gets_it(tmp_path, monkeypatch, before: str, links: bool):
    if not links:
        monkeypatch.setattr(os, "link", _unsupported)
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        holders = [concurrent_holders(tmp_path / str(attempt), before) for attempt in range(15)]
    finally:
        sys.setswitchinterval(switch)
    assert set(holders) == {1}


def _unsupported(*_: Any) -> None:
    raise OSError(errno.ENOTSUP, "not here")


def test_without_locks_a_lease_is_read_again_before_it_counts(tmp_path, monkeypatch):
    """Another process, which has seen the same dead lease, may have replaced it in the meantime."""
    monkeypatch.setattr(fcntl, "flock", _unsupported)
    file = tmp_path / "lease.json"
    dead = {"holder": "x", "pid": 1, "started": "0", "on": lease.machine_id()}
    others = {"holder": "y", "pid": os.getpid(), "started": lease.process_start(os.getpid()), "on": lease.machine_id()}
    for late, outcome in ((True, pytest.raises(UserError, match="is being trained now")), (False, nullcontext())):
        file.write_text(json.dumps(dead))
        monkeypatch.setattr(lease.time, "sleep", lambda s, late=late: late and file.write_text(json.dumps(others)))
        with outcome, lease.Lease(tmp_path):
            assert json.loads(file.read_text())["holder"] not in "xy"


def concurrent_holders(folder: Path, before: str, *, threads: int = 6) -> int:
    """How many of `threads` threads hold the lease at the same time, once each of them was admitted or refused."""
    folder.mkdir()
    dead = json.dumps({"holder": "x", "pid": 1, "started": "0", "on": lease.machine_id()})
    if before != "nothing":
        (folder / "lease.json").write_text(dead if before == "dead" else dead[:5])
    start, decided = threading.Barrier(threads), threading.Barrier(threads)
    holders = []

    def one() -> None:
        start.wait()
        mine = lease.Lease(folder)
        try:
            mine.__enter__()
        except UserError:
            decided.wait()
            return
        holders.append(mine)
        decided.wait()
        mine.__exit__(None, None, None)

    running = [threading.Thread(target=one) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert [path.name for path in folder.iterdir() if path.name != "lease.json"] == []
    return len(holders)


def test_of_many_processes_exactly_one_gets_it(tmp_path):
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
        output, errors = process.communicate(timeout=60)
        assert output == "done\n" and process.returncode == 0, errors
    assert list(tmp_path.iterdir()) == []


LOSING_HOLDER = """
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
def test_a_holder_that_lost_its_lease_ends_and_leaves_the_new_one(tmp_path, interrupts: str, thread: str):
    others = json.dumps({"holder": "y", "pid": 1, "started": "1", "on": "elsewhere"})
    ended = subprocess.run(
        [sys.executable, "-c", LOSING_HOLDER, tmp_path, interrupts, thread, others],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert ended.returncode == 1 and "did not renew its lease for over 30 s and has lost" in ended.stderr
    assert ("UserError" in ended.stderr) == (
        interrupts != "SIG_IGN" and thread == "main"
    )  # otherwise there is nothing to raise it in
    assert (tmp_path / "lease.json").read_text() == others
