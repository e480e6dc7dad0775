"""Peak memory of an ingest with few and with many small images.

    python benchmarks/ingest_memory.py --folder /tmp/ingest_memory [--few 5000] [--many 50000] [--side 64] [--cores 2]

Writes PNG files to --folder (which must not exist): `--different` images, hard-linked to as many names as needed. Each count
is ingested in its own process with its own Ray. Every 0.2 s the proportional set size (memory of a process, with its share of
shared memory, the object store included) of that process, of Ray's workers and of all of Ray is read from /proc. Prints the
maximum of each, and the ratio of many to few.
"""

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image


def make(folder: Path, count: int, side: int, different: int) -> None:
    """Write `count` names of `different` images with a coarse field and fine noise."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i in range(count):
        path = folder / f"{i:06d}.png"
        if i < different:
            coarse = Image.fromarray(rng.normal(120, 60, (8, 8)).astype(np.float32)).resize((side, side))
            Image.fromarray(np.clip(np.asarray(coarse) + rng.normal(0, 3, (side, side)), 0, 255).astype(np.uint8)).save(
                path
            )
        else:
            path.hardlink_to(folder / f"{i % different:06d}.png")


def descendants(root: int) -> dict[int, str]:
    """Process `root` and its descendants, with their command lines."""
    parent, command = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                command[int(entry.name)] = (
                    (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
            except (OSError, IndexError):
                continue
    results = {root}
    while more := {pid for pid, above in parent.items() if above in results} - results:
        results |= more
    return {pid: command.get(pid, "") for pid in results}


def pss_mib(pid: int) -> float:
    """Proportional set size of a process in MiB; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def measure(folder: Path, count: int, side: int, cores: int) -> None:
    """Ingest the first `count` files in this process and print the peaks as JSON."""
    import os

    from cxr_ray.datasets import DatasetInfo, Records, records_table
    from cxr_ray.on_ray import cluster
    from cxr_ray.on_ray.ingest import IngestSettings, ingest

    table = records_table({"image": [f"{i:06d}.png" for i in range(count)]}, {"a": np.arange(count) % 2}, rows=count)
    records = Records(table, DatasetInfo(labels=("a",), task="binary", default_labels=("a",)))
    peak = {"driver": 0.0, "workers": 0.0, "all": 0.0}
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.2):
            memory = {pid: (pss_mib(pid), command) for pid, command in descendants(os.getpid()).items()}
            now = {
                "driver": memory.get(os.getpid(), (0.0, ""))[0],
                "workers": sum(mib for mib, command in memory.values() if command.startswith("ray::")),
                "all": sum(mib for mib, _ in memory.values()),
            }
            peak.update({name: max(peak[name], mib) for name, mib in now.items()})

    with cluster.session(None, num_cpus=cores):
        thread = threading.Thread(target=sample)
        thread.start()
        made = ingest(
            records, folder / "images", folder / f"store-{count}", IngestSettings(source="bench", size=(side, side))
        )
        done.set()
        thread.join()
    print(json.dumps({"rows": made.rows, "seconds": made.seconds, **peak}), flush=True)


def main() -> None:
    """Print one line per count, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--few", type=int, default=5000)
    parser.add_argument("--many", type=int, default=50_000)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--different", type=int, default=300)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.folder, args.measure, args.side, args.cores)
        return
    try:
        make(args.folder / "images", args.many, args.side, args.different)
        results = []
        for count in (args.few, args.many):
            started = time.perf_counter()
            out = subprocess.run(
                [sys.executable, __file__, "--folder", str(args.folder), "--measure", str(count), "--side", str(args.side), "--cores", str(args.cores)],
                capture_output=True, text=True, check=True,
            ).stdout.splitlines()[-1]  # fmt: skip
            results.append(json.loads(out))
            peaks = ", ".join(f"{name} {results[-1][name]:,.0f} MiB" for name in ("driver", "workers", "all"))
            print(f"{results[-1]['rows']:,} images: {peaks} ({time.perf_counter() - started:.0f} s)", flush=True)
        few, many = results
        print(
            "many / few: " + ", ".join(f"{name} {many[name] / few[name]:.3f}" for name in ("driver", "workers", "all"))
        )
    finally:
        shutil.rmtree(args.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
