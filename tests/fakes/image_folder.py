"""A fake image folder: ROOT/CLASS/name.png, or ROOT/SPLIT/CLASS/name.png."""

from collections.abc import Mapping
from pathlib import Path

from tests.fakes.pictures import picture


def write(
    root: Path, classes: Mapping[str, int], *, splits: tuple[str, ...] = (), pattern: str = "p{patient}_{i}.png"
) -> Path:
    """`classes`: number of images of each class (in every split). Each patient has two images, named by `pattern`."""
    number = 0
    for split in splits or ("",):
        for name, count in classes.items():
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                picture(root / split / name / pattern.format(patient=number // 2, i=i), number)
                number += 1
    return root
