"""Ray Data ingest against bare Ray tasks doing the same work and against plain Pillow processes, side by side in one run.

    python benchmarks/ingest.py --folder /tmp/ingest_bench [--few 2000] [--many 8000] [--rounds 5] [--cores 2]

Makes 512 px gray PNG files in --folder (which must not exist), `--different` pictures linked to as many names as needed,
so that the page cache holds them. Each round runs, one after the other:

    ingest   cxr_ray's ingest (Ray Data): decode, resize to 224, sha256, statistics, shards, parts, index, manifest
    tasks    as many bare Ray tasks as shards, each calling the very function that the ingest maps, then the same finish
    pillow   as many processes as cores; each opens, converts to L, resizes to 224 and takes np.asarray, nothing else

with `--few` and with `--many` images. The marginal rate is (many - few) / (seconds of many - seconds of few), so that the
start of Ray Data and of the processes cancels. Medians over the rounds are printed; the folder is deleted at the end.
Beside the seconds on the clock stand the processor seconds of this process and all below it (the workers, Ray's own
processes), which mean something on a machine that is busy with other work, too.
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

from cxr_ray.datasets import Records, records_table
from cxr_ray.on_ray import ingest as on_ray

SIDE = 224


def picture(rng: np.random.Generator, side: int = 512) -> npt.NDArray[np.uint8]:
    """A smooth field with fine noise, about as compressible as a radiograph: uint8 [side, side]."""
    coarse = Image.fromarray(rng.normal(120, 60, (12, 12)).astype(np.float32))
    field = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)) + rng.normal(0, 2.5, (side, side))
    return np.clip(field, 0, 255).astype(np.uint8)


def make(folder: Path, count: int, different: int) -> Records:
    """Records of `count` files: `different` pictures, the rest hard links to them."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    names = [f"{i:06d}.png" for i in range(count)]
    for i, name in enumerate(names):
        if i < different:
            Image.fromarray(picture(rng)).save(folder / name)
        else:
            (folder / name).hardlink_to(folder / names[i % different])
    table = records_table({"image": names}, {"a": np.arange(count) % 2}, rows=count)
    return Records(table, ("a",), "binary", {}, (), ("a",), (), (), None)


def head(records: Records, count: int) -> Records:
    """The first `count` records."""
    return Records(records.table.iloc[:count], ("a",), "binary", {}, (), ("a",), (), (), None)


def by_ingest(records: Records, root: Path, out: Path, cores: int) -> None:
    """The ingest itself."""
    on_ray.ingest(records, root, out, source="bench", size=(SIDE, SIDE))


def by_tasks(records: Records, root: Path, out: Path, cores: int) -> None:
    """The same work, Ray Data replaced by one `ray.remote` task a shard; the rest is the ingest's own."""

    def run(
        todo: list[tuple[int, int, int]], job: on_ray._Job, table: pd.DataFrame, task: on_ray.Task = on_ray._shard
    ) -> Iterator[dict[str, int]]:
        images = [on_ray.put_records(table)]  # in a list it travels as a reference, as it does to Ray Data's tasks
        begun = [ray.remote(task).remote(job, images, {"number": n, "start": a, "stop": b}) for n, a, b in todo]
        yield from ray.get(begun)

    held, on_ray._run = on_ray._run, run
    try:
        on_ray.ingest(records, root, out, source="bench", size=(SIDE, SIDE))
    finally:
        on_ray._run = held


def _pillow(paths: list[str]) -> int:
    total = 0
    for path in paths:
        with Image.open(path) as image:
            total += int(np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR))[0, 0])
    return total


def by_pillow(records: Records, root: Path, out: Path, cores: int) -> None:
    """Plain Pillow, a process a core, each with its share of the files."""
    paths = [str(root / name) for name in records.table["image"]]
    jobs = [multiprocessing.Process(target=_pillow, args=(paths[i::cores],)) for i in range(cores)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
        assert job.exitcode == 0


def processor_s() -> float:
    """Processor seconds so far of this process, of those below it that live, and of its own that have ended."""
    table: dict[int, tuple[int, float]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        table[int(entry.parent.name)] = (int(fields[1]), sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK"))
    ours = {os.getpid()}
    for _ in range(len(table)):
        more = {pid for pid, (parent, _) in table.items() if parent in ours} - ours
        if not more:
            break
        ours |= more
    return sum(table[pid][1] for pid in ours)


WAYS: dict[str, Callable[[Records, Path, Path, int], None]] = {
    "ingest": by_ingest,
    "tasks": by_tasks,
    "pillow": by_pillow,
}


def main() -> None:
    """Print seconds of every measurement and the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--few", type=int, default=2000)
    parser.add_argument("--many", type=int, default=8000)
    parser.add_argument("--different", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, default=2)
    options = parser.parse_args()
    folder, root = options.folder, options.folder / "images"
    try:
        records = make(root, options.many, options.different)
        ray.init(address="local", num_cpus=options.cores, include_dashboard=False, log_to_driver=False)
        started = time.perf_counter()
        _pillow([str(root / name) for name in records.table["image"][:200]])
        print(f"one picture in one process: {(time.perf_counter() - started) * 5:.2f} ms", flush=True)
        for way in ("ingest", "tasks"):  # workers started, imports done
            WAYS[way](head(records, 256), root, folder / "warm", options.cores)
            shutil.rmtree(folder / "warm")
        seconds: dict[tuple[str, int], list[float]] = {}
        processor: dict[tuple[str, int], list[float]] = {}
        for number in range(options.rounds):
            for count in (options.few, options.many):
                some = head(records, count)
                # the order turns, so that no way always meets the machine after the same other one
                names = list(WAYS)[number % 3 :] + list(WAYS)[: number % 3]
                for way in names:
                    used, started = processor_s(), time.perf_counter()
                    WAYS[way](some, root, folder / "out", options.cores)
                    seconds.setdefault((way, count), []).append(time.perf_counter() - started)
                    processor.setdefault((way, count), []).append(processor_s() - used)
                    shutil.rmtree(folder / "out", ignore_errors=True)
                told = ", ".join(
                    f"{way} {seconds[way, count][-1]:.2f} s ({processor[way, count][-1]:.2f} of processor)"
                    for way in WAYS
                )
                print(f"round {number + 1}, {count:,} images: {told}", flush=True)
        more = options.many - options.few
        marginal = {}
        for way in WAYS:
            few, many = seconds[way, options.few], seconds[way, options.many]
            marginal[way] = [more / (b - a) for a, b in zip(few, many, strict=True)]
            print(
                f"{way}: {options.few / statistics.median(few):,.0f} images/s at {options.few:,}, "
                f"{options.many / statistics.median(many):,.0f} at {options.many:,}, "
                f"marginal {statistics.median(marginal[way]):,.0f}"
            )
        for way in WAYS:
            pairs = zip(processor[way, options.few], processor[way, options.many], strict=True)
            each = [(b - a) / more * 1000 for a, b in pairs]
            print(
                f"{way}: {statistics.median(each):.2f} ms of processor an image, marginal ({', '.join(f'{e:.2f}' for e in each)})"
            )
        for count in (options.few, options.many):
            ratio = [b / a for a, b in zip(seconds["ingest", count], seconds["tasks", count], strict=True)]
            print(f"ingest / tasks at {count:,}: {statistics.median(ratio):.3f} of its rate")
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
