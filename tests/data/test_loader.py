"""The order of an epoch, a rank's slice, and the thread that reads ahead."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ray.data import loader
from tests.fakes.store import fake_store


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(0, 3), st.integers(1, 3))
def test_an_epoch_uses_each_row_as_often_as_planned(repeats, seed, epoch):
    order = loader.epoch_order(np.array(repeats), seed=seed, epoch=epoch)
    assert np.bincount(order, minlength=len(repeats)).tolist() == repeats
    assert np.array_equal(order, loader.epoch_order(np.array(repeats), seed=seed, epoch=epoch))


def test_the_order_depends_on_seed_and_epoch():
    ones = np.ones(200, dtype=np.int64)
    orders = [tuple(loader.epoch_order(ones, seed=s, epoch=e)) for s in (0, 1) for e in (1, 2)]
    assert len(set(orders)) == 4


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 4))
def test_the_slices_of_the_ranks_make_up_every_batch_in_order(count, batch_size, world):
    store = fake_store(count, size=(4, 4))
    rows, truth = store.index["row"].to_numpy(), store.index[list(store.labels)].to_numpy(np.float32)
    order = loader.epoch_order(np.ones(count, dtype=np.int64), seed=0, epoch=1)
    ranks = [
        list(
            loader.train_batches(
                store, loader.EpochSamples(rows, truth, order), batch_size=batch_size, rank=r, world=world
            )
        )
        for r in range(world)
    ]
    for step, parts in enumerate(zip(*ranks, strict=True)):
        batch = order[step * batch_size : (step + 1) * batch_size]
        assert np.concatenate([p.rows for p in parts]).tolist() == rows[batch].tolist()
        assert np.concatenate([p.positions for p in parts]).tolist() == list(
            range(step * batch_size, step * batch_size + len(batch))
        )
        for p in parts:
            np.testing.assert_array_equal(p.global_truth, truth[batch])
            np.testing.assert_array_equal(p.images, store.images(p.rows))
    assert sum(len(p.rows) for part in ranks for p in part) == count  # the last, short batch is used


def test_an_epoch_can_start_at_a_later_batch_and_its_images_go_to_other_memory():
    store = fake_store(11, size=(4, 4))
    rows, truth = store.index["row"].to_numpy(), store.index[list(store.labels)].to_numpy(np.float32)
    samples = loader.EpochSamples(rows, truth, np.arange(11)[::-1].copy())
    every = list(loader.train_batches(store, samples, batch_size=4, rank=0, world=1))
    late = list(
        loader.train_batches(
            store, samples, batch_size=4, rank=0, world=1, first=2, to_memory=lambda images: 255 - images
        )
    )
    assert [batch.step for batch in every] == [0, 1, 2] and [batch.step for batch in late] == [2]
    assert late[0].rows.tolist() == every[2].rows.tolist() and late[0].positions.tolist() == [8, 9, 10]
    np.testing.assert_array_equal(late[0].images, 255 - every[2].images)


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (3, [3]), (8, [4, 4]), (9, [4, 4, 1])])
def test_evaluation_reads_the_rows_in_order_in_batches_of_the_given_size(count, sizes):
    store = fake_store(12, size=(4, 4))
    rows = store.index["row"].to_numpy()[::-1][:count].copy()
    batches = list(loader.eval_batches(store, rows, batch_size=4, to_memory=lambda images: 255 - images))
    assert [len(images) for _, images in batches] == sizes
    assert [(here.start, here.stop) for here, _ in batches] == [
        (4 * step, 4 * step + size) for step, size in enumerate(sizes)
    ]
    for here, images in batches:
        np.testing.assert_array_equal(images, 255 - store.images(rows[here]))


def test_at_most_three_batches_are_read_before_the_first_is_used():
    """Two wait in the queue, and the thread has the third."""
    made: list[int] = []
    enough = threading.Event()

    def make(start):
        made.append(start)
        if len(made) == 4:
            enough.set()
        return start

    stream = loader.prefetch(make, range(100))
    assert next(stream) == 0  # the first is used: now three more
    assert enough.wait(10)
    assert not threading.Event().wait(0.3) and made == [0, 1, 2, 3]
    stream.close()
    assert len(made) <= 5  # and none of the others afterwards


def test_a_rank_slice_is_that_of_array_split_and_may_be_empty():
    assert [loader.rank_slice(1, r, 2) for r in (0, 1)] == [slice(0, 1), slice(1, 1)]
    for count in range(9):
        for world in (1, 2, 3, 4):
            expected = np.array_split(np.arange(count), world)
            assert [list(range(count))[loader.rank_slice(count, r, world)] for r in range(world)] == [
                part.tolist() for part in expected
            ]


def test_an_error_of_the_thread_is_raised_here_and_the_thread_ends():
    def make(start):
        if start == 3:
            raise OSError("the disk is gone")
        return start

    seen: list[int] = []
    with pytest.raises(OSError, match="the disk is gone"):
        seen.extend(loader.prefetch(make, range(6)))
    assert seen == [0, 1, 2]
    _no_thread_is_left()


def test_closing_the_iterator_ends_the_thread():
    stream = loader.prefetch(lambda start: start, range(1000))
    assert next(stream) == 0
    stream.close()
    _no_thread_is_left()


def _no_thread_is_left():
    assert not [t for t in threading.enumerate() if t.name == "cxr-gather"]
