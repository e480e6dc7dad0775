"""Decoding of large JPEGs (drafted at 1/2, 1/4 or 1/8), compared with plain Pillow and with a full decode, in one run.

    python benchmarks/large_jpeg.py [--height 2320 --width 2828] [--size 224] [--pictures 6] [--rounds 7]

`pillow` is what a user would write: `Image.open(file).convert("L").resize((size, size))`, bicubic, its default. `full` is the
same with bilinear, as in cxr_ray. The three alternate on each image, so that other load on the machine affects all of them.
Prints medians over rounds of the time for all images, and of the ratios. Images: a smooth field with edges and grain.
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


def random_jpeg(height: int, width: int, seed: int) -> bytes:
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
    """Print milliseconds per image, the ratios, and the difference between the drafted and the fully decoded pixels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=2320)
    parser.add_argument("--width", type=int, default=2828)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--pictures", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    size = (args.size, args.size)
    files = [random_jpeg(args.height, args.width, seed) for seed in range(args.pictures)]

    def pillow(data: bytes, resampling: Image.Resampling = Image.Resampling.BICUBIC) -> npt.NDArray[np.uint8]:
        return np.asarray(Image.open(io.BytesIO(data)).convert("L").resize(size[::-1], resampling))

    methods: dict[str, Callable[[bytes], npt.NDArray[np.unsignedinteger]]] = {
        "ours": lambda data: decode(data, size).pixels,
        "pillow": pillow,
        "full": lambda data: pillow(data, Image.Resampling.BILINEAR),
    }
    differences = [np.abs(methods["ours"](data).astype(int) - methods["full"](data)) for data in files]
    times_ms: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(args.rounds):
        total_s = dict.fromkeys(methods, 0.0)
        for data in files:
            for name, method in methods.items():
                started = time.perf_counter()
                method(data)
                total_s[name] += time.perf_counter() - started
        for name, seconds in total_s.items():
            times_ms[name].append(1000 * seconds / len(files))
    print(f"{args.width} x {args.height}, {np.mean([len(f) for f in files]) / 2**20:.2f} MiB, to {args.size}")
    for name, times in times_ms.items():
        print(f"{name:>7}: {statistics.median(times):6.1f} ms per image")
    for name in ("pillow", "full"):
        ratios = [other / mine for other, mine in zip(times_ms[name], times_ms["ours"], strict=True)]
        print(f"{name} / ours: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(
        f"difference to the full decode in gray values: at most {max(int(d.max()) for d in differences)}, mean {np.mean(differences):.3f}"
    )


if __name__ == "__main__":
    main()
