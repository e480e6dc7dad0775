"""An ingest that stops, as if killed, after some shards are written."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cxr_ray.datasets import Records
from cxr_ray.on_ray import ingest
from cxr_ray.on_ray.ingest_shards import image_paths, ingest_shard


class Stopped(BaseException):
    """Not an `Exception`, so that nothing catches it."""


@contextmanager
def stopped_after(shards: int, records: Records, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within the block, an ingest of `records` writes `shards` shards in this process and stops."""
    paths = image_paths(records.table)

    def run_some(todo, job, table):
        for shard in todo[:shards]:
            yield ingest_shard(job, paths, shard)
        raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(ingest, "run_shards", run_some)
        yield
