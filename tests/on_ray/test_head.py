"""A lost head is said, the work is asked to save, and the process ends with one line; a head that is back in time changes nothing."""

import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cxr_ray import runs
from cxr_ray.on_ray import head
from cxr_ray.on_ray.head import RAY_WAITS
from cxr_ray.runs import events

ROOT = Path(__file__).resolve().parents[2]

CODE = textwrap.dedent(
    """
    import json, socket, sys, time
    from pathlib import Path
    from cxr_ray import runs
    from cxr_ray.on_ray import head
    from tests.fakes.ports import free_port

    how, folder, port = sys.argv[1], Path(sys.argv[2]), free_port()
    server = socket.create_server(("127.0.0.1", port))
    run = runs.Run(folder)
    run.update(status="finished" if how == "finished" else "started")

    def save():
        print("asked to save", flush=True)
        if how == "saves":
            run.update(status="stopped")

    ids = iter(["first", "second" if how == "another" else None if how == "unknown" else "first"])
    watched = head.watched(f"127.0.0.1:{port}", cluster_of=lambda address: next(ids))
    with head.notified(run, say=lambda line: print("said:", line, flush=True), save=save), watched:
        time.sleep(0.3)
        server.close()
        time.sleep(0.8)
        if how in ("back", "another", "unknown"):
            server = socket.create_server(("127.0.0.1", port))
        time.sleep(0.8 if how in ("back", "unknown") else 30)
    print("went on")
    """
)


def lose_the_head(how: str, folder: Path) -> tuple[int, list[str], str]:
    """Exit code, output lines and error line of a process whose head is lost. Ray would wait 3 s for it."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, how, str(folder)],
        cwd=ROOT,
        env={"PATH": "", "PYTHONPATH": str(ROOT), RAY_WAITS: "3"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize("how", ["saves", "hangs", "finished"])
def test_a_lost_head_is_said_and_ends_the_process_before_ray_does(how, tmp_path):
    code, lines, error = lose_the_head(how, tmp_path)
    assert code == 2 and error.count("\n") == 1
    assert len(lines) == 2 and lines[0].startswith("said: the head of the cluster at 127.0.0.1:")
    assert lines[1] == "asked to save"
    saved = "its workers have saved a checkpoint and ended; " if how == "saves" else ""
    ended = f"s: {saved}start it again, or use another cluster, and run the same command\n"
    assert error.endswith(
        ended
        if how != "finished"
        else "s, but the training has finished: nothing is lost, and the next command can use the run\n"
    )
    run = runs.Run(tmp_path)
    if how == "finished":
        assert run.info["status"] == "finished" and events.read(tmp_path) == []
    else:
        assert run.info["status"] == "failed" and error == f"cxr-ray: error: {run.info['error']}\n"
        assert [event["event"] for event in events.read(tmp_path)] == ["failed"]


@pytest.mark.parametrize("how", ["back", "unknown"])
def test_a_head_that_is_back_in_time_changes_nothing(how, tmp_path):
    code, lines, error = lose_the_head(how, tmp_path)
    assert (code, error) == (0, "") and "answers again, after" in lines[1] and lines[2:] == ["went on"]
    assert runs.Run(tmp_path).info["status"] == "started"


def test_a_head_of_another_cluster_at_the_same_address_ends_the_process_at_once(tmp_path):
    code, lines, error = lose_the_head("another", tmp_path)
    assert code == 2 and len(lines) == 1 and "does not answer" in lines[0]
    assert (
        error.endswith(" was replaced by that of another cluster, and its workers are lost: run the same command\n")
        and error.count("\n") == 1
    )
    run = runs.Run(tmp_path)
    assert run.info["status"] == "failed" and error == f"cxr-ray: error: {run.info['error']}\n"


def test_an_address_may_be_one_of_ipv6():
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        port = server.getsockname()[1]
        with head.watched(f"[::1]:{port}", cluster_of=lambda address: "first"):
            pass
