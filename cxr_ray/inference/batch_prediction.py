"""Predictions of a list of inputs, a batch at a time: rows of a store read ahead, or files decoded on all cores while the model runs.

An input that cannot be used is refused with a reason, and the rest of its batch is predicted. Which inputs are predicted, and where
the results go, is decided in prediction_parts.py.
"""
# n inputs of a batch, m of them usable, H x W pixels, L labels

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cxr_ray.data.loader import prefetch
from cxr_ray.data.store import Store
from cxr_ray.data.store_format import ImageFormat
from cxr_ray.imaging.decoder_pool import DecoderPool
from cxr_ray.imaging.files import Root
from cxr_ray.imaging.pixels import SCALE_8_TO_16, DecodedImage, ImageError
from cxr_ray.inference.predictor import Predictor

Ints = npt.NDArray[np.int64]
TRIAL_BATCHES = 4
"""Batches that decide how many threads a model gets next to decoders."""


@dataclass(frozen=True, eq=False)
class DecodedBatch:
    """The images of n inputs."""

    positions: Ints
    """[n] places in the list of inputs."""
    grays: npt.NDArray[Any]
    """[m, H, W] gray values 0 to 255, of those that can be used, in order."""
    refused: tuple[str | None, ...]
    """[n] why an input cannot be used; None for those that can."""
    aspects: npt.NDArray[np.float64]
    """[m] height / width of the original images."""


@dataclass(frozen=True, eq=False)
class PredictedBatch:
    """The results of n inputs."""

    positions: Ints
    """[n] places in the list of inputs."""
    probabilities: npt.NDArray[np.float32]
    """[n, L], NaN where refused."""
    refused: tuple[str | None, ...]
    """[n] as in `DecodedBatch`."""
    scores: npt.NDArray[np.float32]
    """[n] of the run's check for unusual images: above 1 an image is unusual. NaN without a check, and where refused."""


def predict(predictor: Predictor, batch: DecodedBatch) -> PredictedBatch:
    """The results of a batch."""
    prob_NL = np.full((len(batch.positions), len(predictor.labels)), np.nan, np.float32)
    score_N = np.full(len(batch.positions), np.nan, np.float32)
    if len(batch.grays):
        usable = np.array([reason is None for reason in batch.refused])
        prob_NL[usable], score_N[usable] = predictor.checked(batch.grays, aspect_N=batch.aspects)
    return PredictedBatch(batch.positions, prob_NL, batch.refused, score_N)


def predict_among_decoders(
    predictor: Predictor, batches: Iterator[DecodedBatch]
) -> Generator[PredictedBatch, None, None]:
    """The results of batches that other processes decode on the same cores.

    A model that is faster than the decoders runs on one thread: several of them would wait for each other by spinning, on cores that the
    decoders need. One that is slower gets all threads, once the first batches have shown it; its results do not depend on that."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        waited = computed = 0.0
        for number in count():
            start = time.perf_counter()
            decoded = next(batches, None)
            ready = time.perf_counter()
            if decoded is None:
                return
            result = predict(predictor, decoded)
            if 0 < number <= TRIAL_BATCHES:  # the first batch waits for all processes to start
                waited, computed = waited + ready - start, computed + time.perf_counter() - ready
            if number == TRIAL_BATCHES and computed > waited:
                torch.set_num_threads(threads)
            yield result
    finally:
        torch.set_num_threads(threads)


def slices(positions: Ints, batch_size: int) -> list[Ints]:
    """`positions` in batches."""
    return [positions[at : at + batch_size] for at in range(0, len(positions), batch_size)]


def read_rows(store: Store, rows: Ints, batches: Sequence[Ints]) -> Iterator[DecodedBatch]:
    """The images of these places in the list `rows` of a store's rows, read ahead in a thread."""
    size_of = store.index.set_index("row")[["height", "width"]] if "height" in store.index else None

    def make(number: int) -> DecodedBatch:
        positions = batches[number]
        here = rows[positions]
        sizes = np.full((len(here), 2), np.nan) if size_of is None else size_of.loc[here].to_numpy(np.float64)
        return DecodedBatch(positions, store.images(here), (None,) * len(here), sizes[:, 0] / sizes[:, 1])

    return prefetch(make, range(len(batches)))


def read_files(
    pool: DecoderPool, root: Root, names: Sequence[str], batches: Sequence[Ints], image_format: ImageFormat
) -> Generator[DecodedBatch, None, None]:
    """The images of these places in the list `names` of files below `root`, decoded ahead by `pool`.

    Raises `UserError` if the server of a remote root does not answer."""
    wanted = [names[at] for batch in batches for at in batch.tolist()]
    with closing(pool.decode_each(root, wanted)) as images:

        def make(number: int) -> DecodedBatch:
            positions = batches[number]
            return collect(positions, list(islice(images, len(positions))), image_format)

        # A thread of its own takes decoded images from the pool, so that the decoders go on while the model computes.
        yield from prefetch(make, range(len(batches)))


def collect(positions: Ints, images: Sequence[DecodedImage | ImageError], image_format: ImageFormat) -> DecodedBatch:
    """Decoded images, or why they cannot be used, as a batch."""
    used = [image for image in images if not isinstance(image, ImageError)]
    deep = image_format.depth == 16
    grays = np.empty((len(used), *image_format.size), np.float32 if deep else np.uint8)
    for target, image in zip(grays, used, strict=True):
        target[...] = image.pixels
    if deep:
        grays /= SCALE_8_TO_16
    return DecodedBatch(
        positions,
        grays,
        tuple(image.reason if isinstance(image, ImageError) else None for image in images),
        np.array([image.height / image.width for image in used], np.float64),
    )
