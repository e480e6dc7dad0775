"""The head of a cluster, watched by a process that uses it. Ray ends such a process a minute after its head is lost, without a word. Here
the loss is said early, the training is asked to save what it has, and the process ends before Ray ends it, with one line. Ray ends it at
once if the head of another cluster answers at the same address."""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ray

from cxr_ray.errors import UserError, masked
from cxr_ray.runs import events
from cxr_ray.runtime.threads import background

RAY_WAITS = "RAY_gcs_rpc_server_reconnect_timeout_s"
"""Environment variable: how long Ray's processes look for a lost head before they end."""
RAY_WAITS_S = 60.0
"""Ray's default."""
SAY, SAVE, END = 1 / 12, 1 / 2, 7 / 8
"""When the loss is said, a checkpoint is asked for, and the process ends: as shares of Ray's time. A head with a store of its own, as on
Kubernetes, is back before."""


class Work(Protocol):
    """A run or a sweep."""

    @property
    def path(self) -> Path: ...
    @property
    def info(self) -> dict[str, Any]: ...
    def update(self, **changes: Any) -> None: ...


@dataclass(frozen=True)
class _Notified:
    work: Work
    say: Callable[[str], None]
    save: Callable[[], None]

    def fail(self, error: UserError) -> None:
        if self.work.info["status"] != "finished":
            self.work.update(status="failed", error=str(error))
            events.record(self.work.path, "failed", str(error))


_notified: list[_Notified] = []


@contextmanager
def notified(work: Work, *, say: Callable[[str], None], save: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Within it, the loss of the head of a `watched` cluster is said by `say`, `save` asks for a checkpoint of `work`, and the end of the
    process is recorded there. Both are called in another thread."""
    _notified.append(each := _Notified(work, say, save))
    try:
        yield
    finally:
        _notified.remove(each)


def cluster_of(address: str) -> str | None:
    """The id of the cluster whose head answers at `address`; None if none does."""
    raylet: Any = ray._raylet  # Ray has no public way
    try:
        return str(raylet.GcsClient(address=address).cluster_id.hex())
    except (RuntimeError, OSError, ray.exceptions.RayError):
        return None


@contextmanager
def watched(address: str, *, cluster_of: Callable[[str], str | None] = cluster_of) -> Iterator[None]:
    """Within it, this process ends with an error and exit code 2 if the head at `address` (HOST:PORT) does not answer for long, or if it is
    one of another cluster then."""
    with background(lambda ended: _watch(address, ended, cluster_of), name="cxr-head"):
        yield


def _watch(address: str, ended: threading.Event, cluster_of: Callable[[str], str | None]) -> None:
    patience = float(os.environ.get(RAY_WAITS) or RAY_WAITS_S)
    every, cluster = min(2.0, patience / 30), cluster_of(address)
    answered, silent, said, asked = time.monotonic(), 0.0, False, False
    while not ended.wait(every / 10 if silent else every):
        if _answers(address):
            if silent and cluster_of(address) not in (cluster, None):  # before Ray's own processes notice it
                _end(f"the head at {address} was replaced by that of another cluster, and its workers are lost", "")
            if said:
                _tell(f"the head of the cluster at {address} answers again, after {time.monotonic() - answered:.0f} s")
            answered, silent, said, asked = time.monotonic(), 0.0, False, False
            continue
        silent = time.monotonic() - answered
        if silent > SAY * patience and not said:
            said = True
            _tell(f"the head of the cluster at {address} does not answer: waiting {patience * END:.0f} s for it")
        if silent > SAVE * patience and not asked:
            asked = True
            for each in _notified:
                each.save()
        if asked and (silent > END * patience or "started" not in _statuses()):
            _end(
                f"the head of the cluster at {address} has not answered for {silent:.0f} s",
                "start it again, or use another cluster, and ",
            )


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=3).close()
    except OSError:
        return False
    return True


def _tell(line: str) -> None:
    for each in _notified:
        each.say(line)


def _statuses() -> list[str]:
    try:
        return [str(each.work.info["status"]) for each in _notified] or ["started"]
    except (OSError, ValueError):  # a file is being replaced
        return ["started"]


def _end(lost: str, first: str) -> None:
    """End the process: its main thread waits within Ray, which asks the lost head even to shut down. `first` comes before the same command."""
    statuses = _statuses()
    saved = "its workers have saved a checkpoint and ended; " if "stopped" in statuses else ""
    error = UserError(f"{lost}: {saved}{first}run the same command")
    if "finished" in statuses:
        error = UserError(
            f"{lost}, but the training has finished: nothing is lost, and the next command can use the run"
        )
    for each in _notified:
        with suppress(Exception):  # the line below is said in any case
            each.fail(error)
    sys.stdout.flush()
    print(f"cxr-ray: error: {masked(str(error))}", file=sys.stderr, flush=True)
    os._exit(2)
