"""Rates by image size, memory by number of rows, and how well two small runs predict one ten times larger.

    python benchmarks/scale.py ingesting|reading|networks|memory|listing|check --folder /tmp/scale_bench

ingesting: CPU time per image by source and stored size. reading: rows/s with the page cache cold and warm, and MB/s of hashing. networks: CPU
time per image of training and of predict, with one thread. memory: seconds and memory of the index, the plan, an epoch's order and an evaluation, by number of rows.
listing: of `image_folder`, by number of files. check: ingest, train, evaluate and predict of 1,000 and 4,000 images; the line
through both gives the time of 40,000, which is then measured. Rates are of CPU time, which other load changes less; every measurement is a new
process. The folder must not exist; it is deleted at the end.
"""
# N rows, L labels

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

LABELS = tuple(f"label {i}" for i in range(14))
SOURCES = {"390 x 320 JPEG": (390, 320, "jpg"), "1,024 px PNG": (1024, 1024, "png"), "2,544 x 3,056 JPEG": (2544, 3056, "jpg")}  # fmt: skip
"""Width, height, format: of CheXpert's small version, NIH, MIMIC-CXR."""
Found = dict[str, float]


# ---- what is measured, each in a process of its own


def ingest(folder: Path, count: int, side: int) -> Found:
    """Ingest the first `count` files of `folder`: CPU seconds of all processes."""
    from ingest import cpu_seconds

    from cxr_ray.datasets import DatasetInfo, Records, records_table
    from cxr_ray.on_ray import cluster
    from cxr_ray.on_ray.ingest import IngestSettings
    from cxr_ray.on_ray.ingest import ingest as run

    names = sorted(path.name for path in folder.iterdir() if path.is_file())[:count]
    table = records_table({"image": names}, {"a": np.arange(count) % 2}, rows=count)
    records = Records(table, DatasetInfo(labels=("a",), task="binary", default_labels=("a",)))
    out = folder.parent / "ingested"
    with cluster.session(None):
        before = cpu_seconds()
        run(records, folder, out, IngestSettings(source="bench", size=(side, side)))
        used = cpu_seconds() - before
    stored = sum(path.stat().st_size for path in out.iterdir())
    shutil.rmtree(out)
    return {"cpu seconds": used, "stored bytes": stored}


def read(store: Path, batch: int = 32) -> Found:
    """MB/s in random order from the disk, after the page cache has forgotten the files (wall time); rows/s from the page cache, and MB/s of hashing
    (CPU time)."""
    from cxr_ray.data import store as stores
    from cxr_ray.storage.atomic import sha256

    mb = sum(path.stat().st_size for path in store.iterdir()) / 1e6
    for path in store.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    found: Found = {}
    for kind, clock in (("cold", time.perf_counter), ("warm", time.process_time)):
        opened = stores.open(store)
        order = np.random.default_rng(1).permutation(opened.index["row"].to_numpy())
        started = clock()
        for at in range(0, len(order), batch):
            opened.images(order[at : at + batch])
        took = clock() - started
        found |= {"cold MB/s": mb / took} if kind == "cold" else {"warm rows/s": len(order) / took}
        del opened  # the pages of a mapped file stay in the cache
    started = time.process_time()
    for path in store.iterdir():
        sha256(path)
    return {**found, "hashed MB/s": mb / (time.process_time() - started)}


def train(store: Path, network: str) -> Found:
    """CPU seconds per image of the epochs after the first, with the trainer in this process and one thread."""
    from train import Timed

    from cxr_ray import config as cfg
    from cxr_ray.training import setup, trainer

    used: list[float] = []

    class Clock(Timed):
        def report(self, metrics: Any, checkpoint: Any) -> None:
            used.append(time.process_time())

    opened, plan, resolved = setup.prepare(cfg.validate({
        "name": f"run-{store.name}", "output": str(store.parent), "data": {"shards": str(store), "split": {"val": 0, "test": 0}},
        "model": {"name": network}, "train": {"epochs": 4, "batch_size": 32, "threads": 1},
    }))  # fmt: skip
    trainer.fit(resolved, plan, opened, Clock(), setup.open_run(resolved, opened, plan))
    return {"cpu seconds": float(np.median(np.diff(used))) / len(opened)}


def run(store: Path) -> Found:
    """CPU seconds of a training of two epochs of lenet, and of its evaluation with 100 resamples, baselines and report."""
    import cxr_ray

    started = time.process_time()
    trained = cxr_ray.train({
        "name": f"run-{store.name}", "output": str(store.parent), "data.shards": str(store), "model.name": "lenet",
        "train.epochs": 2, "train.batch_size": 32, "train.threads": 1, "report.bootstrap": 100, "report.trackers": [],
    })  # fmt: skip
    middle = time.process_time()
    cxr_ray.evaluate(trained)
    return {"train": middle - started, "evaluate": time.process_time() - middle}


