"""A store of 100 random images in 6 shards, for the tests of the store modules."""

from pathlib import Path

import numpy as np
import pandas as pd

from cxr_ray.data import store_writer
from cxr_ray.data.info import DatasetInfo
from cxr_ray.data.store import Store
from cxr_ray.labels import Filter

H, W, N = 9, 13, 100
ROWS = np.sort(np.random.default_rng(3).choice(150, N, replace=False))  # with gaps: some records were refused
INFO = DatasetInfo(
    labels=("Edema", "Lung Opacity"),
    task="multilabel",
    groups={"both": ("Edema", "Lung Opacity")},
    filters=(Filter(name="frontal", query="view in ['PA', 'AP']"),),
    default_labels=("Edema",),
    features=("view",),
    notes=("made up",),
)


def pixels() -> np.ndarray:
    """uint8 [N, H, W]."""
    return np.random.default_rng(0).integers(0, 256, (N, H, W), dtype=np.uint8)


def table() -> pd.DataFrame:
    """Columns of the index that are not filled in."""
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "row": ROWS,
            "patient": [f"p{i // 3}" for i in range(N)],
            "view": rng.choice(["PA", "AP"], N),
            "study_number": rng.integers(1, 5, N),
            "Edema": rng.choice([1.0, 0.0, -1.0, np.nan], N).astype(np.float32),
            "Lung Opacity": rng.choice([1.0, 0.0], N).astype(np.float32),
        }
    )


def make(path: Path, info: DatasetInfo = INFO) -> Store:
    """Write the store to `path`."""
    boxes = pd.DataFrame({"row": [ROWS[0]], "label": ["Edema"], "x": [1.0], "y": [2.0], "w": [3.0], "h": [4.0]})
    return store_writer.write(path, pixels(), table(), info, shard_rows=17, boxes=boxes)
