"""The order of an epoch, a rank's slice of each batch, gathering the pixels ahead of their use.

The order depends on (seed, epoch) alone and `batch_size` is global, so any number of workers sees the same samples in
the same order. The last short batch of an epoch is kept.
"""
# N rows of a rank's slice, G rows of the global batch, L labels, H, W pixels

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from cxr_ray.data.mixup import Pairs

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
T = TypeVar("T")

DEPTH = 2
"""Batches that are gathered before they are asked for."""


class Images(Protocol):
    """What batches need of a store."""

    @property
    def size(self) -> tuple[int, int]: ...
    def images(self, rows: Ints, out: Bytes | None = None) -> Bytes: ...


class Data(Images, Protocol):
    """What a training needs of a store."""

    @property
    def index(self) -> Any: ...


@dataclass(frozen=True)
class Mixed:
    """What the images of a rank's slice are mixed with."""

    images: Bytes
    """The other image of each [N, H, W]."""
    positions: Ints
    """Its place in the epoch's order [N]."""
    share: Floats
    """What each image keeps of itself [N]."""


@dataclass(frozen=True)
class Batch:
    """A rank's slice of one global batch."""

    step: int
    """Number of the global batch in its epoch, from 0."""
    rows: Ints
    """Store rows [N]; N may be 0 on a rank that the last short batch does not reach."""
    positions: Ints
    """Places in the epoch's order [N]: what augmentation is keyed by."""
    images: Bytes
    """Gray values [N, H, W]."""
    truth: Floats
    """Targets [N, L], NaN where unknown; mixed where the images are."""
    global_truth: Floats
    """Targets of the whole global batch [G, L]: every rank knows the denominator of the loss."""
    mixed: Mixed | None = None
    """None without mixup."""


def epoch_order(repeats: Ints, *, seed: int, epoch: int) -> Ints:
    """Positions into the train rows in the order of `epoch` [sum of drawn], keyed by (seed, epoch) alone."""
    every = np.repeat(np.arange(len(repeats), dtype=np.int64), repeats)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch]))).permutation(every)


def rank_slice(count: int, rank: int, world: int) -> slice:
    """The contiguous share of `count` rows that belongs to `rank`, as `numpy.array_split` cuts them."""
    each, extra = divmod(count, world)
    start = rank * each + min(rank, extra)
    return slice(start, start + each + (rank < extra))


@dataclass(frozen=True)
class Samples:
    """What one epoch is trained on."""

    rows: Ints
    """Store rows [M] of the train part."""
    truth: Floats
    """Their targets [M, L]."""
    order: Ints
    """The epoch's positions into them; a position may repeat."""
    pair: Callable[[Ints], Pairs] | None = None
    """Of a global batch, by its places in the order: which image is mixed with which; None without mixup."""


def train_batches(
    store: Images,
    samples: Samples,
    *,
    batch_size: int,
    rank: int,
    world: int,
    first: int = 0,
    hold: Callable[[Bytes], Bytes] = np.asarray,
) -> Iterator[Batch]:
    """This rank's slices of the global batches of one epoch, in order; pixels are gathered in a thread ahead of their use.

    `first` is the batch to start with. `hold` is called in the thread, for pixels that are to lie in other memory."""
    rows, truth, order = samples.rows, samples.truth, samples.order

    def cut(start: int) -> Batch:
        chosen = order[start : start + batch_size]
        mine = rank_slice(len(chosen), rank, world)
        picked = chosen[mine]
        positions = np.arange(start, start + len(chosen), dtype=np.int64)
        targets, mixed = truth[chosen], None
        if samples.pair is not None:
            pairs = samples.pair(positions)
            other = pairs.other[mine]
            targets, mixed = (
                pairs.targets(targets),
                Mixed(hold(store.images(rows[chosen[other]])), start + other, pairs.share[mine]),
            )
        images = hold(store.images(rows[picked]))
        return Batch(start // batch_size, rows[picked], positions[mine], images, targets[mine], targets, mixed)

    return ahead(cut, range(first * batch_size, len(order), batch_size))


def eval_batches(
    store: Images, rows: Ints, *, batch_size: int, hold: Callable[[Bytes], Bytes] = np.asarray
) -> Iterator[tuple[slice, Bytes]]:
    """The rows in order, `batch_size` at a time: where they stand in `rows`, and their pixels."""

    def cut(start: int) -> tuple[slice, Bytes]:
        return slice(start, min(start + batch_size, len(rows))), hold(store.images(rows[start : start + batch_size]))

    return ahead(cut, range(0, len(rows), batch_size))


def ahead(make: Callable[[int], T], starts: range) -> Iterator[T]:
    """`make(start)` for each start, made up to `DEPTH` ahead in one thread; what the thread raises is raised here.

    Closing the iterator ends the thread."""
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=DEPTH)
    stopped = threading.Event()

    def put(item: tuple[T | None, BaseException | None]) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for start in starts:
                if not put((make(start), None)):
                    return
        except BaseException as error:  # handed to the consumer, whatever it is
            put((None, error))

    thread = threading.Thread(target=work, name="cxr-gather", daemon=True)
    thread.start()
    try:
        for _ in starts:
            item, error = ready.get()
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()