def predict(store: Path, run: Path) -> Found:
    """CPU seconds of `cxr_ray.predict` of a store by a run, in the precision of its training."""
    import cxr_ray

    started = time.process_time()
    cxr_ray.predict(run, store, store.parent / f"{store.name}.parquet", log=lambda line: None, gpu=False)
    return {"cpu seconds": time.process_time() - started}


def index(store: Path) -> Found:
    """The index, the default plan and one epoch's order: seconds, and what the process holds after each, in bytes."""
    from cxr_ray import config
    from cxr_ray.data import loader, plan
    from cxr_ray.data import store as stores

    before, started = resident(), time.perf_counter()
    opened = stores.open(store)
    found = {"open s": time.perf_counter() - started, "index bytes": resident() - before}
    found["index.parquet bytes"] = (store / "index.parquet").stat().st_size
    started = time.perf_counter()
    built = plan.build(opened, config.validate({}).data, seed=0)
    found |= {"plan s": time.perf_counter() - started, "with plan bytes": resident() - before}
    started = time.perf_counter()
    loader.epoch_order(np.ones(len(built.rows["train"]), np.int64), seed=0, epoch=0)
    return found | {"order s": time.perf_counter() - started, "peak bytes": peak() - before}


def evaluate(rows: int, resamples: int) -> Found:
    """`evaluate_table` of `rows` rows and 14 labels, three images a patient."""
    from scipy.special import expit

    from cxr_ray.evaluation.prediction_table import EvaluationSettings, PredictionTable
    from cxr_ray.evaluation.results import evaluate_table

    rng = np.random.default_rng(0)
    truth_NL = (rng.random((rows, len(LABELS))) < 0.1).astype(np.float32)
    prob_NL = expit(rng.normal(size=truth_NL.shape) + truth_NL).astype(np.float32)
    columns = [f"true/{k}" for k in LABELS] + [f"prob/{k}" for k in LABELS]
    frame = pd.DataFrame(np.hstack([truth_NL, prob_NL]), columns=columns)
    frame.insert(0, "row", np.arange(rows))
    frame.insert(1, "patient", (np.arange(rows) // 3).astype(str))
    del truth_NL, prob_NL
    before, started = resident(), time.process_time()
    table = PredictionTable(frame, LABELS, "multilabel")
    evaluate_table(table, EvaluationSettings(bootstrap=resamples))
    return {"cpu seconds": time.process_time() - started, "peak bytes": peak() - before}


def listing(folder: Path) -> Found:
    """Records of a folder of images."""
    from cxr_ray import datasets

    before, started = resident(), time.process_time()
    rows = len(datasets.load("image_folder", folder).table)
    return {"cpu seconds": time.process_time() - started, "peak bytes": peak() - before, "rows": rows}


MEASURED: dict[str, Callable[..., Found]] = {
    f.__name__: f for f in (ingest, read, train, run, predict, index, evaluate, listing)
}


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak() -> int:
    """The most that it was, in bytes."""
    line = next(k for k in Path("/proc/self/status").read_text().splitlines() if k.startswith("VmHWM"))
    return int(line.split()[1]) * 1024  # not of getrusage, which starts at what the parent had at the fork


def measured(what: str, *arguments: Any) -> Found:
    """The result of a function of `MEASURED`, in a new process of one thread."""
    words = json.dumps([what, *(str(each) if isinstance(each, Path) else each for each in arguments)])
    one = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, __file__, "once", words], capture_output=True, text=True, env=one)
    if done.returncode:
        raise RuntimeError(f"{what} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


# ---- what it is measured on


def write_images(folder: Path, count: int, kind: tuple[int, int, str], *, different: int) -> Path:
    """`count` names of `different` gray images."""
    from ingest import random_image

    width, height, suffix = kind
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for at in range(count):
        path = folder / f"{at:07d}.{suffix}"
        if at < different:
            Image.fromarray(random_image(rng, max(width, height))[:height, :width]).save(path, quality=90)
        else:
            path.hardlink_to(folder / f"{at % different:07d}.{suffix}")
    return folder


def write_store(folder: Path, count: int, side: int) -> Path:
    """A store of `count` random images of `side` px, of one patient each."""
    from cxr_ray.data import store_writer
    from cxr_ray.data.info import DatasetInfo

    rng = np.random.default_rng(0)
    names = [f"patient{i // 3:07d}/study1/view{i % 3}_frontal.jpg" for i in range(count)]
    table = pd.DataFrame({"image": names, "patient": [f"patient{i // 3:07d}" for i in range(count)]})
    table["study"], table["view"], table["file_sha256"] = "study1", "PA", [f"{i:064x}" for i in range(count)]
    for label in LABELS:
        table[label] = (rng.random(count) < 0.1).astype(np.float32)
    images = rng.integers(0, 256, (count, side, side), dtype=np.uint8)
    info = DatasetInfo(labels=LABELS, task="multilabel", default_labels=LABELS)
    store_writer.write(folder, images, table, info, shard_rows=max(1, 2**25 // side**2))
    return folder


# ---- the parts


def ingesting(folder: Path) -> None:
    sides = {"390 x 320 JPEG": (224,), "1,024 px PNG": (224, 512), "2,544 x 3,056 JPEG": (224, 512)}
    for (name, kind), (few, many) in zip(SOURCES.items(), ((200, 1000), (100, 400), (30, 120)), strict=True):
        files = write_images(folder / "files", many, kind, different=few)
        size = statistics.mean(path.stat().st_size for path in files.iterdir())
        for side in sides[name]:
            short, long = measured("ingest", files, few, side), measured("ingest", files, many, side)
            each = (long["cpu seconds"] - short["cpu seconds"]) / (many - few)
            print(f"ingest {name} ({size / 1e3:.0f} kB) to {side}: {1e3 * each:.2f} ms CPU an image, "
                  f"{long['stored bytes'] / many:,.0f} bytes stored", flush=True)  # fmt: skip
        shutil.rmtree(files)


def reading(folder: Path) -> None:
    for side, count in ((64, 20_000), (224, 4_000), (512, 1_000)):
        store = write_store(folder / f"store-{side}", count, side)
        found = measured("read", store)
        print(f"store of {side} px: " + ", ".join(f"{k} {v:,.0f}" for k, v in found.items()), flush=True)


def networks(folder: Path) -> None:
    for network, side, count in (("lenet", 64, 2048), ("resnet18", 224, 128), ("densenet121", 224, 64), ("resnet18", 512, 32)):  # fmt: skip
        store = write_store(folder / f"train-{network}-{side}", count, side)
        small = write_store(folder / f"few-{network}-{side}", count // 4, side)
        step = measured("train", store, network)["cpu seconds"]
        run = folder / f"run-{store.name}"
        long, short = (measured("predict", each, run)["cpu seconds"] for each in (store, small))
        forward = (long - short) / (count - count // 4)
        print(f"{network} at {side} px: {1e3 * step:.2f} ms CPU an image to train, {1e3 * forward:.2f} to predict", flush=True)  # fmt: skip


def memory(folder: Path) -> None:
    for rows in (100_000, 1_000_000):
        store = write_store(folder / f"rows-{rows}", rows, 8)
        found = measured("index", store)
        print(f"{rows:,} rows: " + ", ".join(f"{k.removesuffix(' bytes')} {v:.2f} s" if k.endswith(" s") else f"{k} {v / rows:,.0f} a row" for k, v in found.items()), flush=True)  # fmt: skip
    for rows in (100_000, 1_000_000):
        found = measured("evaluate", rows, 20)
        each = found["peak bytes"] / rows
        print(
            f"evaluation of {rows:,} rows, 20 resamples: {found['cpu seconds']:.1f} s CPU, peak {each:,.0f} bytes a row",
            flush=True,
        )


def list_files(folder: Path) -> None:
    for count in (10_000, 100_000):
        for name in ("finding", "normal"):
            files = write_images(folder / f"{count}" / name, count // 2, (32, 32, "png"), different=count // 1000)
        found = measured("listing", files.parent)
        print(f"listing of {count:,} files: {found['cpu seconds']:.2f} s CPU, {found['peak bytes'] / count:,.0f} bytes a file", flush=True)  # fmt: skip


def check(folder: Path, few: int = 1000, many: int = 4000, times: int = 10) -> None:
    counts = (few, many, many * times)
    files = write_images(folder / "files", counts[-1], SOURCES["390 x 320 JPEG"], different=500)
    found: dict[int, Found] = {
        count: {"ingest": measured("ingest", files, count, 64)["cpu seconds"]} for count in counts
    }
    for count in counts:
        store = write_store(folder / f"check-{count}", count, 64)
        found[count] |= measured("run", store) | {
            "predict": measured("predict", store, folder / f"run-{store.name}")["cpu seconds"]
        }
    for stage in found[few]:
        low, high, measured_s = (found[count][stage] for count in counts)
        predicted = high + (high - low) / (many - few) * (counts[-1] - many)
        print(f"{stage}: {low:.2f} s CPU for {few:,}, {high:.2f} s for {many:,}: predicted {predicted:.1f} s for {counts[-1]:,}, "
              f"measured {measured_s:.1f} s, measured / predicted {measured_s / predicted:.2f}", flush=True)  # fmt: skip


PARTS: dict[str, Callable[[Path], None]] = {
    "ingesting": ingesting, "reading": reading, "networks": networks, "memory": memory, "listing": list_files, "check": check,
}  # fmt: skip


def main() -> None:
    """Run one part, or one measurement in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*PARTS, "once"])
    parser.add_argument("words", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    if asked.what == "once":
        name, *arguments = json.loads(asked.words)
        print(json.dumps(MEASURED[name](*[Path(a) if str(a).startswith("/") else a for a in arguments])))
        return
    asked.folder.mkdir(parents=True)
    try:
        PARTS[asked.what](asked.folder.absolute())
    finally:
        shutil.rmtree(asked.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
