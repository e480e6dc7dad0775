"""Images/s of `store.images(rows)` in random order: one thread, warm page cache, a store of 4 GiB or more.

    python benchmarks/store_gather.py --folder /tmp/store_gather [--gib 4.2] [--side 224] [--batch 32] [--epochs 5]

Writes the store to --folder (which must not exist), reads it once to warm the page cache, then measures epochs, each in a new
random order. The folder is deleted at the end.
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
from cxr_ray.data.info import DatasetInfo
from cxr_ray.data.store_format import ImageFormat
from cxr_ray.storage.atomic import sha256


def make(folder: Path, gib: float, side: int) -> stores.Store:
    """A store of random bytes, 32 MiB per shard."""
    rng = np.random.default_rng(0)
    per_shard = 2**25 // side**2
    count = -(-int(gib * 2**30) // (per_shard * side**2))
    folder.mkdir(parents=True)
    tables, files = [], {}
    for number in range(count):
        rows = np.arange(number * per_shard, (number + 1) * per_shard)
        images = rng.integers(0, 256, (per_shard, side, side), dtype=np.uint8)
        name, files[name] = store_writer.write_shard(folder, number, count, rows, images)
        tables.append(pd.DataFrame({"row": rows, "shard": number, "offset": rows - rows[0], "a": np.float32(0)}))
    store_writer.finish(
        folder,
        store_writer.Tables(pd.concat(tables)),
        DatasetInfo(labels=("a",), task="binary"),
        source="random",
        image_format=ImageFormat((side, side)),
        files=files,
    )
    return stores.open(folder)


def main() -> None:
    """Print one line per epoch and the medians, for a reused and for a new output array."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--gib", type=float, default=4.2)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=5)
    args = parser.parse_args()
    try:
        store = make(args.folder, args.gib, args.side)
        print(f"{store}, {len(store) * args.side**2 / 2**30:.2f} GiB", flush=True)
        for name in store.manifest.files:  # warm
            sha256(store.path / name)
        rng = np.random.default_rng(1)
        buffer = np.empty((args.batch, args.side, args.side), np.uint8)
        for reused in (True, False):
            store = stores.open(args.folder)  # a new memory map: the first epoch fills the page tables
            rates = []
            for epoch in range(args.epochs + 1):
                order = rng.permutation(store.index["row"].to_numpy())
                started = time.perf_counter()
                for at in range(0, len(order) - args.batch + 1, args.batch):
                    store.images(order[at : at + args.batch], buffer if reused else None)
                rate = (len(order) // args.batch * args.batch) / (time.perf_counter() - started)
                what = "reused out" if reused else "new out"
                print(
                    f"{what}, epoch {epoch}{' (page tables)' if epoch == 0 else ''}: {rate:,.0f} images/s", flush=True
                )
                rates.append(rate)
            print(f"{what}: first {rates[0]:,.0f}, median of the others {statistics.median(rates[1:]):,.0f} images/s")
    finally:
        shutil.rmtree(args.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
