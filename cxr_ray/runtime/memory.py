"""Memory: how many rows fit a device at once, what to do if a batch does not, pinned host memory, and the heap of the process."""

import ctypes
import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cxr_ray.errors import OutOfMemory, UserError

MMAP_THRESHOLD, TRIM_THRESHOLD = 32 * 2**20, 512 * 2**20
"""Bytes: allocations from which on glibc maps memory of their own (32 MiB is the most it allows), and free memory at the end of the heap
that it keeps."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


PIXELS_AT_ONCE = 16 * 224 * 224
"""Of the images that a forward pass on a CPU takes together. With more, activations leave the caches and are new memory each time: 64
images of 224 px took 1.1 (vit_b_16) to 1.7 times (densenet121) the time of 4 x 16, 64 of 512 px 1.5 times that of 16 x 4 (resnet18, bf16;
benchmarks/README.md, `forward`)."""


def keep_heap() -> None:
    """Let this process keep the memory that a step frees for the next one.

    glibc gives free memory at the end of its heap back to the system, so that every step of a small network gets its activations as new
    pages: a quarter of the time of a LeNet at 64 pixels. Does nothing on a system without glibc, and where MALLOC_TRIM_THRESHOLD_ or
    MALLOC_MMAP_THRESHOLD_ is set."""
    own = any(f"MALLOC_{name}_THRESHOLD_" in os.environ for name in ("TRIM", "MMAP"))
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if own or mallopt is None:
        return
    mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)
    mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD)


def rows_that_fit(step: Callable[[int], None], most: int) -> int:
    """The first of `most`, half of it, a quarter, ... rows that `step` processes without running out of device memory.

    Raises `UserError` if not even one row fits."""
    rows = most
    while True:
        try:
            step(rows)
        except torch.OutOfMemoryError:
            if rows == 1:
                raise UserError(
                    "not one image of this size fits the device's memory with this model: use a smaller model.name or "
                    "data.image_size"
                ) from None
        else:
            return rows
        rows = -(-rows // 2)
        gc.collect()  # the frames of the error still reference the tensors
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def parts_for(device: torch.device, images_NHW: npt.NDArray[Any], size: tuple[int, int]) -> list[npt.NDArray[Any]]:
    """A batch [N, H, W] as a forward pass on `device` should take it, with images resized to `size`: a GPU whole, a CPU in parts of at
    most `PIXELS_AT_ONCE`. At least one part, which may be empty."""
    count = max(1, len(images_NHW))
    rows = max(1, PIXELS_AT_ONCE // (size[0] * size[1])) if device.type == "cpu" else count
    return [images_NHW[at : at + rows] for at in range(0, count, rows)]


@contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Around a training step: raises `OutOfMemory`, which says how to fix it, if the device memory is too small."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(
            "a worker's share of the batch does not fit its device's memory: set train.micro_batch to auto (the batch size stays "
            "the same), or use a smaller data.image_size"
        ) from error


def pin_for(device: torch.device) -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]]:
    """Moves pixels to where `device` copies them from: pinned memory for a GPU, which it reads asynchronously (`non_blocking`)."""
    return pin if device.type == "cuda" else np.asarray


def pin(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A copy in pinned (page-locked) memory."""
    pinned: npt.NDArray[Any] = torch.from_numpy(array).pin_memory().numpy()
    return pinned
