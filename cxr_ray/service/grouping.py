"""Bodies that arrive while calls to the replicas are under way go together in the next call: a call of Ray costs as much as a decode."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from cxr_ray.service.body import Refusal

FULL = "too many requests at once: send the request again later"
Answers = Sequence[Mapping[str, Any]]
Waiting = tuple[bytes, "asyncio.Future[Mapping[str, Any]]"]


class Grouped:
    """`call` for one body at a time. At most `calls` calls with at most `most` bodies each are under way; a free one starts at once.

    An exception of a call is that of each of its bodies. More than `waiting` bodies that wait are refused with 503."""

    def __init__(
        self, call: Callable[[list[bytes]], Awaitable[Answers]], *, most: int, calls: int, waiting: int
    ) -> None:
        self._call, self._most, self._free, self._longest = call, most, calls, waiting
        self._waiting: deque[Waiting] = deque()
        self._running: set[asyncio.Task[None]] = set()

    async def __call__(self, body: bytes) -> Mapping[str, Any]:
        if len(self._waiting) >= self._longest:
            raise Refusal(503, FULL, retry_s=1)
        future: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append((body, future))
        self._start()
        return await future

    def _start(self) -> None:
        """Start a call with what waits, if one is free."""
        while self._free and self._waiting:
            group = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
            group = [one for one in group if not one[1].done()]  # nobody waits for one that was cancelled
            if group:
                self._free -= 1
                task = asyncio.create_task(self._answer(group))
                self._running.add(task)
                task.add_done_callback(self._running.discard)

    async def _answer(self, group: list[Waiting]) -> None:
        try:
            answers = await self._call([body for body, _ in group])
        except Exception as error:
            for _, future in group:
                if not future.done():
                    future.set_exception(error)
        else:
            for (_, future), answer in zip(group, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
        finally:
            self._free += 1
            self._start()
