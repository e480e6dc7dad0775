"""Small trained runs whose store is on disk, for exports; what an exported file gives where cxr_ray cannot be imported."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cxr_ray import runs
from cxr_ray.data import store as stores
from tests.fakes.store import fake_store
from tests.fakes.trainings import config, fit, write_store

READ_PT2 = """
import sys
sys.modules["cxr_ray"] = None  # an import of it, or of its modules, fails
import json, numpy as np, torch
file, images, out, *sizes = sys.argv[1:]
about = {"metadata.json": ""}
program = torch.export.load(file, extra_files=about).module()
images = torch.from_numpy(np.load(images))
found = [torch.cat([program(part) for part in images.split(int(size))]).detach().numpy() for size in sizes]
np.save(out, np.stack(found))
print(about["metadata.json"])
"""


def trained_run(
    folder: Path, *, real: Path | None = None, images: int = 40, size: int = 32, **sections: Any
) -> runs.Run:
    """A run of one epoch on a store on disk of `images` images; with `real`, a folder of image files, they are its first ones."""
    fake = fake_store(images, size=(size, size))
    if real is not None:
        files = sorted(p for p in real.iterdir() if p.suffix == ".png")[:images]
        fake.pixels = np.stack(
            [np.asarray(Image.open(p).convert("L").resize((size, size), Image.Resampling.BILINEAR)) for p in files]
        )
    store = stores.open(write_store(folder / "store", fake))
    run = fit(config(folder / "runs", **{"train": {"epochs": 1}, **sections}), store)
    described = {"path": str(store.path), "fingerprint": store.fingerprint, "rows": len(store), "source": "fake"}
    run.update(store={**run.info["store"], **described}, prevalence=runs.prevalence(store, runs.plan_of(run, store)))
    return run


def onnx_probabilities(file: Path, images: np.ndarray, batch_sizes: Sequence[int]) -> list[np.ndarray]:
    """What onnxruntime gives, in batches of each of these sizes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return [
        np.concatenate([session.run(None, {"images": images[at : at + n]})[0] for at in range(0, len(images), n)])
        for n in batch_sizes
    ]


def pt2_probabilities(file: Path, images: np.ndarray, batch_sizes: Sequence[int]) -> tuple[list[np.ndarray], str]:
    """What torch gives in a process that cannot import cxr_ray, in batches of each of these sizes, and the metadata of the file."""
    given, out = file.with_suffix(".images.npy"), file.with_suffix(".out.npy")
    np.save(given, images)
    words = [str(file), str(given), str(out), *map(str, batch_sizes)]
    done = subprocess.run([sys.executable, "-c", READ_PT2, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(np.load(out)), done.stdout
