"""Ingest with Ray Data, compared with plain Ray tasks that do the same work and with plain Pillow processes, in one run.

    python benchmarks/ingest.py --folder /tmp/ingest_bench [--few 2000] [--many 8000] [--rounds 5] [--cores 2]

Writes gray PNG files of 512 px to --folder (which must not exist): `--different` images, hard-linked to as many names as
needed, so that they fit in the page cache. Each round runs, one after the other:

    ingest   cxr_ray's ingest (Ray Data): decode, resize to 224, sha256, statistics, shards, parts, index, manifest
    tasks    one plain Ray task per shard, each calling the same function that the ingest maps, then the same last step
    pillow   one process per core; each opens, converts to L, resizes to 224 and calls np.asarray, nothing else

with `--few` and with `--many` images. The marginal rate is (many - few) / (seconds of many - seconds of few), so that the
start of Ray Data and of the processes cancels. Prints medians over the rounds and deletes the folder at the end. CPU seconds
of this process and its descendants (workers, Ray's own processes) are printed with the wall time: other load on the machine
affects them less.
"""

import argparse
import multiprocessing
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import ray
from PIL import Image

from cxr_ray.datasets import DatasetInfo, Records, records_table
from cxr_ray.on_ray import ingest as on_ray
from cxr_ray.on_ray import ingest_shards

SIDE = 224


def random_image(rng: np.random.Generator, side: int = 512) -> npt.NDArray[np.uint8]:
    """A smooth field with fine noise, about as compressible as a radiograph: uint8 [side, side]."""
    coarse = Image.fromarray(rng.normal(120, 60, (12, 12)).astype(np.float32))
    field = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)) + rng.normal(0, 2.5, (side, side))
    return np.clip(field, 0, 255).astype(np.uint8)


def make(folder: Path, count: int, different: int) -> Records:
    """Records of `count` files: `different` images, the rest hard links to them."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    names = [f"{i:06d}.png" for i in range(count)]
    for i, name in enumerate(names):
        if i < different:
            Image.fromarray(random_image(rng)).save(folder / name)
        else:
            (folder / name).hardlink_to(folder / names[i % different])
    table = records_table({"image": names}, {"a": np.arange(count) % 2}, rows=count)
    return Records(table, DatasetInfo(labels=("a",), task="binary", default_labels=("a",)))


def head(records: Records, count: int) -> Records:
    """The first `count` records."""
    return Records(records.table.iloc[:count], DatasetInfo(labels=("a",), task="binary", default_labels=("a",)))


def by_ingest(records: Records, root: Path, out: Path, cores: int) -> None:
    """The ingest itself."""
    on_ray.ingest(records, root, out, on_ray.IngestSettings(source="bench", size=(SIDE, SIDE)))


def by_tasks(records: Records, root: Path, out: Path, cores: int) -> None:
    """The same work with one `ray.remote` task per shard instead of Ray Data; the rest is the ingest's own code."""

    def run(
        todo: list[ingest_shards.ShardRange],
        job: ingest_shards.ShardJob,
        table: pd.DataFrame,
        task: ingest_shards.Task = ingest_shards.ingest_shard,
    ) -> Iterator[dict[str, int]]:
        paths = ray.put(ingest_shards.image_paths(table))
        started = [ray.remote(task).remote(job, paths, shard) for shard in todo]
        yield from ray.get(started)

    original, on_ray.run_shards = on_ray.run_shards, run
    try:
        on_ray.ingest(records, root, out, on_ray.IngestSettings(source="bench", size=(SIDE, SIDE)))
    finally:
        on_ray.run_shards = original


def _pillow(paths: list[str]) -> int:
    total = 0
    for path in paths:
        with Image.open(path) as image:
            total += int(np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR))[0, 0])
    return total


