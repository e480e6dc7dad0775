"""Large JPEGs: our decode (drafted at 1/2, 1/4 or 1/8) against plain Pillow and against a full decode of our own, in one run.

    python benchmarks/large_jpeg.py [--height 2320 --width 2828] [--size 224] [--pictures 6] [--rounds 7]

`pillow` is what a user would write: `Image.open(file).convert("L").resize((size, size))`, bicubic, its default; `full` is
the same with our bilinear. The three take turns on each picture, so that what else the machine does falls on all alike;
medians over rounds of the time for all pictures, and of the ratios. Pictures: a smooth field with bones' edges and grain.
"""

import argparse
import io
import statistics
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

from cxr_ray.imaging.decode import decode


def picture(height: int, width: int, seed: int) -> bytes:
    """A JPEG of quality 90 about as compressible as a radiograph."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.normal(120, 45, (14, 16)).astype(np.float32)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    ribs = 18 * np.sign(np.sin(np.linspace(0, 40, height)[:, None] + np.linspace(0, 6, width)))
    field = np.asarray(coarse) + ribs + rng.normal(0, 4, (height, width))
    file = io.BytesIO()
    Image.fromarray(np.clip(field, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def main() -> None:
    """Print milliseconds an image of each, the ratios, and how far the drafted pixels are from the full decode's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=2320)
    parser.add_argument("--width", type=int, default=2828)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--pictures", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    size = (options.size, options.size)
    files = [picture(options.height, options.width, seed) for seed in range(options.pictures)]

    def pillow(data: bytes, how: Image.Resampling = Image.Resampling.BICUBIC) -> npt.NDArray[np.uint8]:
        return np.asarray(Image.open(io.BytesIO(data)).convert("L").resize(size[::-1], how))

    ways: dict[str, Callable[[bytes], npt.NDArray[np.unsignedinteger]]] = {
        "ours": lambda data: decode(data, size).pixels,
        "pillow": pillow,
        "full": lambda data: pillow(data, Image.Resampling.BILINEAR),
    }
    far = [np.abs(ways["ours"](data).astype(int) - ways["full"](data)) for data in files]
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        took = dict.fromkeys(ways, 0.0)
        for data in files:
            for name, way in ways.items():
                started = time.perf_counter()
                way(data)
                took[name] += time.perf_counter() - started
        for name, seconds in took.items():
            spent[name].append(1000 * seconds / len(files))
    print(f"{options.width} x {options.height}, {np.mean([len(f) for f in files]) / 2**20:.2f} MiB, to {options.size}")
    for name, times in spent.items():
        print(f"{name:>7}: {statistics.median(times):6.1f} ms an image")
    for name in ("pillow", "full"):
        ratios = [other / mine for other, mine in zip(spent[name], spent["ours"], strict=True)]
        print(f"{name} / ours: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"gray values from the full decode: at most {max(int(d.max()) for d in far)}, mean {np.mean(far):.3f}")


if __name__ == "__main__":
    main()
