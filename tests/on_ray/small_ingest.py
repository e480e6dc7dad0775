"""A source of 150 small images, three shards of them, and its ingest; some images are of odd kinds, some may be bad."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from cxr_ray.data.info import DatasetInfo
from cxr_ray.datasets import Records, records_table
from cxr_ray.labels import Filter
from cxr_ray.on_ray.ingest import (
    IngestResult,
    IngestSettings,
    ProgressCallback,
    ingest,
)

SIZE = (24, 32)


N = 150  # three shards: 64, 64, 22


def save(image: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def gray(seed: int, height: int = 40, width: int = 50) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


BAD: dict[int, tuple[Callable[[], bytes | None], str]] = {
    3: (lambda: save(gray(3))[:-400], "truncated"),
    70: (lambda: b"", "empty file"),
    71: (lambda: b"hello", "not an image"),
    72: (lambda: None, "file missing"),
    140: (
        lambda: save(Image.fromarray(gray(0)), "GIF", save_all=True, append_images=[Image.fromarray(gray(1))]),
        "several frames",
    ),
}


ODD: dict[int, Callable[[], bytes]] = {  # usable, each by its own rule
    10: lambda: save(np.linspace(2000, 6000, 2000).reshape(40, 50).astype(np.uint16)),
    11: lambda: save(np.dstack([gray(k) for k in range(4)])),
    12: lambda: save(Image.fromarray(gray(12)).convert("RGB").quantize(32)),
    13: lambda: save(gray(13), "JPEG"),
}


def make_records(root: Path, *, bad: bool = False) -> Records:
    root.mkdir(parents=True, exist_ok=True)
    for i in range(N):
        data: bytes | None = save(gray(i, 30 + i % 7, 50))
        if i in ODD:
            data = ODD[i]()
        if bad and i in BAD:
            data = BAD[i][0]()
        if data is not None:
            (root / f"{i:03d}.png").write_bytes(data)
    rng = np.random.default_rng(9)
    columns = {
        "image": [f"{i:03d}.png" for i in range(N)],
        "source_row": np.arange(N) + 1000,
        "patient": [f"p{i // 2}" for i in range(N)],
        "view": ["PA" if i % 3 else None for i in range(N)],
        "age": np.where(np.arange(N) % 5 == 0, np.nan, np.arange(N) % 90),
        "study_number": np.arange(N) % 4,
    }
    values = {name: rng.choice([1.0, 0.0, -1.0, np.nan], N) for name in ("A", "B")}
    boxes = pd.DataFrame({"row": [3, 5], "label": ["A", "B"], "x": [1.0, 2.0], "y": 1.0, "w": 9.0, "h": 8.0})
    return Records(
        records_table(columns, values, rows=N),
        DatasetInfo(
            labels=("A", "B"),
            task="multilabel",
            groups={"both": ("A", "B")},
            filters=(Filter(name="PA", query="view == 'PA'"),),
            default_labels=("A",),
            features=("view",),
            notes=("made up",),
        ),
        boxes=boxes,
    )


def run(
    records: Records, root: Path | str, out: Path | str, *, progress: ProgressCallback | None = None, **options: object
) -> IngestResult:
    """Ingest at 24 x 32 pixels; `options` are further settings."""
    settings = IngestSettings(**{"source": "made", "size": SIZE, **options})  # type: ignore[arg-type]
    return ingest(records, root, out, settings, progress=progress)


def content(folder: Path) -> dict[str, bytes]:
    """The bytes of every file below `folder`."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
