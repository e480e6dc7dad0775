"""Takes the pictures of docs/pictures/ from the pages of a demo's run and of a sweep, in headless Chromium.

    cxr-ray demo --out demo
    python docs/pictures.py demo/runs/NAME/report.html runs/SWEEP/sweep.html

The pages are of synthetic X-rays. Needs `chromium` (or $CHROMIUM).
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

PICTURES = Path(__file__).parent / "pictures"
WIDTH, HEIGHT = 1100, 1400
FIRST = {"report": "", "sweep": "#hyperparameters"}
"""The section that is shown first; empty: the top of the page."""
"""Pixels of the window: what a reader sees first, on one and a half screens."""
COLORS = 128


def take(page: Path, picture: Path, first: str) -> None:
    """Write a page from its section `first` on as a small PNG with a palette. What is above is hidden: headless Chromium does not scroll."""
    with tempfile.TemporaryDirectory() as folder:
        shot, copy = Path(folder) / "shot.png", Path(folder) / "page.html"
        hidden = f"main > :has(~ {first}) {{ display: none }}" if first else ""
        copy.write_text(page.read_text(encoding="utf-8") + f"<style>{hidden}</style>", encoding="utf-8")
        command = [os.environ.get("CHROMIUM", "chromium"), "--headless", "--no-sandbox", "--hide-scrollbars"]
        command += [f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={shot}", copy.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        with Image.open(shot) as image:
            image.convert("RGB").quantize(COLORS).save(picture, optimize=True)


def main(report: str, sweep: str) -> None:
    """Take both pictures and print their sizes."""
    PICTURES.mkdir(exist_ok=True)
    for page, name in ((report, "report"), (sweep, "sweep")):
        picture = PICTURES / f"{name}.png"
        take(Path(page), picture, FIRST[name])
        print(f"{picture}: {picture.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main(*sys.argv[1:3])
