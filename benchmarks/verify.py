"""What `data.verify: background` costs: an epoch with it against one with `manifest`, and the rate of the check alone.

    python benchmarks/verify.py [--images 2000] [--model lenet] [--pairs 7] [--threads 1]

Noise in a temporary store of 224 px, from the page cache. The two sides alternate, and change their order from pair to pair. The fastest
models show the cost best: the bytes that are hashed are the same for all. CPU seconds count all threads, and depend less on other load.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from train import Timed, config

from cxr_ray import config as cfg
from cxr_ray.data import store as stores
from cxr_ray.data import store_check, store_writer
from cxr_ray.data.info import DatasetInfo
from cxr_ray.runs import Run
from cxr_ray.training import setup, trainer


class Ends(Timed):
    """Records when each epoch ended, in seconds of the clock and of the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: list[np.ndarray] = []

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        """Note the time."""
        self.ended.append(np.array([time.perf_counter(), time.process_time()]))


def noise(folder: Path, images: int) -> Path:
    """A store of two labels."""
    rng = np.random.default_rng(0)
    rows = np.arange(images)
    table = pd.DataFrame({"row": rows, "patient": rows.astype(str)})
    for label in ("one", "other"):
        table[label] = rng.integers(0, 2, images).astype(np.float32)
    pixels = rng.integers(0, 256, (images, 224, 224), np.uint8)
    return store_writer.write(folder, pixels, table, DatasetInfo(labels=("one", "other"), task="multilabel")).path


def first_epoch_s(store: Path, output: Path, name: str, verify: str, *, model: str, threads: int) -> np.ndarray:
    """Seconds (clock, CPU) from the end of epoch 0 to that of epoch 1, with its wait for the check and its checkpoint."""
    given = config(store, output, name, precision="auto", epochs=1, threads=threads)
    more = {"data": {"verify": verify}, "model": {"name": model}, "report": {"trackers": []}}
    opened, plan, settings = setup.prepare(cfg.validate(cfg.merge(given.model_dump(), more)))
    (output / name).mkdir()
    run = Run(output / name)
    run.update(status="started")
    context = Ends()
    trainer.fit(settings, plan, opened, context, run)
    return context.ended[1] - context.ended[0]


def main() -> None:
    """Print the pairs and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--model", default="lenet")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        store = noise(folder / "shards", args.images)
        started = time.perf_counter()
        store_check.ByteCheck(stores.open(store)).wait()
        alone_s = time.perf_counter() - started
        size = sum(entry.bytes for entry in stores.open(store).manifest.files.values())
        print(f"the check alone: {size / alone_s / 1e6:,.0f} MB/s, {args.images / alone_s:,.0f} images/s")
        ratios = []
        for pair in range(args.pairs + 1):  # the first one warms up
            sides = ["background", "manifest"] if pair % 2 else ["manifest", "background"]
            seconds = {
                side: first_epoch_s(store, folder, f"{side}{pair}", side, model=args.model, threads=args.threads)
                for side in sides
            }
            for side, (clock, cpu) in seconds.items():
                print(f"{side} {clock:.2f} s, CPU {cpu:.2f} s", flush=True)
            ratios.append(seconds["background"] / seconds["manifest"])
        for name, column in zip(("clock", "CPU"), np.array(ratios[1:]).T, strict=True):
            median = statistics.median(column)
            print(
                f"background / manifest, {name}: {median:.3f} ({min(column):.3f} to {max(column):.3f}, n {len(column)})"
            )


if __name__ == "__main__":
    main()
