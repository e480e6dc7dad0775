"""A store on disk of synthetic images with patients, studies, ages, a group of labels, and one label that is not trained on."""

from pathlib import Path

import numpy as np

from cxr_ray.data import store as stores
from cxr_ray.data import store_writer
from cxr_ray.data.info import DatasetInfo
from tests.fakes.store import fake_store

LABELS = ("Edema", "Mass", "Tubes")


def write_store(
    folder: Path, *, seed: int, rows: int = 160, first_patient: int = 0, names: tuple[str, ...] = LABELS
) -> stores.Store:
    """Write it: two images per study, two studies per patient. The source excludes `Tubes` from training; `names` renames `LABELS`."""
    fake = fake_store(rows, labels=LABELS, size=(32, 32), seed=seed)
    table = fake.index.drop(columns=["mean", "variance"])
    table["patient"] = [f"p{first_patient + i // 4}" for i in range(rows)]
    table["study"] = [f"p{first_patient + i // 4}/s{i // 2}" for i in range(rows)]
    table["age"] = np.random.default_rng(seed).integers(20, 90, rows).astype(float)
    table["row"] = np.arange(rows) + 7
    table = table.rename(columns=dict(zip(LABELS, names, strict=True)))
    return store_writer.write(
        folder,
        fake.pixels,
        table,
        DatasetInfo(
            labels=names,
            task="multilabel",
            groups={"pair": names[:2]},
            default_labels=names[:2],
            features=("view", "sex"),
            notes=("made up",),
        ),
        source="fake",
        shard_rows=50,
    )
