"""`cxr-ray phantom`: synthetic X-rays on disk."""

import shlex
from pathlib import Path

from cyclopts import App

from cxr_ray.cli.progress import Progress

app = App(name="phantom", help_format="markdown")


@app.default
def phantom(out: Path, /, *, patients: int = 500, size: int = 256, seed: int = 0) -> None:
    """Write synthetic chest X-rays to disk, in a documented layout.

    Ribs, lungs, heart and diaphragm with findings, several labels an image, patients with several studies.
    The same arguments write the same bytes. They are drawings for trying and testing, not anatomy.

    Parameters
    ----------
    out
        Folder to write; its README says what is in it.
    patients
        How many patients; each has one to several images.
    size
        Height and width in pixels.
    seed
        Keys every draw.
    """
    from cxr_ray.datasets.phantom import generate as drawing

    with Progress("phantom") as progress:
        drawing.write(out, patients=patients, size=size, seed=seed, progress=lambda done, all_: progress(done, all_, 0))
    print(f"phantom: {out.resolve()}")
    print(f"next: cxr-ray ingest phantom {shlex.quote(str(out))} shards/phantom --size {min(size, 224)}")
