"""Bodies in groups: each gets its own answer, no more calls than allowed, and the error of its call."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from cxr_ray.service.body import Refusal
from cxr_ray.service.grouping import Grouped


class Calls:
    """Counts the calls and their bodies."""

    def __init__(self) -> None:
        self.groups: list[int] = []
        self.now = self.most = 0

    async def __call__(self, bodies: list[bytes]) -> list[Mapping[str, Any]]:
        self.groups.append(len(bodies))
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.01)
        self.now -= 1
        if b"fail" in bodies:
            raise ValueError("failed")
        return [{"body": body} for body in bodies]


def test_each_body_gets_its_answer() -> None:
    calls = Calls()

    async def main() -> list[Mapping[str, Any]]:
        grouped = Grouped(calls, most=4, calls=2, waiting=100)
        return list(await asyncio.gather(*(grouped(str(n).encode()) for n in range(21))))

    assert asyncio.run(main()) == [{"body": str(n).encode()} for n in range(21)]
    assert calls.most == 2 and max(calls.groups) == 4 and sum(calls.groups) == 21
    assert calls.groups[:2] == [1, 1]  # a free call does not wait for company


def test_an_error_is_that_of_its_call_only() -> None:
    calls = Calls()

    async def main() -> list[Any]:
        grouped = Grouped(calls, most=2, calls=1, waiting=100)
        bodies = [b"a", b"fail", b"b", b"c", b"d"]
        return list(await asyncio.gather(*map(grouped, bodies), return_exceptions=True))

    found = asyncio.run(main())
    assert [isinstance(one, ValueError) for one in found] == [False, True, True, False, False]


def test_too_many_that_wait_are_refused_and_a_cancelled_one_is_dropped() -> None:
    calls = Calls()

    async def main() -> None:
        grouped = Grouped(calls, most=2, calls=1, waiting=2)
        first, second, third = (asyncio.create_task(grouped(body)) for body in (b"1", b"2", b"3"))
        await asyncio.sleep(0)
        with pytest.raises(Refusal) as refused:
            await grouped(b"4")
        assert refused.value.status == 503
        second.cancel()
        assert [await first, await third] == [{"body": b"1"}, {"body": b"3"}]
        assert await grouped(b"5") == {"body": b"5"}

    asyncio.run(main())
    assert calls.groups == [1, 1, 1]
