"""Decoding in a process of its own. A decoder that crashes (`abort`, a segmentation fault) or takes all memory ends that process, and
its caller goes on. Used where a crash was seen, or would end a command; the plain `decode` needs no second process.

The two talk through pipes: a line of JSON, then bytes. Nothing is pickled.
"""
# H, W height and width of the stored image

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import IO, Any

import numpy as np

from cxr_ray.imaging.decode import decode
from cxr_ray.imaging.files import Root
from cxr_ray.imaging.pixels import DecodedImage, ImageError, Transform

CODE = "from cxr_ray.imaging.isolated import serve; serve()"
"""What the process runs."""


OWN_SIGNALS = (
    signal.SIGABRT,
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGTRAP,
    signal.SIGSYS,
)
"""Signals that a process gets by its own fault. The kernel sends SIGKILL when memory is short."""


CRASHES = 2
"""An image is rejected when its decoder has crashed this often, one time after the other."""


class DecoderCrash(Exception):
    """The process of the decoder has died. `own_fault`: by a signal of its own, neither killed from outside nor out of memory."""

    def __init__(self, own_fault: bool) -> None:
        super().__init__("the decoder crashed" if own_fault else "too little memory to decode it")
        self.own_fault = own_fault


class IsolatedDecoder:
    """A process that decodes one image after the other. It is started by the first image, and again by the one after a crash. Use it
    as a context manager, which ends it.

    `memory`: bytes that a decode may allocate; None: no limit."""

    def __init__(self, memory: int | None = None) -> None:
        self._memory = memory
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "IsolatedDecoder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._end()

    def start(self) -> None:
        """Start the process now, so that the first image is not slower than the others."""
        if self._process is None:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            self._process = subprocess.Popen(
                [sys.executable, "-c", CODE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # a C++ library writes there before it aborts
                env=environment,
            )
            self._send({"memory": self._memory}, b"")
            self._receive()

    def decode(self, data: bytes, size: tuple[int, int], **options: Any) -> DecodedImage:
        """The image as `decode.decode` gives it. `options` are its other parameters.

        Raises `ImageError` as it does, and `DecoderCrash` if the process died."""
        self.start()
        self._send({"size": size, **options}, data)
        return _image(*self._receive())

    def decode_files(
        self, root: str, names: Sequence[str], size: tuple[int, int], **options: Any
    ) -> Iterator[DecodedImage | ImageError]:
        """The image in each file `names` below the local folder `root`, in order, or why it cannot be used. The process reads the files
        itself, one after the other, and waits for nobody.

        Raises `DecoderCrash` at the turn of the file with which the process died."""
        self.start()
        self._send({"root": root, "names": names, "size": size, **options}, b"")
        for _ in names:
            try:
                yield _image(*self._receive())
            except ImageError as error:
                yield error

    def _send(self, header: dict[str, Any], body: bytes) -> None:
        assert self._process is not None and self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `_receive` says why
            _write(self._process.stdin, header, body)

    def _receive(self) -> tuple[dict[str, Any], bytes]:
        """The answer to the last `_send`. Raises `DecoderCrash`."""
        assert self._process is not None and self._process.stdout is not None
        answer = _read(self._process.stdout)
        if answer is None:
            raise DecoderCrash(own_fault=-self._end() in OWN_SIGNALS)
        if "no_memory" in answer[0]:
            self._process.kill()
            self._end()
            raise DecoderCrash(own_fault=False)
        return answer

    def _end(self) -> int:
        """Wait for the end of the process. Returns its exit code, negative for a signal."""
        process, self._process = self._process, None
        assert process is not None and process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()
        return process.wait()


def _image(answer: dict[str, Any], body: bytes) -> DecodedImage:
    """The image of an answer. Raises `ImageError`."""
    if "rejected" in answer:
        raise ImageError(answer["rejected"])
    pixels = np.frombuffer(body, answer.pop("dtype")).reshape(answer.pop("shape"))
    window = answer.pop("window")
    return DecodedImage(
        pixels, transform=Transform(*answer.pop("transform")), window=window and tuple(window), **answer
    )


def decode_with_care(decoder: IsolatedDecoder, data: bytes, options: dict[str, Any], *, is_alone: bool) -> DecodedImage:
    """An image whose decoder crashes each time is not used. `options`: parameters of `decode.decode`. `is_alone`: no other image is
    in work, so that none can be why this one is killed.

    Raises `ImageError` as `decode.decode` does and for such an image, and `DecoderCrash` if another process may be why."""
    reason = ""
    for _ in range(CRASHES):
        try:
            return decoder.decode(data, **options)
        except DecoderCrash as crash:
            if not (crash.own_fault or is_alone):
                raise
            reason = str(crash)
    raise ImageError(reason)


# ---- the other side


def serve() -> None:
    """The process: answers requests until its input ends, which also happens when the process that started it dies."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not write into an answer
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while (request := _read(requests)) is not None:
        options, data = request
        if "memory" in options:
            if options["memory"] is not None:
                _limit_memory(options["memory"])
            _write(answers, {}, b"")
            continue
        size = tuple(options.pop("size"))
        if "names" in options:
            root, names = Root(options.pop("root")), options.pop("names")
            for name in names:
                _answer(answers, partial(root.read, name), size, options)
        else:
            _answer(answers, partial(bytes, data), size, options)


def _answer(answers: IO[bytes], read: Callable[[], bytes], size: tuple[int, int], options: dict[str, Any]) -> None:
    """Write the image in the bytes that `read` gives, or why there is none."""
    try:
        image = decode(read(), size, **options)
    except ImageError as error:
        _write(answers, {"rejected": error.reason}, b"")
    except MemoryError:
        _write(answers, {"no_memory": True}, b"")
    else:
        fields = {name: value for name, value in vars(image).items() if name != "pixels"}
        shape = {"shape": image.pixels.shape, "dtype": image.pixels.dtype.str}
        _write(answers, fields | shape, np.ascontiguousarray(image.pixels).tobytes())


def _limit_memory(most: int) -> None:
    """Let this process allocate at most `most` bytes more than now."""
    with open("/proc/self/statm") as file:  # noqa: PTH123
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + most, now + most))


def _write(pipe: IO[bytes], header: dict[str, Any], body: bytes) -> None:
    pipe.write(json.dumps({"bytes": len(body), **header}).encode() + b"\n" + body)
    pipe.flush()


def _read(pipe: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """The next header and its body; None at the end of the pipe."""
    line = pipe.readline()
    if not line.endswith(b"\n"):
        return None
    header = json.loads(line)
    body = pipe.read(header.pop("bytes"))
    return header, body
