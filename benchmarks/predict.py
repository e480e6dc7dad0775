"""Predictions of an archive, compared with decoding alone and with the model alone, in pairs that alternate.

    python benchmarks/predict.py --folder /tmp/predict_bench [--few 1000] [--many 4000] [--rounds 5] [--only files store memory]

Writes gray JPEG files of 512 px to --folder (which must not exist): `DIFFERENT` images, hard-linked to as many names as needed, and a
store of random images. Untrained models are as fast as trained ones. A rate is (many - few) / (seconds of many - seconds of few), so that
starts cancel. Of each round the ratio of the rates is printed, and that of the CPU seconds per image, which other load on the machine changes
less; then their medians.

    files    `cxr_ray.predict` of the folder with lenet at 28 (its own size) and at 64 px, and processes on all cores that only read and decode the
             same files to that size, by `imaging.decode`
    store    `cxr_ray.predict` of the store with resnet18 at 128 px, and the same predictor on batches that lie in memory
    memory   peak of the resident set of a process that predicts 2,000 files, and of one that predicts 20,000

The folder is deleted at the end.
"""

import argparse
import multiprocessing
import resource
import shutil
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from ingest import random_image
from PIL import Image

import cxr_ray
from cxr_ray.data import store_writer
from cxr_ray.datasets import DatasetInfo
from cxr_ray.imaging.decode import decode
from cxr_ray.runtime import machine

DIFFERENT = 300
LABELS = ("Edema", "Mass")
CHUNK = 50


