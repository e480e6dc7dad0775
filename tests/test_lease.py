"""One live training a run folder: refused while its holder lives, free once it is dead."""

import json
import os
import subprocess
import sys
import time

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
