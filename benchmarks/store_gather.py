"""Images/s of `store.images(rows)` in exact random order: one thread, warm page cache, a store of 4 GiB or more.

    python benchmarks/store_gather.py --folder /tmp/store_gather [--gib 4.2] [--side 224] [--batch 32] [--epochs 5]

Makes the store in --folder (which must not exist), reads it once to warm the page cache, then times epochs, each in a
fresh random order; the folder is deleted at the end.
"""

import argparse
import shutil
import statistics
import time
from pathlib import Path

import numpy as np
import pandas as pd

from cxr_ray.data import store as stores
from cxr_ray.data import store_writer


def make(folder: Path, gib: float, side: int) -> stores.Store:
    """A store of random bytes: 32 MiB a shard."""
    rng = np.random.default_rng(0)
    a_shard = 2**25 // side**2
    count = -(-int(gib * 2**30) // (a_shard * side**2))
    folder.mkdir(parents=True)
    tables, files = [], {}
    for number in range(count):
        rows = np.arange(number * a_shard, (number + 1) * a_shard)
        pictures = rng.integers(0, 256, (a_shard, side, side), dtype=np.uint8)
        name, files[name] = store_writer.write_shard(folder, number, count, rows, pictures)
        tables.append(pd.DataFrame({"row": rows, "shard": number, "offset": rows - rows[0], "a": np.float32(0)}))
    store_writer.finish(
        folder, pd.concat(tables), source="random", labels=["a"], task="binary", size=(side, side), files=files
    )
    return stores.open(folder)


def main() -> None:
    """Print one line an epoch and the medians, for a reused and for fresh output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--gib", type=float, default=4.2)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    try:
        store = make(options.folder, options.gib, options.side)
        print(f"{store}, {len(store) * options.side**2 / 2**30:.2f} GiB", flush=True)
        for name in store.manifest.files:  # warm
            stores.file_sha256(store.path / name)
        rng = np.random.default_rng(1)
        held = np.empty((options.batch, options.side, options.side), np.uint8)
        for reused in (True, False):
            store = stores.open(options.folder)  # maps anew: the first epoch pays for the page tables
            rates = []
            for epoch in range(options.epochs + 1):
                order = rng.permutation(store.index["row"].to_numpy())
                started = time.perf_counter()
                for at in range(0, len(order) - options.batch + 1, options.batch):
                    store.images(order[at : at + options.batch], held if reused else None)
                rate = (len(order) // options.batch * options.batch) / (time.perf_counter() - started)
                what = "reused out" if reused else "fresh out"
                print(
                    f"{what}, epoch {epoch}{' (page tables)' if epoch == 0 else ''}: {rate:,.0f} images/s", flush=True
                )
                rates.append(rate)
            print(f"{what}: first {rates[0]:,.0f}, median of the others {statistics.median(rates[1:]):,.0f} images/s")
    finally:
        shutil.rmtree(options.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