def write_files(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for at in range(count):
        if at < DIFFERENT:
            Image.fromarray(random_image(rng)).save(folder / f"{at:06d}.jpg", quality=90)
        else:
            (folder / f"{at:06d}.jpg").hardlink_to(folder / f"{at % DIFFERENT:06d}.jpg")


def write_store(folder: Path, count: int, side: int) -> None:
    rng = np.random.default_rng(0)
    index = pd.DataFrame({"row": np.arange(count), "source_row": np.arange(count), "image": [f"{i}.png" for i in range(count)],
                          "patient": "p", "study": "s", "height": side, "width": side})  # fmt: skip
    for label in LABELS:
        index[label] = np.float32(0)
    images = rng.integers(0, 255, (count, side, side)).astype(np.uint8)
    store_writer.write(folder, images, index, DatasetInfo(labels=LABELS, task="multilabel", default_labels=LABELS))


def model(folder: Path, name: str, side: int) -> Path:
    path = folder / f"{name}-{side}.safetensors"
    if not path.exists():
        made = cxr_ray.create_model(name, num_outputs=len(LABELS), image_size=side)
        cxr_ray.save_model(path, made, labels=LABELS)
    return path


def cpu_seconds() -> float:
    """Of this process and of those that it has waited for."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def seconds(work: Callable[[], float | None]) -> tuple[float, float]:
    """Wall seconds and CPU seconds of `work`, which returns those of processes that go on."""
    start, before = time.perf_counter(), cpu_seconds()
    others = work()
    return time.perf_counter() - start, cpu_seconds() - before + (others or 0.0)


def quiet(line: str) -> None:
    pass


def predict(weights: Path, inputs: Path, out: Path) -> None:
    out.unlink(missing_ok=True)
    cxr_ray.predict(weights, inputs, out, log=quiet, gpu=False)


def decode_all(names: list[Path], side: int) -> float:
    """CPU seconds that it takes."""
    before = time.process_time()
    for name in names:
        decode(name.read_bytes(), (side, side))
    return time.process_time() - before


def decode_alone(pool: ProcessPoolExecutor, folder: Path, side: int) -> float:
    names = sorted(folder.iterdir())
    chunks = [names[at : at + CHUNK] for at in range(0, len(names), CHUNK)]
    return sum(pool.map(partial(decode_all, side=side), chunks))


Work = Callable[[int], float | None]


def compare(title: str, rounds: int, counts: tuple[int, int], ours: Work, other: Work) -> None:
    """`ours(count)` against `other(count)`, in turns."""
    few, many = counts
    found = []
    for number in range(rounds):
        turns = [(name, count) for count in counts for name in ("ours", "other")]
        turns = turns if number % 2 == 0 else turns[::-1]
        took = {(name, count): seconds(partial({"ours": ours, "other": other}[name], count)) for name, count in turns}
        wall, cpu = (
            {name: (took[name, many][at] - took[name, few][at]) / (many - few) for name in ("ours", "other")}
            for at in (0, 1)
        )
        found.append((1 / wall["ours"], 1 / wall["other"], wall["other"] / wall["ours"], cpu["other"] / cpu["ours"]))
        print("  {}: {:,.0f} and {:,.0f} images/s, ratio {:.3f}, by CPU {:.3f}".format(title, *found[-1]), flush=True)
    medians = [statistics.median(column) for column in zip(*found, strict=True)]
    print("{}: medians {:,.0f} and {:,.0f} images/s, ratio {:.3f}, by CPU {:.3f}".format(title, *medians), flush=True)


def files(folder: Path, counts: tuple[int, int], rounds: int) -> None:
    for count in counts:
        write_files(folder / f"files-{count}", count)
    with ProcessPoolExecutor(machine.cores(), mp_context=multiprocessing.get_context("spawn")) as pool:
        for side in (28, 64):
            decode_alone(pool, folder / f"files-{counts[0]}", side)  # starts the processes
            compare(
                f"files, lenet at {side} px",
                rounds,
                counts,
                partial(predict_files, folder, side),
                partial(decode_files, pool, folder, side),
            )


def predict_files(folder: Path, side: int, count: int) -> None:
    """Predict `count` files with a lenet of `side` pixels."""
    predict(model(folder, "lenet", side), folder / f"files-{count}", folder / "out.parquet")


def decode_files(pool: ProcessPoolExecutor, folder: Path, side: int, count: int) -> float:
    """Decode `count` files alone, to `side` pixels."""
    return decode_alone(pool, folder / f"files-{count}", side)


def store(folder: Path, counts: tuple[int, int], rounds: int, side: int = 128) -> None:
    for count in counts:
        write_store(folder / f"shards-{count}", count, side)
    weights = model(folder, "resnet18", side)
    predictor = cxr_ray.load_predictor(weights, gpu=False)
    batch = np.random.default_rng(0).integers(0, 255, (64, side, side)).astype(np.uint8)

    def alone(count: int) -> None:
        for at in range(0, count, len(batch)):
            predictor.probabilities(batch[: min(len(batch), count - at)])

    alone(200)
    compare(
        f"store, resnet18 at {side} px",
        rounds,
        counts,
        lambda count: predict(weights, folder / f"shards-{count}", folder / "out.parquet"),
        alone,
    )


def peak(weights: Path, inputs: Path, out: Path) -> float:
    """Peak MiB of this process, and of the largest of its decoders."""
    predict(weights, inputs, out)
    usage = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage) / 1024


def memory(folder: Path) -> None:
    weights = model(folder, "lenet", 64)
    found = {}
    for count in (2_000, 20_000):
        write_files(folder / f"many-{count}", count)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as one:
            found[count] = one.submit(peak, weights, folder / f"many-{count}", folder / "out.parquet").result()
        print(f"memory: {count:,} files, peak {found[count]:.0f} MiB", flush=True)
    print(f"memory: ratio {found[20_000] / found[2_000]:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--few", type=int, default=1000)
    parser.add_argument("--many", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=["files", "store", "memory"])
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True)
    try:
        if "files" in asked.only:
            files(asked.folder, (asked.few, asked.many), asked.rounds)
        if "store" in asked.only:
            store(asked.folder, (asked.few, asked.many), asked.rounds)
        if "memory" in asked.only:
            memory(asked.folder)
    finally:
        shutil.rmtree(asked.folder)


if __name__ == "__main__":
    main()
