"""Batches: the order of an epoch, each rank's slice of a global batch, and reading pixels ahead in a thread.

The order depends on (seed, epoch) only, and `batch_size` is global, so any number of workers uses the same samples in the
same order. The last, short batch of an epoch is used too.
"""
# N rows of a rank's slice, G rows of the global batch, M train rows, L labels, H x W pixels

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from cxr_ray.data.mixup import Pairs

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
T = TypeVar("T")

PREFETCH = 2
"""Number of batches that are read ahead."""


class ImageSource(Protocol):
    """What batches need of a store."""

    @property
    def size(self) -> tuple[int, int]: ...
    def images(self, rows: Ints, out: Bytes | None = None) -> Bytes: ...


class TrainingStore(ImageSource, Protocol):
    """What training needs of a store."""

    @property
    def index(self) -> Any: ...


@dataclass(frozen=True)
class MixedImages:
    """What the images of a rank's slice are mixed with."""

    images: Bytes
    """The partner of each image [N, H, W]."""
    positions: Ints
    """The partner's position in the epoch's order [N]."""
    share: Floats
    """Weight of the image itself [N]; its partner has the rest."""


@dataclass(frozen=True)
class Batch:
    """A rank's slice of one global batch."""

    step: int
    """Number of the global batch in its epoch, from 0."""
    rows: Ints
    """Row numbers of the store [N]. N may be 0 on a rank that gets nothing of the last, short batch."""
    positions: Ints
    """Positions in the epoch's order [N]; augmentation depends on them."""
    images: Bytes
    """Gray values [N, H, W]."""
    truth: Floats
    """Targets [N, L], NaN if unknown; mixed like the images."""
    global_truth: Floats
    """Targets of the global batch [G, L], so that every rank knows the denominator of the loss."""
    mixed: MixedImages | None = None
    """None without mixup."""


def epoch_order(repeats: Ints, *, seed: int, epoch: int) -> Ints:
    """The order of `epoch`: positions into the train rows, each as often as `repeats` [M] says, shuffled by (seed, epoch)."""
    positions = np.repeat(np.arange(len(repeats), dtype=np.int64), repeats)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch]))).permutation(positions)


def rank_slice(count: int, rank: int, world: int) -> slice:
    """The contiguous share of `count` rows that belongs to `rank`, as in `numpy.array_split`."""
    each, extra = divmod(count, world)
    start = rank * each + min(rank, extra)
    return slice(start, start + each + (rank < extra))


@dataclass(frozen=True)
class EpochSamples:
    """The samples of one epoch."""

    rows: Ints
    """Row numbers of the train part [M]."""
    truth: Floats
    """Their targets [M, L]."""
    order: Ints
    """Positions into `rows` in the epoch's order; a position may repeat."""
    pair: Callable[[Ints], Pairs] | None = None
    """Mixup pairs of a global batch, from its positions in the order; None without mixup."""


def train_batches(
    store: ImageSource,
    samples: EpochSamples,
    *,
    batch_size: int,
    rank: int,
    world: int,
    first: int = 0,
    to_memory: Callable[[Bytes], Bytes] = np.asarray,
) -> Iterator[Batch]:
    """This rank's slices of the global batches of one epoch, in order. A thread reads the pixels ahead.

    `first`: number of the first batch. `to_memory` is called in the thread and moves pixels to other memory, such as pinned
    memory."""
    rows, truth, order = samples.rows, samples.truth, samples.order

    def make(start: int) -> Batch:
        batch = order[start : start + batch_size]
        own = rank_slice(len(batch), rank, world)
        own_batch = batch[own]
        positions = np.arange(start, start + len(batch), dtype=np.int64)
        targets, mixed = truth[batch], None
        if samples.pair is not None:
            pairs = samples.pair(positions)
            partner = pairs.other[own]
            targets = pairs.targets(targets)
            mixed = MixedImages(to_memory(store.images(rows[batch[partner]])), start + partner, pairs.share[own])
        images = to_memory(store.images(rows[own_batch]))
        return Batch(start // batch_size, rows[own_batch], positions[own], images, targets[own], targets, mixed)

    return prefetch(make, range(first * batch_size, len(order), batch_size))


def eval_batches(
    store: ImageSource, rows: Ints, *, batch_size: int, to_memory: Callable[[Bytes], Bytes] = np.asarray
) -> Iterator[tuple[slice, Bytes]]:
    """The rows in order, `batch_size` at a time: their slice of `rows`, and their pixels. `to_memory` as in `train_batches`."""

    def make(start: int) -> tuple[slice, Bytes]:
        here = slice(start, min(start + batch_size, len(rows)))
        return here, to_memory(store.images(rows[here]))

    return prefetch(make, range(0, len(rows), batch_size))


def prefetch(make: Callable[[int], T], starts: range) -> Generator[T]:
    """`make(start)` for each start, computed up to `PREFETCH` ahead in one thread. Errors of the thread are raised here.

    Closing the generator ends the thread."""
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=PREFETCH)
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
        except BaseException as error:  # passed to the consumer, whatever it is
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
