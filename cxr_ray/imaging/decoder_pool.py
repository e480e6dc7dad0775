"""Images of many files, decoded by all cores in processes of their own, in order. A file that cannot be used is an answer, no error.

The processes talk through pipes and are driven by threads, so the caller's process keeps its interpreter for other work, and a decoder
that crashes costs one image. How a single file is decoded: isolated.py and decode.py.
"""

import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

from cxr_ray.imaging.files import Root
from cxr_ray.imaging.isolated import DecoderCrash, IsolatedDecoder, decode_with_care
from cxr_ray.imaging.pixels import DecodedImage, ImageError
from cxr_ray.runtime.machine import memory_bytes
from cxr_ray.storage.remote import MAX_REQUESTS, map_threaded

CHUNK = 16
"""Files that a process gets at once, at most: it must not wait for its caller after each."""
AHEAD = 2
"""Chunks per process, or files of a remote root per request, that may be decoded before their turn: a large image must not let the others
wait."""
FREE_SHARE = 0.8
"""Share of the free memory that an image may take which is decoded alone, after its process was killed among others."""


class DecoderPool:
    """`processes` that decode. Use it as a context manager, which ends them. `options`: size, aspect, depth and so on, as parameters
    of `decode.decode`."""

    def __init__(self, processes: int, options: dict[str, Any]) -> None:
        self._options = options
        self._decoders = [IsolatedDecoder() for _ in range(processes)]
        self._idle: queue.SimpleQueue[IsolatedDecoder] = queue.SimpleQueue()
        for decoder in self._decoders:
            self._idle.put(decoder)
        self._one_alone = threading.Lock()

    def __enter__(self) -> "DecoderPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for decoder in self._decoders:
            decoder.__exit__(kind, error, trace)

    def start(self) -> None:
        """Start the processes now, so that the first images are not slower than the others."""
        for decoder in self._decoders:
            decoder.start()

    def decode_each(self, root: Root, names: Sequence[str]) -> Generator[DecodedImage | ImageError, None, None]:
        """The image in each file `names` below `root` in order, or why it cannot be used. Raises `UserError` if the server of a
        remote root does not answer."""
        processes = len(self._decoders)
        if root.is_remote:
            threads = max(MAX_REQUESTS, processes)
            yield from map_threaded(lambda name: self._decode(root, name), names, threads=threads, ahead=AHEAD)
            return
        size = max(1, min(CHUNK, len(names) // (2 * processes)))
        chunks = [names[at : at + size] for at in range(0, len(names), size)]
        for images in map_threaded(
            lambda chunk: self._decode_chunk(root, chunk), chunks, threads=processes, ahead=AHEAD
        ):
            yield from images

    def _decode_chunk(self, root: Root, names: Sequence[str]) -> list[DecodedImage | ImageError]:
        images: list[DecodedImage | ImageError] = []
        while len(images) < len(names):
            with self._decoder() as decoder, suppress(DecoderCrash):
                for image in decoder.decode_files(str(root), names[len(images) :], **self._options):
                    images.append(image)  # noqa: PERF402 - those before a crash are kept
            if len(images) < len(names):  # this one ended the process
                images.append(self._decode(root, names[len(images)]))
        return images

    def _decode(self, root: Root, name: str) -> DecodedImage | ImageError:
        try:
            data = root.read(name)
            try:
                with self._decoder() as decoder:
                    return decode_with_care(decoder, data, self._options, is_alone=False)
            except DecoderCrash:  # killed, perhaps because others took the memory
                with self._alone() as decoder:
                    return decode_with_care(decoder, data, self._options, is_alone=True)
        except ImageError as error:
            return error

    @contextmanager
    def _decoder(self) -> Iterator[IsolatedDecoder]:
        decoder = self._idle.get()
        try:
            yield decoder
        finally:
            self._idle.put(decoder)

    @contextmanager
    def _alone(self) -> Iterator[IsolatedDecoder]:
        """A decoder with a limit of memory, while all others are idle."""
        with self._one_alone:
            waiting = [self._idle.get() for _ in self._decoders]
            try:
                total, free = memory_bytes()
                with IsolatedDecoder(memory=int(FREE_SHARE * free) if total else None) as decoder:
                    yield decoder
            finally:
                for each in waiting:
                    self._idle.put(each)
