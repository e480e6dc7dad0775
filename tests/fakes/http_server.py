"""An ASGI application on a port of this machine, in a thread, and requests to it."""

import http.client
import json
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import uvicorn


class Answer(NamedTuple):
    status: int
    body: dict[str, Any]
    headers: dict[str, str]


@contextmanager
def running(app: Any) -> Iterator[int]:
    """Its port."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="off", access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def ask(
    port: int,
    method: str,
    path: str,
    body: bytes | Iterable[bytes] | None = None,
    *,
    token: str | None = None,
    headers: dict[str, str] | None = None,
    timeout_s: float = 60.0,
) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    given = {**({"Authorization": f"Bearer {token}"} if token is not None else {}), **(headers or {})}
    try:
        connection.request(method, path, body=body, headers=given)
        response = connection.getresponse()
        return Answer(response.status, json.loads(response.read()), {k.lower(): v for k, v in response.getheaders()})
    finally:
        connection.close()
