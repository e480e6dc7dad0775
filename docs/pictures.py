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
"""Pixels of the window: what a reader sees first, on one and a half screens."""
COLORS = 128


def take(page: Path, picture: Path) -> None:
    """Write the top of a page as a small PNG with a palette."""
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        command = [os.environ.get("CHROMIUM", "chromium"), "--headless", "--no-sandbox", "--hide-scrollbars"]
        command += [f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={shot}", page.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        with Image.open(shot) as image:
            image.convert("RGB").quantize(COLORS).save(picture, optimize=True)


def main(report: str, sweep: str) -> None:
    """Take both pictures and print their sizes."""
    PICTURES.mkdir(exist_ok=True)
    for page, name in ((report, "report"), (sweep, "sweep")):
        picture = PICTURES / f"{name}.png"
        take(Path(page), picture)
        print(f"{picture}: {picture.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main(*sys.argv[1:3])
