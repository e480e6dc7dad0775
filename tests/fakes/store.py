"""A store in memory: images whose bands show their labels, and an index like that of `Store`."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from cxr_ray.data.info import DatasetInfo


@dataclass
class FakeStore:
    """What plan, loader and trainer need of a store; nothing on disk."""

    index: pd.DataFrame
    pixels: np.ndarray
    info: DatasetInfo

    def __post_init__(self) -> None:
        self.size = self.pixels.shape[1:]
        self._position = dict(zip(self.index["row"], range(len(self.index)), strict=True))

    @property
    def labels(self) -> tuple[str, ...]:
        return self.info.labels

    @property
    def task(self) -> str:
        return self.info.task

    def declare(self, **fields: object) -> None:
        """Change fields of `info`."""
        self.info = self.info.model_copy(update=fields)

    def images(self, rows, out=None):
        found = self.pixels[[self._position[int(r)] for r in rows]] if len(rows) else self.pixels[:0]
        if out is None:
            return found.copy()
        out[...] = found
        return out


def fake_store(
    rows: int = 60,
    labels: tuple[str, ...] = ("Edema", "Mass", "Effusion"),
    *,
    task: str = "multilabel",
    size: tuple[int, int] = (28, 28),
    seed: int = 0,
    images_a_patient: int = 2,
    unknown: float = 0.0,
    uncertain: float = 0.0,
) -> FakeStore:
    """`rows` images in bands, one per label, bright if the label is positive. Row numbers have gaps (3, 6, ...)."""
    rng = np.random.default_rng(seed)
    if task == "multiclass":
        raw = np.eye(len(labels), dtype=np.float32)[rng.integers(len(labels), size=rows)]
    else:
        raw = (rng.random((rows, len(labels))) < np.linspace(0.5, 0.2, len(labels))).astype(np.float32)
    height, width = size
    pixels = rng.integers(0, 90, (rows, height, width)).astype(np.uint8)
    for j in range(len(labels)):
        band = slice(j * height // len(labels), (j + 1) * height // len(labels))
        pixels[:, band] += (raw[:, j, None, None] * 120).astype(np.uint8)
    noisy = raw.copy()
    noisy[rng.random(raw.shape) < unknown] = np.nan
    noisy[rng.random(raw.shape) < uncertain] = -1
    index = pd.DataFrame(
        {
            "row": np.arange(1, rows + 1) * 3,
            "source_row": np.arange(rows),
            "image": [f"images/{i}.png" for i in range(rows)],
            "patient": [f"p{i // images_a_patient}" for i in range(rows)],
            "study": "s1",
            "view": rng.choice(["AP", "PA"], rows),
            "sex": rng.choice(["F", "M"], rows),
            "split": None,
            "mean": pixels.mean(axis=(1, 2)),
            "variance": pixels.var(axis=(1, 2)),
        }
    )
    index = pd.concat([index, pd.DataFrame(noisy, columns=list(labels))], axis=1)
    return FakeStore(
        index, pixels, DatasetInfo(labels=labels, task=task, default_labels=labels, features=("view", "sex"))
    )
