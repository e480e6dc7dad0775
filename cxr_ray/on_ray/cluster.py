"""The Ray session: a local one, or a connection to a cluster. It shuts down only what it started."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ray

from cxr_ray.errors import UserError
from cxr_ray.on_ray import head, room
from cxr_ray.on_ray.resources import Room, this_machine

STARTUP_TIMED_OUT = "timed out during startup"
"""Words of Ray's message when its processes were not there in time."""


@contextmanager
def session(address: str | None = None, *, num_cpus: int | None = None, dashboard: bool = False) -> Iterator[bool]:
    """Connect to Ray for the duration of the block. Yields whether it is a local Ray that this call started.

    If this process is already connected (a test, a notebook), nothing is started or stopped. Without an address, uses the
    cluster of the Ray job (`RAY_ADDRESS`), or else starts a local Ray: a bare `ray.init()` would join any Ray that runs on the
    host. `num_cpus` (default: all cores) and `dashboard` (on loopback; Ray Train uses its state API) apply to a local Ray. Its own
    ports listen on every interface, whatever address it is given, and ask for the token. Raises `UserError` if no cluster answers; if the head of one
    is lost later, this process ends (head.py)."""
    if ray.is_initialized():
        yield False
        return
    where, local = address or os.environ.get("RAY_ADDRESS"), is_local(address)
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")  # our own progress bar counts images
    # torch.cuda.is_available() in a worker without a GPU must not depend on what Ray hides; see Ray's own warning.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray turns on token authentication for a Ray that it starts. That is right, and needs no warning each time.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    # Workers write to the run's log, which the driver prints. Their other output is for debugging only.
    quiet: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": bool(os.environ.get("CXR_RAY_DEBUG"))}
    try:
        if local:
            options: dict[str, Any] = {
                "num_cpus": num_cpus,
                "include_dashboard": dashboard,
                "dashboard_host": "127.0.0.1",
            }
            token = Path.home() / ".ray" / "auth_token"
            existed = token.exists()
            ray.init(address="local", **options, **quiet)
            if not existed and token.exists():
                token.chmod(0o600)  # Ray creates the token readable for everyone
        else:
            ray.init(address=where, **quiet)
    except ConnectionError as error:
        reason = " ".join(str(error).split())
        fix = "leave --address out" if address else "unset RAY_ADDRESS"
        raise UserError(
            f"no Ray cluster answers at {where} ({reason[:200]}); start one with `ray start --head`, or {fix}"
        ) from None
    except Exception as error:  # Ray raises no class of its own
        if STARTUP_TIMED_OUT not in str(error):
            raise
        raise UserError(
            "Ray did not start within its 30 s: this machine is too busy, or out of memory; end other programs, and run the same command "
            "again"
        ) from None
    # Also while it shuts down, for which Ray asks the head. A Ray client (ray://) sees only its proxy.
    is_client = str(where).startswith("ray://")
    with nullcontext() if local or is_client else head.watched(ray.get_runtime_context().gcs_address):
        try:
            yield local
        finally:
            ray.shutdown()


def is_local(address: str | None) -> bool:
    """Whether `session(address)` would start a Ray on this machine."""
    return not ray.is_initialized() and (address or os.environ.get("RAY_ADDRESS")) in (None, "local")


@contextmanager
def room_for(address: str | None, workers: int) -> Iterator[Room]:
    """Where a training with `workers` would run: the cluster, connected for the duration of the block, or this machine, on which nothing
    is started yet. Raises `UserError` as `session` does."""
    if is_local(address):
        import torch

        here = this_machine(workers, gpus=torch.cuda.device_count())
        yield Room([here], [here])
        return
    with session(address):
        yield room.now()
