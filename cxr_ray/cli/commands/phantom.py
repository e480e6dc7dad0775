"""`cxr-ray phantom`: writes synthetic X-rays. Drawing them is in datasets.phantom."""

import shlex
from pathlib import Path

from cyclopts import App

from cxr_ray.cli import next_steps
from cxr_ray.runtime.progress import Progress

app = App(name="phantom", help_format="markdown")


@app.default
def phantom(out: Path, /, *, patients: int = 500, size: int = 256, seed: int = 0) -> None:
    """Write synthetic chest X-rays to disk, in a documented layout.

    The images show ribs, lungs, heart and diaphragm with findings; they have several labels, and patients have several studies.
    The same arguments give the same bytes. The images are drawings for trying out and testing, not anatomy.

    Parameters
    ----------
    out
        Folder to write; its README describes the content.
    patients
        Number of patients; each has one or more images.
    size
        Height and width of the images in pixels.
    seed
        Seed of all random numbers.
    """
    from cxr_ray.datasets.phantom import generate as drawing

    with Progress("phantom", "patients") as progress:
        drawing.write(out, patients=patients, size=size, seed=seed, progress=progress)
    print(f"phantom: {out.resolve()}")
    store = next_steps.written("shards/phantom", near=out.absolute())
    next_steps.show(f"cxr-ray ingest phantom {shlex.quote(str(out))} {shlex.quote(store)} --size {min(size, 224)}")
