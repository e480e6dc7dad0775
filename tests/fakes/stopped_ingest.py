"""An ingest that is stopped, as by a kill, once some shards are written."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cxr_ray.datasets import Records
from cxr_ray.on_ray import ingest


class Stopped(BaseException):
    """Not an `Exception`: nothing may catch it, as nothing catches a kill."""


@contextmanager
def stopped_after(shards: int, records: Records, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within, an ingest of `records` writes so many shards in this process and is stopped."""
    put = [ingest.put_records(records.table)]

    def some(todo, job, table):
        for number, start, stop in todo[:shards]:
            yield ingest._shard(job, put, {"number": number, "start": start, "stop": stop})
        raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(ingest, "_run", some)
        yield
