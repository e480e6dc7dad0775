"""The answer of a service for one file: decoded as the run's store was, predicted in batches, decided as the run decides."""
# N images, H x W pixels, L labels

import queue
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_ray.data.store_format import ImageFormat
from cxr_ray.imaging.isolated import DecoderCrash, IsolatedDecoder
from cxr_ray.imaging.pixels import SCALE_8_TO_16, ImageError
from cxr_ray.inference.decisions import Decisions
from cxr_ray.inference.predictor import Predictor

CRASHED = "its decoder crashed"
NO_MEMORY = "too little memory to decode it"


class Decoders:
    """Processes that decode, each one image at a time: a file that crashes a decoder costs its own answer. Threads share them.

    `memory`: bytes that a decode may allocate. Use it as a context manager, which ends them."""

    def __init__(self, count: int, image_format: ImageFormat, *, memory: int) -> None:
        self._format = image_format
        self._all = [IsolatedDecoder(memory) for _ in range(count)]
        self._idle: queue.SimpleQueue[IsolatedDecoder] = queue.SimpleQueue()
        for decoder in self._all:
            self._idle.put(decoder)

    def __enter__(self) -> "Decoders":
        for decoder in self._all:
            decoder.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for decoder in self._all:
            decoder.__exit__(kind, error, trace)

    def decode(self, body: bytes) -> tuple[npt.NDArray[Any], float]:
        """Gray values 0 to 255 [H, W] of the bytes of a file, uint8 or float32, and height / width of the original.

        Waits for an idle process. Raises `ImageError`."""
        wanted, decoder = self._format, self._idle.get()
        try:
            image = decoder.decode(
                body, wanted.size, aspect=wanted.aspect, depth=wanted.depth, exact_jpeg=wanted.exact_jpeg
            )
        except DecoderCrash as crash:
            raise ImageError(CRASHED if crash.own_fault else NO_MEMORY) from None
        finally:
            self._idle.put(decoder)
        grays = image.pixels if wanted.depth == 8 else (image.pixels / SCALE_8_TO_16).astype(np.float32)
        return grays, image.height / image.width


def answers(
    predictor: Predictor, decisions: Decisions, images: Sequence[tuple[npt.NDArray[Any], float]]
) -> list[dict[str, Any]]:
    """The answers for decoded images, as plain JSON: `probabilities`, `calibrated`, `decisions`, `unusual`, `unusual_score`.

    What a run does not have is null: a calibrator, a check for unusual images."""
    aspect_N = np.array([aspect for _, aspect in images])
    prob_NL, score_N = predictor.checked(np.stack([grays for grays, _ in images]), aspect_N=aspect_N)
    positive_NL, calibrated_NL = decisions.decide(prob_NL), decisions.calibrated(prob_NL)
    labels = decisions.labels

    def by_label(values: Any) -> dict[str, Any]:
        return dict(zip(labels, values.tolist(), strict=True))

    return [
        {
            "probabilities": by_label(prob_NL[i]),
            "calibrated": None if calibrated_NL is None else by_label(calibrated_NL[i]),
            "decisions": by_label(positive_NL[i]),
            "unusual": None if np.isnan(score) else bool(score > 1.0),
            "unusual_score": None if np.isnan(score) else float(score),
        }
        for i, score in enumerate(score_N)
    ]
