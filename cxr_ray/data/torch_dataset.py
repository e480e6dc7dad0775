"""A store's images and targets as a torch `Dataset`, for people's own loops. Our own training reads batches (loader.py)."""
# M samples, L labels, H x W pixels

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cxr_ray.data.plan import Plan
from cxr_ray.data.split import PARTS
from cxr_ray.errors import unknown


class PictureSource(Protocol):
    """What is needed of a store."""

    def pictures(self, rows: npt.ArrayLike) -> npt.NDArray[np.uint8]: ...


class StoreDataset(Dataset[tuple[Any, Tensor, int]]):
    """Samples (image, target, row) of one part of a plan, or of all parts. Can be pickled if its store and transform can.

    The image is uint8 [1, H, W], or what `transform` makes of it, and the target float32 [L] or an int64 class; see
    `Store.dataset`."""

    def __init__(
        self, store: PictureSource, plan: Plan, part: str | None, transform: Callable[[Any], Any] | None = None
    ) -> None:
        if part is not None and part not in PARTS:
            raise unknown("part", part, PARTS)
        parts = PARTS if part is None else (part,)
        repeats = {name: plan.repeats if name == "train" else np.ones(len(plan.rows[name]), np.int64) for name in parts}
        rows_M = np.concatenate([np.repeat(plan.rows[name], repeats[name]) for name in parts])
        targets_ML = np.concatenate([np.repeat(plan.truth[name], repeats[name], axis=0) for name in parts])
        order_M = np.argsort(rows_M, kind="stable")
        self.store = store
        self.transform = transform
        self.labels = plan.labels
        """Names of the targets, or of the classes, in order."""
        self.task = plan.task
        """multilabel, multiclass or binary."""
        self.rows = rows_M[order_M]
        """Row number of each sample [M], ascending."""
        self.targets = torch.from_numpy(targets_ML[order_M])
        """float32 [M, L], NaN if unknown; int64 [M] for classes."""
        if plan.task == "multiclass":
            self.targets = self.targets.argmax(dim=1)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> tuple[Any, Tensor, int]:
        row = int(self.rows[position])
        image: Any = torch.from_numpy(self.store.pictures([row]))  # [1, H, W]
        return image if self.transform is None else self.transform(image), self.targets[position], row
