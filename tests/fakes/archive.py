"""The images of a fake run's store as an archive of files: PNGs, DICOMs, a table of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

import cxr_ray
from tests.fakes import dicom
from tests.fakes.explained import store, trained


def files(folder: Path, count: int = 60, *, task: str = "multilabel") -> list[str]:
    """The first images of the store of `trained(task)` as PNGs, in folders. Returns their names."""
    shards = store(task)
    names = []
    for at, row in enumerate(shards.index["row"][:count]):
        name = f"{at // 10}/{row:05d}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(shards.images([row])[0]).save(folder / name)
        names.append(name)
    return names


def dicoms(folder: Path, count: int = 6, **tags: Any) -> list[Path]:
    """Images of the store as 16-bit DICOMs, two in each study, with the gray values of the store."""
    shards = store()
    made = []
    for at, row in enumerate(shards.index["row"][:count]):
        pixels = shards.images([row])[0].astype(np.uint16)
        study = {"StudyInstanceUID": f"1.2.3.{at // 2 + 1}", "SOPInstanceUID": f"1.2.3.{at // 2 + 1}.{at}"}
        window: dict[str, Any] = {"WindowCenter": 128, "WindowWidth": 256}
        made.append(dicom.write(folder / f"IM{at:03d}", pixels, **{**study, **window, **tags}))
    return made


def expected(rows: list[int] | np.ndarray, run: cxr_ray.Run | None = None) -> np.ndarray:
    """Probabilities [N, L] of store rows, by the predictor itself."""
    return cxr_ray.load_predictor(run or trained(), gpu=False)(store().images(rows))


def probabilities(table: pd.DataFrame) -> np.ndarray:
    """The columns of probabilities [N, L]."""
    return table.filter(regex="^prob/").to_numpy()
