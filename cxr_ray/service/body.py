"""Reads the body of a request within limits: of its size, of all bodies at once, and of time. No body over a limit is kept."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.requests import Request

MIB = 2**20
DRAINED = 1024 * MIB
"""Bytes of a body over the limit that are read and dropped, so that the caller gets the answer and no broken connection."""
DRAIN_S = 30.0


@dataclass(frozen=True)
class Limits:
    """What a caller may send."""

    body: int = 64 * MIB
    """Bytes of a body."""
    bodies: int = 512 * MIB
    """Bytes of all bodies that are held at once."""
    read_s: float = 60.0
    """Time for a body to arrive."""


class Refusal(Exception):
    """A request that gets no prediction: the status of the answer and the reason in it."""

    def __init__(self, status: int, reason: str, *, retry_s: int | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.retry_s = status, reason, retry_s


class Bodies:
    """Reads bodies, and counts what is held of them."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._size = limits, 0

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """The complete body within the block. Raises `Refusal`: 400 empty, 408 too slow, 413 too large, 503 too much at once."""
        chunks: list[bytes] = []
        size, more = 0, True
        try:
            self._check(self._declared(request))
            deadline = time.monotonic() + self._limits.read_s
            while more:
                try:
                    message = await asyncio.wait_for(request.receive(), max(0.0, deadline - time.monotonic()))
                except TimeoutError:
                    raise Refusal(408, f"the body did not arrive within {self._limits.read_s:g} s") from None
                if message["type"] == "http.disconnect":
                    raise Refusal(400, "the connection was closed before the body was complete")
                chunk, more = message.get("body", b""), message.get("more_body", False)
                self._check(size + len(chunk), more=len(chunk))
                chunks.append(chunk)
                size += len(chunk)
                self._size += len(chunk)
            if not size:
                raise Refusal(400, "the body is empty: send the bytes of a PNG, JPEG or DICOM file as the body")
            yield b"".join(chunks)
        except Refusal as refusal:
            if refusal.status in (413, 503) and more:  # after the end, more would be waited for in vain
                chunks.clear()
                begun = size > 0
                self._size -= size
                size = 0
                await self._drain(request, begun=begun)
            raise
        finally:
            self._size -= size

    def _declared(self, request: Request) -> int:
        """The length in the header, 0 without one."""
        length = request.headers.get("content-length", "0")
        return int(length) if length.isascii() and length.isdigit() else 0

    def _check(self, size: int, *, more: int | None = None) -> None:
        """Refuse a body of `size` bytes, of which `more` are new (None: all)."""
        if size > self._limits.body:
            raise Refusal(413, f"the body is larger than {self._limits.body:,} bytes")
        if self._size + (size if more is None else more) > self._limits.bodies:
            raise Refusal(503, "too many bodies at once: send the request again later", retry_s=1)

    async def _drain(self, request: Request, *, begun: bool) -> None:
        """Read and drop the rest of a body, unless the caller waits for permission to send it, which it has once it has `begun`."""
        if not begun and request.headers.get("expect", "").lower() == "100-continue":
            return
        left = DRAINED
        deadline = time.monotonic() + DRAIN_S
        while left > 0:
            try:
                message = await asyncio.wait_for(request.receive(), max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                return
            if message["type"] != "http.request" or not message.get("more_body"):
                return
            left -= len(message.get("body", b""))
