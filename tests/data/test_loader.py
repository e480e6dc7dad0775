"""The order of an epoch, a rank's slice, and the thread that gathers ahead."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ray.data import loader
from tests.fakes.store import fake_store


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(0, 3), st.integers(1, 3))
def test_an_epoch_draws_each_row_as_often_as_planned(repeats, seed, epoch):
    order = loader.epoch_order(np.array(repeats), seed=seed, epoch=epoch)
    assert np.bincount(order, minlength=len(repeats)).tolist() == repeats
    assert np.array_equal(order, loader.epoch_order(np.array(repeats), seed=seed, epoch=epoch))


def test_the_order_is_keyed_by_seed_and_epoch():
    ones = np.ones(200, dtype=np.int64)
    orders = [tuple(loader.epoch_order(ones, seed=s, epoch=e)) for s in (0, 1) for e in (1, 2)]
    assert len(set(orders)) == 4


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 4))
def test_ranks_share_every_batch_in_order(count, batch_size, world):
    store = fake_store(count, size=(4, 4))
    rows, truth = store.index["row"].to_numpy(), store.index[list(store.labels)].to_numpy(np.float32)
    order = loader.epoch_order(np.ones(count, dtype=np.int64), seed=0, epoch=1)
    ranks = [
        list(
            loader.train_batches(store, loader.Samples(rows, truth, order), batch_size=batch_size, rank=r, world=world)
        )
        for r in range(world)
    ]
    for step, parts in enumerate(zip(*ranks, strict=True)):
        whole = order[step * batch_size : (step + 1) * batch_size]
        assert np.concatenate([p.rows for p in parts]).tolist() == rows[whole].tolist()
        assert np.concatenate([p.positions for p in parts]).tolist() == list(
            range(step * batch_size, step * batch_size + len(whole))
        )
        for p in parts:
            np.testing.assert_array_equal(p.global_truth, truth[whole])
            np.testing.assert_array_equal(p.images, store.images(p.rows))
    assert sum(len(p.rows) for part in ranks for p in part) == count  # the last short batch is kept


def test_what_the_thread_raises_is_raised_here_and_the_thread_ends():
    def make(start):
        if start == 3:
            raise OSError("the disk is gone")
        return start

    seen: list[int] = []
    with pytest.raises(OSError, match="the disk is gone"):
        seen.extend(loader.ahead(make, range(6)))
    assert seen == [0, 1, 2]
    _no_gathering_thread()


def test_a_consumer_that_leaves_early_ends_the_thread():
    stream = loader.ahead(lambda start: start, range(1000))
    assert next(stream) == 0
    stream.close()
    _no_gathering_thread()


def _no_gathering_thread():
    assert not [t for t in threading.enumerate() if t.name == "cxr-gather"]
