"""A Ray session: this machine's own, or a cluster's. Started here means stopped here."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from cxr_ray.errors import UserError


@contextmanager
def session(address: str | None = None, *, num_cpus: int | None = None, dashboard: bool = False) -> Iterator[bool]:
    """Connect to Ray for the time of the block, which is told whether it is a Ray of this process alone.

    Within a session that this process has already (a test, a notebook) nothing is started and nothing stopped. Without
    an address, inside a Ray job its cluster (`RAY_ADDRESS`), else a Ray of this process alone: a bare `ray.init()`
    would join whatever Ray runs on the host. `num_cpus` (else the machine's cores) and `dashboard`, on loopback, are that one's;
    Ray Train asks the dashboard's state API. Raises `UserError` where no cluster answers."""
    if ray.is_initialized():
        yield False
        return
    where = address or os.environ.get("RAY_ADDRESS")
    alone = where is None or where == "local"
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")  # our own bar counts images
    # torch.cuda.is_available() in a worker without a GPU must not depend on what Ray hides; see Ray's own warning.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray turns token authentication on for a Ray that it starts, which is right and needs no warning each time.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    # What a worker has to say stands in the run's log, which the driver reads out; the rest is for a search for defects.
    quiet: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": bool(os.environ.get("CXR_RAY_DEBUG"))}
    try:
        if alone:
            here: dict[str, Any] = {"num_cpus": num_cpus, "include_dashboard": dashboard, "dashboard_host": "127.0.0.1"}
            token = Path.home() / ".ray" / "auth_token"
            had_one = token.exists()
            ray.init(address="local", **here, **quiet)
            if not had_one and token.exists():
                token.chmod(0o600)  # Ray writes the token that it makes readable for everyone
        else:
            ray.init(address=where, **quiet)
    except ConnectionError as error:
        first = " ".join(str(error).split())
        instead = "leave --address out" if address else "unset RAY_ADDRESS"
        raise UserError(
            f"no Ray cluster answers at {where} ({first[:200]}); start one with `ray start --head`, or {instead}"
        ) from None
    try:
        yield alone
    finally:
        ray.shutdown()


def nodes() -> list[dict[str, float]]:
    """What each living node of the session has, by Ray's names of resources."""
    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]
