"""The application over real HTTP, with a function in place of the model."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from cxr_ray.service.app import make_app
from cxr_ray.service.body import MIB, Limits, Refusal
from tests.fakes.http_server import Answer, ask, running

TOKEN = "a token of the test"
LIMIT = 4 * MIB


async def answer(body: bytes) -> Mapping[str, Any]:
    """The body says what the model does."""
    if body == b"fail":
        raise ValueError("secret")
    if body == b"restart":
        raise Refusal(503, "the model is being restarted", retry_s=5)
    if body.startswith(b"slow"):
        await asyncio.sleep(0.3)
    if body.startswith(b"refuse "):
        return {"refused": body.removeprefix(b"refuse ").decode()}
    return {"bytes": len(body)}


async def is_healthy() -> bool:
    return True


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    limits = Limits(body=LIMIT, bodies=2 * LIMIT, read_s=0.5)
    with running(make_app(answer, is_healthy, {"labels": ["Edema"]}, token=TOKEN, limits=limits)) as found:
        yield found


def predict(port: int, body: Any, **options: Any) -> Answer:
    return ask(port, "POST", "/predict", body, token=TOKEN, **options)


def test_a_body_gets_its_answer(port: int) -> None:
    assert predict(port, b"x" * LIMIT)[:2] == (200, {"bytes": LIMIT})
    assert predict(port, iter([b"x" * 10, b"y"]))[:2] == (200, {"bytes": 11})  # in chunks, without a length


@pytest.mark.parametrize(("method", "path"), [("POST", "/predict"), ("GET", "/metadata")])
@pytest.mark.parametrize("token", [None, "", "another"])
def test_no_answer_without_the_token(port: int, method: str, path: str, token: str | None) -> None:
    found = ask(port, method, path, b"x" if method == "POST" else None, token=token)
    assert found.status == 401 and found.headers["www-authenticate"] == "Bearer"


def test_metadata_and_health(port: int) -> None:
    assert ask(port, "GET", "/metadata", token=TOKEN)[:2] == (200, {"labels": ["Edema"]})
    assert ask(port, "GET", "/health")[:2] == (200, {"status": "ok"})


@pytest.mark.parametrize(
    ("body", "headers", "status", "reason"),
    [
        (b"", {}, 400, "empty"),
        (b"refuse not an image", {}, 415, "curl --data-binary @FILE"),
        (b"refuse truncated", {}, 422, "truncated"),
        (b"x", {"Content-Type": "multipart/form-data; boundary=x"}, 415, "forms are not read"),
        (b"x", {"Content-Encoding": "gzip"}, 415, "compressed"),
        (b"restart", {}, 503, "restarted"),
        (b"fail", {}, 500, "internal error"),
    ],
)
def test_a_bad_body_gets_a_reason(port: int, body: bytes, headers: dict[str, str], status: int, reason: str) -> None:
    found = predict(port, body, headers=headers, timeout_s=15.0)  # no refusal waits for what does not come
    assert found.status == status and reason in found.body["error"] and "secret" not in found.body["error"]
    assert (found.headers.get("retry-after") == "5") is (status == 503)


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/predict", 405), ("GET", "/films/secret", 404), ("POST", "/predict/", 404)]
)
def test_other_routes(port: int, method: str, path: str, status: int) -> None:
    found = ask(port, method, path, token=TOKEN)
    assert found.status == status and "POST /predict" in found.body["error"] and "secret" not in found.body["error"]


class Peak:
    """The growth of this process's resident memory within the block, in bytes."""

    def __enter__(self) -> "Peak":
        self._process, self._ended, self.bytes = psutil.Process(), threading.Event(), 0
        start = self._process.memory_info().rss

        def watch() -> None:
            while not self._ended.wait(0.01):
                self.bytes = max(self.bytes, self._process.memory_info().rss - start)

        self._thread = threading.Thread(target=watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


@pytest.mark.parametrize("declared", [True, False], ids=["with its length", "in chunks"])
def test_200_mib_are_refused_and_not_kept(port: int, declared: bool) -> None:
    chunk, count = b"x" * MIB, 200
    headers = {"Content-Length": str(count * MIB)} if declared else {}
    with Peak() as peak:
        found = predict(port, (chunk for _ in range(count)), headers=headers)
    assert found.status == 413 and f"{LIMIT:,} bytes" in found.body["error"]
    assert peak.bytes < 64 * MIB
    assert predict(port, b"x")[:2] == (200, {"bytes": 1})


def test_a_caller_that_waits_for_permission_sends_nothing(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(
            f"POST /predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {200 * MIB}\r\n"
            "Expect: 100-continue\r\n\r\n".encode()
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_a_caller_that_got_permission_gets_the_answer_to_too_much(port: int) -> None:
    """Its length is not known before; a connection that is closed under it would lose the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(
            f"POST /predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nTransfer-Encoding: chunked\r\n"
            "Expect: 100-continue\r\n\r\n".encode()
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 100")
        for _ in range(20):
            connection.sendall(b"100000\r\n" + b"x" * MIB + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        found = b""
        while chunk := connection.recv(1000):
            found += chunk
        assert found.startswith(b"HTTP/1.1 413") and f"{LIMIT:,} bytes".encode() in found


def test_a_body_that_does_not_arrive_ends(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(
            f"POST /predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 10\r\n\r\nab".encode()
        )
        start = time.monotonic()
        assert connection.recv(100).startswith(b"HTTP/1.1 408") and time.monotonic() - start < 5


def test_bodies_that_are_too_much_together_wait_outside(port: int) -> None:
    body = b"slow" + b"x" * (LIMIT - 4)
    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lambda _: predict(port, body), range(6)))
    statuses = [one.status for one in found]
    assert set(statuses) <= {200, 503} and statuses.count(200) >= 2
    assert all(one.headers["retry-after"] == "1" for one in found if one.status == 503)
    assert predict(port, body).status == 200