def by_pillow(records: Records, root: Path, out: Path, cores: int) -> None:
    """Plain Pillow, one process per core, each with its share of the files."""
    paths = [str(root / name) for name in records.table["image"]]
    jobs = [multiprocessing.Process(target=_pillow, args=(paths[i::cores],)) for i in range(cores)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
        assert job.exitcode == 0


def cpu_seconds() -> float:
    """CPU seconds so far of this process, of its living descendants, and of its children that have ended."""
    table: dict[int, tuple[int, float]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:  # the process has ended
            continue
        table[int(entry.parent.name)] = (int(fields[1]), sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK"))
    ours = {os.getpid()}
    for _ in range(len(table)):
        more = {pid for pid, (parent, _) in table.items() if parent in ours} - ours
        if not more:
            break
        ours |= more
    return sum(table[pid][1] for pid in ours)


METHODS: dict[str, Callable[[Records, Path, Path, int], None]] = {
    "ingest": by_ingest,
    "tasks": by_tasks,
    "pillow": by_pillow,
}


def main() -> None:
    """Print every measurement and the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--few", type=int, default=2000)
    parser.add_argument("--many", type=int, default=8000)
    parser.add_argument("--different", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, default=2)
    args = parser.parse_args()
    folder, root = args.folder, args.folder / "images"
    try:
        records = make(root, args.many, args.different)
        ray.init(address="local", num_cpus=args.cores, include_dashboard=False, log_to_driver=False)
        started = time.perf_counter()
        _pillow([str(root / name) for name in records.table["image"][:200]])
        print(f"one image in one process: {(time.perf_counter() - started) * 5:.2f} ms", flush=True)
        for method in ("ingest", "tasks"):  # warm-up: start workers, import
            METHODS[method](head(records, 256), root, folder / "warm", args.cores)
            shutil.rmtree(folder / "warm")
        seconds: dict[tuple[str, int], list[float]] = {}
        cpu: dict[tuple[str, int], list[float]] = {}
        for number in range(args.rounds):
            for count in (args.few, args.many):
                some = head(records, count)
                # Rotate the order, so that no way always runs after the same other one.
                names = list(METHODS)[number % 3 :] + list(METHODS)[: number % 3]
                for method in names:
                    used, started = cpu_seconds(), time.perf_counter()
                    METHODS[method](some, root, folder / "out", args.cores)
                    seconds.setdefault((method, count), []).append(time.perf_counter() - started)
                    cpu.setdefault((method, count), []).append(cpu_seconds() - used)
                    shutil.rmtree(folder / "out", ignore_errors=True)
                measured = ", ".join(
                    f"{method} {seconds[method, count][-1]:.2f} s ({cpu[method, count][-1]:.2f} s CPU)"
                    for method in METHODS
                )
                print(f"round {number + 1}, {count:,} images: {measured}", flush=True)
        more = args.many - args.few
        marginal = {}
        for method in METHODS:
            few, many = seconds[method, args.few], seconds[method, args.many]
            marginal[method] = [more / (b - a) for a, b in zip(few, many, strict=True)]
            print(
                f"{method}: {args.few / statistics.median(few):,.0f} images/s at {args.few:,}, "
                f"{args.many / statistics.median(many):,.0f} at {args.many:,}, "
                f"marginal {statistics.median(marginal[method]):,.0f}"
            )
        for method in METHODS:
            pairs = zip(cpu[method, args.few], cpu[method, args.many], strict=True)
            each = [(b - a) / more * 1000 for a, b in pairs]
            print(
                f"{method}: {statistics.median(each):.2f} ms CPU per image, marginal ({', '.join(f'{e:.2f}' for e in each)})"
            )
        for count in (args.few, args.many):
            ratio = [b / a for a, b in zip(seconds["ingest", count], seconds["tasks", count], strict=True)]
            print(f"ingest / tasks at {count:,}: {statistics.median(ratio):.3f} (ratio of rates)")
        for baseline in ("tasks", "pillow"):
            ratio = [a / b for a, b in zip(marginal["ingest"], marginal[baseline], strict=True)]
            print(
                f"ingest / {baseline}, marginal: {statistics.median(ratio):.3f} (rounds: {', '.join(f'{r:.3f}' for r in ratio)})"
            )
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
