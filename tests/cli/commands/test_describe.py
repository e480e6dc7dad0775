"""`cxr-ray describe`: an image as text."""

import numpy as np

from cxr_ray.cli.commands.describe import SHADES, ascii_art


def test_text_gets_brighter_with_the_gray_values() -> None:
    ramp = np.tile(np.linspace(0, 255, 200, dtype=np.uint8), (100, 1))
    lines = ascii_art(ramp, columns=40).split("\n")
    assert len(lines) == 10  # 100 x 200 px in 40 columns of characters twice as high as wide
    assert len(set(lines)) == 1
    levels = [SHADES.index(c) for c in lines[0]]
    assert levels == sorted(levels)
    assert levels[-1] == len(SHADES) - 1
    small = ascii_art(np.full((3, 2), 255, np.uint8), columns=8)
    assert len(small.split("\n")[0]) == 8  # an image of fewer pixels than characters
