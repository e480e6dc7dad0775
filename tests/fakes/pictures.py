"""Small images for the fakes."""

from pathlib import Path

import numpy as np
from PIL import Image


def picture(path: Path, number: int = 0, size: tuple[int, int] = (24, 20)) -> Path:
    """Write a gray image of `size` (width, height) to `path`. Each `number` gives another image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0]), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path
