"""Memory of a device: how many rows fit in it at once, and pages that it can copy from by itself."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cxr_ray.errors import OutOfMemory, UserError


def rows_that_fit(step: Callable[[int], None], most: int) -> int:
    """The first of `most`, half of it, half of that, ... rows that `step` takes without running out of the device's memory.

    Raises `UserError` where not even one does."""
    rows = most
    while True:
        try:
            step(rows)
        except torch.OutOfMemoryError:
            if rows == 1:
                raise UserError(
                    "not one image of this size fits the device's memory with this model: take a smaller model.name or "
                    "data.image_size"
                ) from None
        else:
            return rows
        rows = -(-rows // 2)
        gc.collect()  # the error's frames hold what was computed
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@contextmanager
def enough() -> Iterator[None]:
    """A step. Raises `OutOfMemory`, which says the mend, where the device's memory does not hold it."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(
            "a worker's share of the batch does not fit its device's memory: set train.micro_batch to auto (the batch stays what it "
            "is), or take a smaller data.image_size"
        ) from error


def holder(device: torch.device) -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]]:
    """Lays pixels where the device copies them from: for a GPU in pinned pages, which it reads beside its work (`non_blocking`)."""
    return pinned if device.type == "cuda" else np.asarray


def pinned(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A copy in pages that stay in place."""
    held: npt.NDArray[Any] = torch.from_numpy(array).pin_memory().numpy()
    return held
